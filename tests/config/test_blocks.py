"""Blocks that a config defines once and uses with other sizes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gpubackprop.config import load_config
from gpubackprop.config.expression import ExpressionError, evaluate
from gpubackprop.errors import ConfigError
from tests.config.toys import KINDS, MINIMAL, Conv2d, Dropout, Linear, ReLU

DEFINE = """\
define:
  wide:
    parameters: {channels: null, hidden: $channels * 4, p: 0.5, body: [relu]}
    layers:
      - linear: $hidden
      - sequential: $body
      - dropout: {p: $p}
      - linear: {out_features: $channels, name: out}
  plain:
    layers: [relu, wide: 7]
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(model, define=DEFINE, overrides=(), file="a.yaml"):
        (tmp_path / file).write_text(define + MINIMAL.replace("  - linear: 10\n", model))
        return load_config(file, overrides, kinds=KINDS)

    return read


@pytest.fixture
def mistakes(load):
    def read(model, define=DEFINE, overrides=()):
        with pytest.raises(ConfigError) as caught:
            load(model, define, overrides)
        return [str(problem) for problem in caught.value.problems]

    return read


def built(config):
    return [component.build() for component in config.model]


def sizes(chain):
    return [layer.out_features for layer in chain.layers if isinstance(layer, Linear)]


class TestUses:
    def test_the_first_parameter_is_the_short_form(self, load):
        (chain,) = built(load("  - wide: 8\n"))
        assert [type(layer) for layer in chain.layers[::2]] == [Linear, Dropout]
        assert sizes(chain) == [32, 8]
        assert chain.layers[1].layers == [ReLU()]
        assert chain.layers[3].name == "out"

    @pytest.mark.parametrize(
        "use", ["wide: {channels: 8, p: 0.25, name: b}", "{type: wide, channels: 8, p: 0.25, name: b}"]
    )
    def test_parameters_by_name(self, load, use):
        (chain,) = built(load(f"  - {use}\n"))
        assert chain.name == "b"
        assert chain.layers[2].p == 0.25

    def test_without_parameters_and_inside_of_containers_and_of_other_blocks(self, load):
        (residual,) = built(load("  - residual: {layers: [plain], shortcut: [plain: {}]}\n"))
        for way in (residual.layers, residual.shortcut):
            assert way[0].layers[0] == ReLU()
            assert sizes(way[0].layers[1]) == [28, 7]

    def test_a_parameter_may_be_a_layers_name_or_a_list_of_layers_with_uses_of_the_same_block(self, load):
        define = (
            "define: {act: {parameters: {which: relu}, layers: [$which]}, wrap: {parameters: {x: []}, layers: $x}}\n"
        )
        act, wrap = built(load("  - act: dropout\n  - wrap: [wrap: [act], linear: 3]\n", define))
        assert act.layers == [Dropout()]
        assert wrap.layers[0].layers[0].layers == [ReLU()]

    def test_null_is_as_good_as_nothing(self, load):
        (chain,) = built(load("  - wide: {channels: 8, hidden: null}\n"))
        assert sizes(chain) == [32, 8]

    def test_values_keep_their_types(self, load):
        define = "define: {c: {parameters: {o: 4, k: [3, 1], pad: same}, layers: [conv2d: " + (
            "{out_channels: $o, kernel_size: $k, padding: $pad}]}}\n"
        )
        (chain,) = built(load("  - c\n", define))
        assert chain.layers == [Conv2d(None, 4, (3, 1), 1, "same")]

    def test_an_argument_of_an_inner_use_is_an_expression_of_the_outer_block(self, load):
        define = DEFINE + "  outer: {parameters: {n: null}, layers: [wide: $n + 1, wide: {channels: $n // 2}]}\n"
        (chain,) = built(load("  - outer: 5\n", define))
        assert [sizes(inner) for inner in chain.layers] == [[24, 6], [8, 2]]

    def test_the_resolved_config_holds_the_layers_alone(self, load):
        config = load("  - wide: {channels: 8, name: b}\n  - plain\n")
        assert "define" not in config.resolved()
        with open("b.yaml", "w") as file:
            file.write(config.resolved_yaml())
        assert built(load_config("b.yaml", kinds=KINDS)) == built(config)

    def test_what_nothing_uses_is_noted_and_checked_for_form_only(self, load):
        config = load("  - relu\n", "define: {a: {layers: [lineer: 3]}, b: {layers: []}}\n")
        assert config.notes == ("note: define.a is not used", "note: define.b is not used")
        assert load("  - plain\n").notes == ()


