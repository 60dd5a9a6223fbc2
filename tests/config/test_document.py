from __future__ import annotations

import math

import pytest

from gpubackprop.config.document import UNKNOWN, Mark, Problems, parse


def read(text):
    problems = Problems()
    node = parse(text, "a.yaml", problems)
    assert not problems, list(problems)
    return node


def mistakes(text):
    problems = Problems()
    parse(text, "a.yaml", problems)
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e-3", 0.001),
        ("2E5", 2e5),
        (".5", 0.5),
        ("-3.", -3.0),
        ("+7", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("-.inf", -math.inf),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("!!str 3", "3"),
        ("1e", "1e"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    found = read(f"a: {text}").plain()["a"]
    assert found == value
    assert type(found) is type(value)


def test_every_key_and_value_knows_its_place():
    node = read("data:\n  path: x\nmodel:\n  - linear: [1, 2]\n")
    assert node.key("model") == Mark("a.yaml", 3, 1)
    assert node.value["data"].key("path") == Mark("a.yaml", 2, 3)
    assert node.value["data"].value["path"].mark == Mark("a.yaml", 2, 9)
    assert node.value["model"].value[0].value["linear"].value[1].mark == Mark("a.yaml", 4, 17)


def test_references_read_the_environment(monkeypatch):
    monkeypatch.setenv("GBP_DIR", "/data")
    monkeypatch.setenv("GBP_N", "3")
    text = """
whole: ${GBP_N}
quoted: "${GBP_N}"
part: ${GBP_DIR}/${GBP_UNSET:x y}/mnist
default: ${GBP_UNSET:1e-3}
empty: ${GBP_UNSET:}
flow: {lr: ${GBP_UNSET:0.1}, list: [${GBP_N}, ${GBP_UNSET:a, b: #c}]}
literal: $${GBP_N} and $GBP_N
"""
    assert read(text).plain() == {
        "whole": 3,
        "quoted": "3",
        "part": "/data/x y/mnist",
        "default": 0.001,
        "empty": None,
        "flow": {"lr": 0.1, "list": [3, "a, b: #c"]},
        "literal": "${GBP_N} and $GBP_N",
    }


def test_references_leave_the_columns_as_they_are():
    node = read("a: {b: ${GBP_UNSET:{x}, c: 2}")
    assert node.value["a"].value["c"].mark == Mark("a.yaml", 1, 28)


def test_an_unset_variable_is_named_and_its_value_unknown():
    problems = Problems()
    node = parse("a:\n  b: x${GBP_UNSET}", "a.yaml", problems)
    (line,) = map(str, problems)
    assert line.startswith("a.yaml:2:6: a.b: environment variable GBP_UNSET is not set")
    assert "${GBP_UNSET:value}" in line
    assert node.value["a"].value["b"].value is UNKNOWN


def test_an_alias_repeats_its_anchor():
    assert read("a: &x [1, 2]\nb: *x").plain() == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3", "a.yaml:3:1: a: duplicate key; it stands at a.yaml:1:1"),
        ("x:\n  - {a: 1, a: 2}", "a.yaml:2:12: x.0.a: duplicate key"),
        ("a: [1, 2", "not valid YAML"),
        ("a: 1\n\tb: 2", "a.yaml:2:1: not valid YAML"),
        ("a: b: c", "a.yaml:1:5: not valid YAML"),
        ("a: *nowhere", "a.yaml:1:4: a: alias *nowhere has no anchor"),
        ("a: &x [*x]", "a.yaml:1:8: a.0: alias *x contains itself"),
        ("a: !!python/object/apply:os.system [ls]", "a.yaml:1:4: a: tag"),
        ("base: &b {x: 1}\na:\n  <<: *b", "a.yaml:3:3: a.<<: merge keys"),
        ("? [1, 2]\n: 3", "a.yaml:1:3: a key must be a plain word"),
        ("a: 1\n---\nb: 2", "a.yaml:2:1: a config is one YAML document"),
        ("a: " + "[" * 200 + "]" * 200, "nested deeper than 100"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_what_yaml_does_not_allow_is_one_line_with_its_place(text, line):
    (found,) = mistakes(text)
    assert line in found
    assert "\n" not in found


def test_aliases_of_aliases_do_not_explode():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (found,) = mistakes("\n".join(lines))
    assert "more than 100,000 values" in found
