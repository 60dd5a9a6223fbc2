from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from gpubackprop.config.check import BAD, Checker
from gpubackprop.config.document import Problems, parse
from gpubackprop.config.signature import Pattern
from gpubackprop.errors import ConfigError
from gpubackprop.registry import Fraction, Positive, PositiveFloat, Range
from tests.config import toys
from tests.config.toys import Layer, layers


def node(text):
    problems = Problems()
    found = parse(f"x: {text}" if "\n" not in text else f"x:\n{text}", "a.yaml", problems)
    assert not problems, list(problems)
    return found.value["x"]


def check(text, annotation):
    """(value, problems without their places)."""
    problems = Problems()
    value = Checker(problems).value(node(text), annotation, "x")
    return value, [f"{problem.key}: {problem.message}" for problem in problems]


def layer(text):
    problems = Problems()
    found = Checker(problems).component(node(text), layers, "x", entry=True)
    return found, [str(problem) for problem in problems]


def build(text):
    found, problems = layer(text)
    assert not problems
    return found.build()


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "3", 3),
        (float, "3", 3.0),
        (float, "1e-3", 0.001),
        (str, "no", "no"),
        (bool, "true", True),
        (str | None, "null", None),
        (list[float], "[1, 2.5]", [1.0, 2.5]),
        (tuple[int, int], "[1, 2]", (1, 2)),
        (tuple[float, ...], "[1, 2, 3]", (1.0, 2.0, 3.0)),
        (int | tuple[int, int], "[1, 2]", (1, 2)),
        (int | float, "2.5", 2.5),
        (Fraction | str, "data/x", "data/x"),
        (dict[str, float], "{a: 1}", {"a": 1.0}),
        (Literal["epoch"] | Positive, "epoch", "epoch"),
        (Literal["epoch"] | Positive, "7", 7),
        (Literal[1, 2], "2", 2),
        (Any, "{a: [1, b]}", {"a": [1, "b"]}),
        (list[list[int]], "[[1], []]", [[1], []]),
    ],
)
def test_good_values(annotation, text, value):
    found, problems = check(text, annotation)
    assert problems == []
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "problem"),
    [
        (int, "'3'", "x: must be an integer, got '3'"),
        (int, "true", "x: must be an integer, got true"),
        (int, "3.0", "x: must be an integer, got 3.0"),
        (float, "fast", "x: must be a number, got 'fast'"),
        (float, "true", "x: must be a number, got true"),
        (float, ".nan", "x: must be a number, got nan"),
        (float, ".inf", "x: must be a number, got inf"),
        (bool, "no", "x: must be true or false, got 'no'"),
        (bool, "1", "x: must be true or false, got 1"),
        (str, "3", "x: must be a text, got 3"),
        (int, "null", "x: must be an integer, got nothing"),
        (int, "[1]", "x: must be an integer, got a list"),
        (int, "{a: 1}", "x: must be an integer, got a mapping"),
        (Positive, "0", "x: must be at least 1, got 0"),
        (Positive, "0.5", "x: must be an integer (at least 1), got 0.5"),
        (PositiveFloat, "-1e-3", "x: must be greater than 0, got -0.001"),
        (Fraction, "1.5", "x: must be at least 0 and less than 1, got 1.5"),
        (Positive | None, "0", "x: must be at least 1, got 0"),
        (Positive | None, "'1'", "x: must be an integer (at least 1) or null, got '1'"),
        (Fraction | str, "1.5", "x: must be at least 0 and less than 1, got 1.5"),
        (Fraction | str, "[]", "x: must be a number (at least 0 and less than 1) or a text, got an empty list"),
        (Literal["concat", "add"], "conact", "x: must be one of concat, add, got 'conact'; did you mean 'concat'?"),
        (Literal["epoch"] | Positive, "epochs", "x: must be epoch or an integer (at least 1), got 'epochs'"),
        (Literal["epoch"] | Positive, "0", "x: must be at least 1, got 0"),
        (Literal[1], "true", "x: must be 1, got true"),
        (list[int], "3", "x: must be a list of integers, got 3"),
        (list[int], "[1, two]", "x.1: must be an integer, got 'two'"),
        (tuple[int, int], "[1, 2, 3]", "x: must be a list of 2 integers, got a list"),
        (int | tuple[Positive, Positive], "[1, 0]", "x.1: must be at least 1, got 0"),
        (
            Positive | tuple[Positive, Positive],
            "same",
            "x: must be an integer (at least 1) or a list of 2 integers (at least 1), got 'same'",
        ),
        (tuple[float, ...], "1", "x: must be a list of numbers, got 1"),
        (list[list[int]], "1", "x: must be a list, got 1"),
        (Annotated[int | list[int] | None, Range(ge=1)], "0", "x: must be at least 1, got 0"),
        (dict[str, float], "{a: b}", "x.a: must be a number, got 'b'"),
        (Annotated[str, Pattern("a+", "some a's")], "aab", "x: must be some a's, got 'aab'"),
    ],
)
def test_bad_values(annotation, text, problem):
    value, problems = check(text, annotation)
    assert value is BAD
    assert len(problems) == 1
    assert problems[0].startswith(problem)


