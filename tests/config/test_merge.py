from __future__ import annotations

import pytest

from gpubackprop.config.document import Problems
from gpubackprop.config.merge import read


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


def merged(path="a.yaml"):
    problems = Problems()
    node = read(path, problems)
    assert not problems, list(problems)
    return node


def mistakes(path="a.yaml"):
    problems = Problems()
    assert read(path, problems) is None
    return [str(problem) for problem in problems]


def test_mappings_merge_lists_and_scalars_replace(folder):
    folder(
        base="training: {epochs: 5, clip_norm: 1}\nmodel: [relu, linear]\nseed: 1",
        a="extends: base.yaml\ntraining: {epochs: 6}\nmodel: [tanh]\nseed: 2",
    )
    assert merged().plain() == {"training": {"epochs": 6, "clip_norm": 1}, "model": ["tanh"], "seed": 2}


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ("{type: sgd, lr: 1, momentum: 2}", "{lr: 3}", {"type": "sgd", "lr": 3, "momentum": 2}),
        ("{type: sgd, lr: 1}", "{type: sgd, momentum: 2}", {"type": "sgd", "lr": 1, "momentum": 2}),
        ("{type: sgd, lr: 1}", "{type: adam, betas: [0, 0]}", {"type": "adam", "betas": [0, 0]}),
        ("{type: sgd, lr: 1}", "adam", "adam"),
        ("sgd", "{lr: 3}", {"type": "sgd", "lr": 3}),
        ("sgd", "{type: adam, lr: 3}", {"type": "adam", "lr": 3}),
        ("{lr: 1}", "{type: sgd}", {"type": "sgd"}),
    ],
)
def test_another_type_drops_the_old_options(folder, base, over, result):
    folder(base=f"optimizer: {base}", a=f"extends: base.yaml\noptimizer: {over}")
    assert merged().plain() == {"optimizer": result}


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ("{epochs: 5, accumulate: 2}", "{steps: 9}", {"accumulate": 2, "steps": 9}),
        ("{steps: 9}", "{epochs: 5}", {"epochs": 5}),
        ("{epochs: 5}", "{epochs: 6, steps: 9}", {"epochs": 6, "steps": 9}),
        ("{epochs: 5}", "{steps: null}", {"epochs": 5, "steps": None}),
    ],
)
def test_steps_and_epochs_replace_each_other(folder, base, over, result):
    folder(base=f"training: {base}", a=f"extends: base.yaml\ntraining: {over}")
    assert merged().plain() == {"training": result}


def test_chains_are_relative_to_the_file_that_names_them_and_keep_its_places(folder):
    folder(a="extends: sub/b.yaml\nx: {p: 1}", sub__b="extends: ../c.yaml\nx:\n  q: 2", c="x: {r: 3}\ny: 4")
    node = merged()
    assert node.plain() == {"x": {"p": 1, "q": 2, "r": 3}, "y": 4}
    assert str(node.value["x"].value["q"].mark) == "sub/b.yaml:3:6"
    assert str(node.value["x"].key("r")) == "c.yaml:1:5"


def test_a_circle_is_a_problem(folder):
    folder(a="extends: b.yaml", b="x: 1\nextends: a.yaml")
    assert mistakes() == ["b.yaml:2:10: extends: a.yaml extends itself in a circle; remove one of the extends"]


def test_a_missing_base_is_reported_where_it_is_named(folder):
    folder(a="x: 1\nextends: bsae.yaml", base="x: 1")
    assert mistakes() == ["a.yaml:2:10: extends: bsae.yaml: no such file; similar: base.yaml"]


def test_a_base_must_be_one_path(folder):
    folder(a="extends: [x.yaml]")
    assert mistakes() == ["a.yaml:1:10: extends: must be the path of one config file, got a list"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("digit.yaml", "digit.yaml: no such file; similar: digits.yaml"),
        ("nowhere/a.yaml", "nowhere/a.yaml: no such file; the folder nowhere does not exist"),
        ("sub", "sub: is a folder, not a config file; in it: sub/x.yaml"),
        ("binary", "binary: not a text file (byte 0 is not UTF-8); a config is YAML text"),
        ("empty", "empty:1:1: the file is empty; a config is a mapping"),
        ("list", "list:1:1: got a list; a config is a mapping"),
        ("word", "word:1:1: got 'word'; a config is a mapping"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(folder, tmp_path, path, line):
    folder(digits="x: 1", sub__x="y: 1")
    (tmp_path / "binary").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "list").write_text("- a\n")
    (tmp_path / "word").write_text("word\n")
    (found,) = mistakes(path)
    assert found.startswith(line)
    assert "\n" not in found