class TestChanges:
    def test_extends_merges_definitions(self, load, tmp_path):
        load("  - wide: 8\n", file="base.yaml")
        (tmp_path / "b.yaml").write_text("extends: base.yaml\ndefine: {wide: {parameters: {hidden: 5}}}\n")
        assert sizes(load_config("b.yaml", kinds=KINDS).model[0].build()) == [5, 8]

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            ("define.wide.parameters.hidden=3", [3, 8]),
            ("define.wide.parameters.hidden=$channels + 1", [9, 8]),
            ("define.wide.layers.0.linear.out_features=6", [6, 8]),
            ("model.0.wide.channels=2", [8, 2]),
            ("model.0.wide.hidden=2", [2, 8]),
            ("model.0.wide=3", [12, 3]),
        ],
    )
    def test_set_reaches_definitions_and_uses(self, load, change, found):
        assert sizes(load("  - wide: 8\n", overrides=[change]).model[0].build()) == found

    def test_set_of_a_use_without_parameters(self, load):
        assert sizes(load("  - wide\n", overrides=["model.0.wide.channels=2"]).model[0].build()) == [8, 2]


class TestMistakes:
    def test_inside_of_a_definition_they_stand_there_and_name_the_first_use(self, mistakes):
        define = DEFINE.replace("dropout: {p: $p}", "dropout: {q: $p}")
        assert mistakes("  - relu\n  - wide: 8\n  - wide: 9\n", define) == [
            "a.yaml:7:19: model.1.wide.layers.2.dropout.q: unknown option of dropout; allowed: p"
        ]

    def test_a_value_that_a_use_gave_stands_at_the_use(self, mistakes):
        assert mistakes("  - wide: {channels: 8, p: 2}\n") == [
            "a.yaml:13:28: model.0.wide.layers.2.dropout.p: must be at least 0 and less than 1, got 2"
        ]

    def test_a_use_in_a_use_is_named_by_both(self, mistakes):
        (line,) = mistakes(
            "  - plain\n", DEFINE.replace("wide: 7", "wide: x").replace("hidden: $channels * 4", "hidden: 1")
        )
        assert line.startswith(
            "a.yaml:10:26: model.0.plain.layers.1.wide.layers.3.linear.out_features: must be an integer"
        )

    @pytest.mark.parametrize(
        ("use", "message"),
        [
            (
                "wide: {chanels: 8}",
                "a.yaml:13:12: model.0.wide.chanels: unknown parameter of wide; "
                "allowed: channels, hidden, p, body, name; did you mean 'channels'?",
            ),
            ("wide", "a.yaml:13:5: model.0.wide.channels: missing; wide needs it, as its default is null"),
            ("wide: {channels: null}", "a.yaml:13:5: model.0.wide.channels: missing; wide needs it"),
            ("plain: 3", "a.yaml:13:12: model.0.plain: 'plain' has no parameters, got 3"),
            ("wede: 3", "a.yaml:13:5: model.0.wede: unknown layer 'wede'; known: conv2d, dropout, linear, parallel, "),
            ("wede: 3", "did you mean 'wide'?"),
            ("wide: eight", "$channels in '$channels * 4' is no number, but 'eight'"),
            ("wide: {channels: 1, name: 3}", "a.yaml:13:31: model.0.wide.name: must be a name of letters"),
        ],
    )
    def test_of_a_use(self, mistakes, use, message):
        assert message in "\n".join(mistakes(f"  - {use}\n"))

    @pytest.mark.parametrize(
        ("define", "message"),
        [
            ("[a]", "a.yaml:1:9: define: must be a mapping NAME: {parameters, layers}, got a list"),
            ("{linear: {layers: []}}", "a.yaml:1:10: define.linear: 'linear' is a layer already; choose another name"),
            ("{'a b': {layers: []}}", "a.yaml:1:10: define.a b: must be a name of letters, digits and _"),
            ("{a: [relu]}", "a.yaml:1:13: define.a: must be a mapping (parameters, layers), got a list"),
            ("{a: {layer: []}}", "define.a.layer: unknown key; allowed: parameters, layers; did you mean 'layers'?"),
            ("{a: {parameters: {x: 1}}}", "a.yaml:1:10: define.a.layers: missing; a block needs a list of layers"),
            ("{a: {layers: relu}}", "a.yaml:1:22: define.a.layers: must be a list of layers, got 'relu'"),
            ("{a: {parameters: [x], layers: []}}", "define.a.parameters: must be a mapping of names and defaults"),
            ("{a: {parameters: {name: 3}, layers: []}}", "every layer has a name; choose another name"),
            ("{a: {parameters: {x-y: 3}, layers: []}}", "define.a.parameters.x-y: must be a name of letters"),
            ("{a: {layers: [b]}, b: {layers: [residual: [a: 3]]}}", "1:52: define.b: 'a' contains itself: a → b → a"),
            ("{a: {parameters: {x: [a]}, layers: []}}", "define.a: 'a' contains itself: a → a"),
        ],
    )
    def test_of_a_definition_and_none_where_it_is_used(self, mistakes, define, message):
        (line,) = mistakes("  - relu\n  - a\n  - b\n" if "b:" in define else "  - relu\n", f"define: {define}\n")
        assert message in line

    @pytest.mark.parametrize(
        ("expression", "message"),
        [
            ("$chanels", "unknown parameter $chanels; parameters: channels; did you mean 'channels'?"),
            ("$channels / 2", "7 / 2 in '$channels / 2' is not whole; // rounds down"),
            ("$channels ** 2", "is no arithmetic; allowed: numbers, $parameters, + - * / // and parentheses"),
        ],
    )
    def test_of_an_expression(self, mistakes, expression, message):
        define = f"define:\n  a:\n    parameters: {{channels: null}}\n    layers:\n      - linear: {expression}\n"
        (line,) = mistakes("  - a: 7\n", define)
        assert line.startswith("a.yaml:5:17: model.0.a.layers.0.linear: ")
        assert message in line

    def test_a_block_that_comes_back_by_a_parameter_ends(self, mistakes):
        define = "define: {a: {parameters: {x: null}, layers: [{type: $x, x: $x}]}}\n"
        assert "does 'a' hold itself?" in mistakes("  - a: a\n", define)[0]

    def test_growth_is_limited(self, mistakes):
        names = "abcdefgh"
        blocks = [f"{n}: {{layers: [{', '.join([m] * 9)}]}}" for n, m in pairwise(names)]
        (line,) = mistakes("  - a\n", "define: {" + ", ".join([*blocks, "h: {layers: [relu]}"]) + "}\n")
        assert "the blocks come to more than 20,000 values" in line