@pytest.mark.parametrize(
    "text",
    ["linear: 10", "{linear: 10}", "linear: {out_features: 10}", "{type: linear, out_features: 10}"],
)
def test_every_form_of_an_entry(text):
    assert build(f"  {text}\n" if not text.startswith("{") else text) == toys.Linear(None, 10)


@pytest.mark.parametrize("text", ["relu", "{relu: }", "{relu: {}}", "{type: relu}"])
def test_every_form_without_options(text):
    assert build(text) == toys.ReLU()


def test_an_inferred_option_may_be_given():
    assert build("{linear: {in_features: 4, out_features: 2, bias: false}}") == toys.Linear(4, 2, False)


def test_keyword_only_and_union_options():
    built = build("{conv2d: {out_channels: 4, kernel_size: [3, 5], padding: same, groups: 2}}")
    assert built == toys.Conv2d(None, 4, (3, 5), padding="same", groups=2)


def test_containers_take_lists_of_entries():
    built = build("{residual: [relu, {linear: 3}]}")
    assert built == toys.Residual([toys.ReLU(), toys.Linear(None, 3)])
    built = build("{residual: {layers: [relu], shortcut: [{linear: 3}]}}")
    assert built == toys.Residual([toys.ReLU()], [toys.Linear(None, 3)])
    assert build("{sequential: [relu, relu]}") == toys.Sequential(toys.ReLU(), toys.ReLU())
    assert build("{sequential: {layers: [relu]}}") == toys.Sequential(toys.ReLU())
    built = build("{parallel: {branches: [[relu], [{linear: 1}]], join: add}}")
    assert built == toys.Parallel([[toys.ReLU()], [toys.Linear(None, 1)]], "add")


def test_a_layer_takes_a_name():
    assert build("{linear: {out_features: 3, name: head}}").name == "head"
    assert build("{type: relu, name: act}").name == "act"


def test_a_single_component_by_name_or_type_and_nested():
    found, problems = check("{type: warmup, steps: 5, after: {type: cosine, floor: 1}}", toys.Schedule | None)
    assert not problems
    assert found.build() == toys.Warmup(5, toys.Cosine(None, 1.0))
    assert check("cosine", toys.Schedule | None)[0].build() == toys.Cosine(None)
    assert check("null", toys.Schedule | None) == (None, [])


def test_given_arguments_are_handed_in_and_are_no_options():
    found, _ = check("{type: adam, betas: [0.5, 0.6]}", toys.Optimizer)
    params = [object()]
    assert found.build(params) == toys.Adam(params, betas=(0.5, 0.6))
    _, problems = check("{type: adam, params: 3}", toys.Optimizer)
    assert problems == ["x.params: unknown option of adam; allowed: lr, betas, no_decay"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{lineer: 10}", "a.yaml:1:5: x.lineer: unknown layer 'lineer'; known: conv2d, dropout, linear"),
        ("{linear: 0}", "a.yaml:1:13: x.linear.out_features: must be at least 1, got 0"),
        ("linear", "a.yaml:1:4: x.linear.out_features: missing; linear needs it: an integer (at least 1)"),
        ("{linear: {}}", "a.yaml:1:5: x.linear.out_features: missing"),
        ("{relu: 3}", "a.yaml:1:11: x.relu: 'relu' takes no options, got 3"),
        ("{relu: {slope: 1}}", "a.yaml:1:12: x.relu.slope: unknown option of relu; there are none"),
        (
            "{linear: {out_feature: 3, out_features: 3}}",
            "a.yaml:1:14: x.linear.out_feature: unknown option of linear; allowed: in_features, out_features, bias; "
            "did you mean 'out_features'?",
        ),
        ("{linear: , out_features: 3}", "a.yaml:1:4: x: an entry is one NAME, NAME: value or NAME: {options}, got"),
        ("3", "a.yaml:1:4: x: must be a layer, got 3"),
        ("[relu]", "a.yaml:1:4: x: must be a layer, got a list"),
        ("{type: 3}", "a.yaml:1:11: x: type must be the name of a layer, got 3"),
        ("{linear: {out_features: 1, name: 0}}", "a.yaml:1:37: x.linear.name: must be a name of letters"),
        ("{linear: {out_features: 1, name: a.b}}", "x.linear.name: must be a name of letters"),
        (
            "{conv2d: {out_channels: 3, kernel_size: 1, groups: 2}}",
            "a.yaml:1:5: x.conv2d: out_channels 3 is not divisible by groups 2",
        ),
        ("{residual: [relu, {linear: 0}]}", "a.yaml:1:31: x.residual.layers.1.linear.out_features: must be at least 1"),
        ("{residual: relu}", "a.yaml:1:15: x.residual.layers: must be a list of layers, got 'relu'; write [relu]"),
    ],
)
def test_each_mistake_of_an_entry_stands_where_it_is(text, line):
    problems = Problems()
    Checker(problems).value(node(text), Layer, "x", entry=True)
    (found,) = map(str, problems)
    assert line in found
    assert "\n" not in found


