"""Blocks, shared layers, several inputs and outputs, from YAML: what is found before training, and the summary."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop.errors import ConfigError
from gpubackprop.nn import Loss, losses
from gpubackprop.ops.loss import mse
from gpubackprop.ops.shape import add
from gpubackprop.run import summary
from gpubackprop.run.check import make_plan

HEAD = """\
data: {type: arrays, batch_size: 10}
loss: cross_entropy
optimizer: {type: sgd, lr: 0.1}
training: {epochs: 2}
"""

BLOCK = """\
define:
  block:
    parameters: {width: null}
    layers:
      - linear: {out_features: $width, name: first}
      - relu
      - share: first
"""

GRAPH = """\
model:
  - input: left
  - block: {width: 6, name: encoder}
  - save: l
  - input: right
  - share: encoder
  - add: l
  - repeat: {times: 2, layers: [block: 6]}
  - sequential: {layers: [linear: 6, tanh], recompute: true, name: again}
  - heads:
      branches:
        class: [linear: 3]
        value: [linear: {out_features: 2, name: last}]
"""


@pytest.fixture(autouse=True)
def squares():
    """A loss of two heads, while these tests run."""

    class Squares(Loss):
        by_head = True

        def forward(self, output, target, weight=None, mask=None):
            (a, count), (b, _) = (mse(output[key], target[key], None, None) for key in ("class", "value"))
            return add(a, b), count

        def check(self, output_shape, target_shape, classes=None):
            pass

    losses.register("squares")(Squares)
    yield
    del losses._classes["squares"]


@pytest.fixture
def one():
    rng = np.random.default_rng(0)
    return {"train": (rng.normal(size=(40, 6)), np.arange(40) % 3)}


@pytest.fixture
def two():
    rng = np.random.default_rng(0)
    inputs = {"left": rng.normal(size=(40, 6)), "right": rng.normal(size=(40, 6))}
    targets = {"class": rng.normal(size=(40, 3)), "value": rng.normal(size=(40, 2))}
    pair = {"inputs": inputs, "targets": targets}
    return {"train": pair, "validation": pair}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text, arrays, overrides=()):
        (tmp_path / "a.yaml").write_text(text)
        return make_plan("a.yaml", overrides, arrays)

    return read


@pytest.fixture
def mistakes(plan):
    def read(text, arrays, overrides=()):
        with pytest.raises(ConfigError) as caught:
            plan(text, arrays, overrides)
        return [str(problem) for problem in caught.value.problems]

    return read


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        (
            "  - linear: {out_features: 6, name: enc}\n  - share: emc\n",
            "a.yaml:7:5: model.1.share: no layer before is named 'emc'; named so far: enc; did you mean 'enc'?",
        ),
        (
            "  - share: enc\n  - linear: {out_features: 6, name: enc}\n",
            "a.yaml:6:5: model.0.share: no layer before is named 'enc'; named so far: none",
        ),
        (
            "  - linear: {out_features: 5, name: enc}\n  - share: enc\n",
            "a.yaml:7:5: model.1.share: 'enc' cannot take this input too: in_features is 6, but the input has 5",
        ),
        (
            "  - sequential: {layers: [relu, linear: 5], name: enc}\n  - share: enc\n",
            "a.yaml:7:5: model.1.share: 'enc' cannot take this input too: "
            "layer 1: in_features is 6, but the input has 5",
        ),
        (
            "  - repeat: {times: 2, layers: [relu, share: enc]}\n",
            "a.yaml:6:39: model.0.repeat.layers.1.share: no layer before is named 'enc'; named so far: none",
        ),
        (
            "  - parallel: {branches: [[relu], [share: enc]]}\n",
            "a.yaml:6:36: model.0.parallel.branches.1.0.share: no layer before is named 'enc'; named so far: none",
        ),
        (
            "  - linear: {out_features: 6, name: enc}\n  - tied_linear: enc\n",
            "a.yaml:7:5: model.1.tied_linear: 'enc' is no embedding, but Linear",
        ),
        (
            "  - tied_linear: enc\n",
            "a.yaml:6:5: model.0.tied_linear: no layer before is named 'enc'; named so far: none",
        ),
        ("  - input: left\n", "a.yaml:6:5: model.0.input: nothing was saved as 'left' before; saved: nothing"),
        (
            "  - heads: {branches: {a: [linear: 3], b: [relu, linear: 0]}}\n",
            "a.yaml:6:58: model.0.heads.branches.b.1.linear.out_features: must be at least 1, got 0",
        ),
        (
            "  - heads: {branches: {a: linear}}\n",
            "a.yaml:6:27: model.0.heads.branches.a: must be a list of layers, got 'linear'; write [linear]",
        ),
        (
            "  - heads: {branches: {a: [relu], b: [max_pool2d: 2]}}\n",
            "a.yaml:6:39: model.0.heads.branches.b.0.max_pool2d: max_pool2d needs images (H, W, C), got (6,)",
        ),
        (
            "  - heads: {branches: {a: [linear: 3], b: [linear: 3]}}\n",
            "a.yaml:2:7: loss: the model gives outputs a, b, and cross_entropy compares a single one; use multi_task",
        ),
        ("  - heads: {branches: {a: [linear: 3]}}\n  - relu\n", "a.yaml:7:5: model.1.relu: nothing can follow heads"),
        ("  - each: [linear: 3]\n", "a.yaml:6:12: model.0.each.layers.0.linear: "),
    ],
)
def test_mistakes_stand_where_the_layer_stands(mistakes, one, layers, line):
    (found,) = mistakes(HEAD + "model:\n" + layers, one)
    assert found.startswith(line)


def test_mistakes_of_shape_inside_of_a_block_name_the_use(mistakes, one):
    text = HEAD + BLOCK.replace("share: first", "share: frist") + "model:\n  - relu\n  - block: 6\n"
    assert mistakes(text, one) == [
        "a.yaml:11:9: model.1.block.layers.2.share: no layer before is named 'frist'; named so far: first; "
        "did you mean 'first'?"
    ]
    assert mistakes(HEAD + BLOCK + "model: [relu, block: 5]\n", one) == [
        "a.yaml:11:9: model.1.block.layers.2.share: 'first' cannot take this input too: "
        "in_features is 6, but the input has 5"
    ]


def test_a_metric_of_several_outputs_names_the_remedy(mistakes, two):
    text = HEAD.replace("cross_entropy", "squares") + BLOCK + GRAPH + "metrics: [mse]\n"
    (line,) = mistakes(text, two)
    assert "metrics.0.mse: the model gives outputs class, value, and mse compares a single one; write {head: " in line


def test_share_takes_the_latest_layer_of_a_name(plan, one):
    text = HEAD + "model:\n  - block: 6\n  - block: {width: 6, name: b}\n  - share: first\n  - linear: 3\n" + BLOCK
    model = plan(text, one).model.build((6,))
    assert model.layers[2].target is model.layers[1].layers[0]
    assert list(model.state_dict())[:6] == [
        f"{key}.{a}" for key in ("0.first", "0.2", "b.first") for a in ("weight", "bias")
    ]


def test_notes_of_saves_that_nothing_takes_once_for_all_uses(plan, one):
    saves = BLOCK.replace("share: first", "save: mine")
    text = HEAD + saves + "model: [block: 6, block: 6, save: a, save: b, linear: 6, add: a, linear: 3]\n"
    assert plan(text, one).notes == [
        "note: model.0.block.layers.2.save: nothing takes what is saved as 'mine'; leave it out",
        "note: model.3.save: nothing takes what is saved as 'b'; leave it out",
    ]


class TestEverythingAtOnce:
    TEXT = HEAD.replace("cross_entropy", "squares") + BLOCK + GRAPH

    def test_the_summary_counts_shared_layers_once(self, plan, two):
        found = plan(self.TEXT, two)
        assert found.notes == []
        table, _, totals = "\n".join(summary.lines(found)).partition("\n\n")
        rows = {row.split()[0]: row.split("  ") for row in table.splitlines()[2:]}
        rows = {key: [cell.strip() for cell in row if cell.strip()][1:] for key, row in rows.items()}
        assert rows["encoder.first"] == ["Linear", "6", "42", "72"]
        assert rows["encoder.2"] == ["= encoder.first", "6", "0", "72"]
        assert rows["4.first"] == ["= encoder.first", "6", "0", "72"]
        assert rows["6.1.0.2"] == ["= 6.1.0.first", "6", "0", "72"]
        assert rows["8.value.last"] == ["Linear", "2", "14", "24"]
        lines = dict(line.split(maxsplit=1) for line in totals.splitlines())
        assert lines["input"] == "left 6, right 6, batch 10"
        assert lines["output"] == "class 3, value 2"
        weights = sum(int(row[2]) for row in rows.values())
        assert lines["parameters"].startswith(f"{weights} (")
        assert weights == found.model.parameters().count
        assert lines["FLOPs"].startswith(f"{sum(int(row[3]) for row in rows.values()):,} ")

    def test_what_is_computed_anew_is_not_kept(self, plan, two):
        def kept(text):
            (line,) = (line for line in summary.lines(plan(text, two)) if line.startswith("layer outputs"))
            return float(line.split()[2])

        difference = kept(self.TEXT.replace("recompute: true", "recompute: false")) - kept(self.TEXT)
        assert difference == pytest.approx(2 * 6 * 10 * 4 / 1024, abs=2e-3)

    def test_training_from_the_resolved_config_is_the_same_run(self, plan, two, tmp_path):
        plan(self.TEXT, two)
        first = gbp.train("a.yaml", data=two, overrides={"device": "cpu"}, run_dir=tmp_path / "one")
        second = gbp.train(str(tmp_path / "one" / "config.resolved.yaml"), data=two, run_dir=tmp_path / "two")
        assert "define" not in (tmp_path / "one" / "config.resolved.yaml").read_text()
        ours, theirs = first.model.state_dict(), second.model.state_dict()
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)

    def test_set_of_a_parameter(self, plan, two):
        found = plan(self.TEXT, two, ["define.block.layers.1=tanh", "model.6.repeat.layers.0.block.width=6"])
        assert type(found.model.layers[1].layers[1]).__name__ == "Tanh"


def test_each_runs_its_layers_over_every_item(plan):
    rng = np.random.default_rng(0)
    arrays = {"train": (rng.normal(size=(40, 5, 4)), np.arange(40) % 3)}
    text = HEAD + "model: [each: [linear: 2], flatten, linear: 3]\n"
    table = summary.lines(plan(text, arrays))
    assert table[2].split() == ["0.0", "Linear", "2", "10", str(5 * 2 * 4 * 2)]
    (kept,) = (line for line in table if line.startswith("layer outputs"))
    assert float(kept.split()[2]) == pytest.approx((5 * 2 + 10 + 3) * 10 * 4, rel=1e-3)