VALUES = {"a": 6, "b": 4, "x": 0.5, "t": "text", "yes": True}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$a * 2", 12),
        ("$a + $b - 1", 9),
        ("$a / 2", 3),
        ("7 // $b", 1),
        ("($a + $b) * (2 - -$b)", 60),
        ("$a * $x", 3.0),
        ("1e-1 * $b", 0.4),
        ("+$a", 6),
        ("2 *\t$a".replace("\t", " "), 12),
    ],
)
def test_arithmetic(text, value):
    found = evaluate(text, VALUES)
    assert found == pytest.approx(value)
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$a / 4", "is not whole"),
        ("$a / 0", "divides by zero"),
        ("$a // 0", "divides by zero"),
        ("$c + 1", "unknown parameter"),
        ("$t * 2", "is no number, but 'text'"),
        ("$yes + 1", "is no number, but true"),
        ("$a % 2", "is no arithmetic"),
        ("$a ** 2", "is no arithmetic"),
        ("$a(2)", "is no arithmetic"),
        ("skip_$a", "is no arithmetic"),
        ("$a.real", "is no arithmetic"),
        ("$a $b", "cannot be read"),
        ("($a", "cannot be read"),
        ("2 * e + $a", "is no arithmetic"),
        ("$a" + " + 1" * 60, "is no arithmetic"),
        ("$a * 1e999 * 0 // 1", None),
    ],
)
def test_nothing_else_is_understood(text, message):
    if message is None:  # a number that is no number is refused where it goes
        assert evaluate(text, VALUES) != evaluate(text, VALUES)
    else:
        with pytest.raises(ExpressionError, match=r".*".join(message.split("…"))):
            evaluate(text, VALUES)