def test_a_single_component_without_a_type_says_what_to_write():
    _, problems = check("{adam: {lr: 1}}", toys.Optimizer)
    assert problems == ["x: an optimizer is NAME or {type: NAME, …}, type is missing; write adam, or {type: adam, …}"]
    _, problems = check("{lr: 1}", toys.Optimizer)
    assert problems == ["x: an optimizer is NAME or {type: NAME, …}, type is missing; known: adam, sgd"]


def test_names_are_unique_within_a_list():
    _, problems = check("[{type: relu, name: a}, {type: relu, name: b}, {type: relu, name: a}]", list[Layer])
    assert problems == ["x.2.relu.name: 'a' is the name of x.0.relu already; names in a list are unique"]


def test_what_can_be_made_of_a_broken_component_is_made():
    found, problems = layer("{linear: {out_features: 3, bias: 5, extra: 1}}")
    assert len(problems) == 2
    assert found.broken
    assert found.build() == toys.Linear(None, 3)
    assert layer("{relu: 3}")[0].broken
    assert layer("{type: relu, name: 3}")[0].broken
    assert layer("{linear: {out_features: 0}}")[0] is None
    assert layer("nothing")[0] is None
    assert layer("{residual: [{linear: {out_features: 3, bias: 5}}]}")[0].broken


def test_entries_keep_their_places_around_one_that_cannot_be_made():
    problems = Problems()
    found = Checker(problems).entries(node("[relu, {linear: 0}, relu]"), layers, "model")
    assert [each and each.type for each in found] == ["relu", None, "relu"]
    assert len(problems) == 1


def test_a_value_that_is_unknown_already_is_no_second_mistake():
    problems = Problems()
    found = parse("x: {linear: {out_features: ${GBP_UNSET}, bias: 3}}", "a.yaml", problems).value["x"]
    assert Checker(problems).component(found, layers, "x", entry=True) is None
    assert [problem.key for problem in problems] == ["x.linear.out_features", "x.linear.bias"]


def test_a_constructor_that_refuses_at_build_names_the_component():
    found, problems = check("{type: sgd, momentum: -1.0}", toys.Optimizer)
    assert not problems  # it cannot be tried without its parameters
    with pytest.raises(ConfigError, match=r"^a.yaml:1:11: x: momentum must not be negative, got -1.0$"):
        found.build([])


def test_options_may_be_split_over_two_signatures():
    problems = Problems()
    text = "{type: idx, path: data, batch_size: 8, transforms: [{normalize: 0.5}]}"
    found = Checker(problems).component(node(text), toys.sources, "data", common=toys.DataOptions)
    assert not problems
    assert found.build() == toys.Idx("data")
    assert found.common.build() == toys.DataOptions(batch_size=8, transforms=[toys.Normalize(0.5)])


def test_a_mistake_in_the_common_options_leaves_the_component_whole():
    problems = Problems()
    text = "{type: idx, path: data, batch_size: 0, transforms: [{normalize: x}, flip]}"
    found = Checker(problems).component(node(text), toys.sources, "data", common=toys.DataOptions)
    assert len(problems) == 2
    assert not found.broken
    assert found.common.broken
    assert found.common.build() == toys.DataOptions(transforms=[toys.Normalize(), toys.Flip()])


def test_mistakes_in_two_signatures_are_told_once():
    problems = Problems()
    text = "{type: idx, pth: data, batch_size: 0, transfroms: []}"
    found = Checker(problems).component(node(text), toys.sources, "data", common=toys.DataOptions)
    assert found is None
    assert [f"{p.where}: {p.key}" for p in problems] == [
        "a.yaml:1:11: data.path",
        "a.yaml:1:16: data.pth",
        "a.yaml:1:39: data.batch_size",
        "a.yaml:1:42: data.transfroms",
    ]
    assert all("did you mean" in p.message for p in problems if p.key in ("data.pth", "data.transfroms"))


@dataclass
class Inner:
    a: Positive = 1


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


def test_a_dataclass_is_a_mapping_of_its_fields():
    found, problems = check("{maybe: {a: 2}}", Outer)
    assert not problems
    assert found.build() == Outer(Inner(1), Inner(2))
    assert check("{inner: {b: 2}}", Outer)[1] == ["x.inner.b: unknown key; allowed: a"]
    assert check("3", Outer)[1] == ["x: must be a mapping (inner, maybe), got 3"]
