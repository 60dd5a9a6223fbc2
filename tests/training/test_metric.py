"""Metrics and the evaluation that adds them up: by hand, on both devices, whatever the batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.training.evaluate import evaluate, outputs
from gpubackprop.training.metric import Totals, metrics

LOGITS = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [1.0, 2.0, 3.0], [9.0, 0.0, 1.0]])
CLASSES = np.array([0, 2, 1, -100])
VALUES, TARGETS = np.array([[1.0], [-2.0], [3.0]]), np.array([[1.5], [-2.0], [1.0]])

SHARES = np.array([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], [[0.1, 0.1, 0.8], [0.2, 0.4, 0.4]]])

#: name, options, outputs, targets, figure
TABLE = [
    ("accuracy", {}, LOGITS, CLASSES, 1 / 3),
    ("top_k_accuracy", {"k": 2}, LOGITS, CLASSES, 1.0),
    ("top_k_accuracy", {"k": 1}, LOGITS, CLASSES, 1 / 3),
    ("binary_accuracy", {}, VALUES, np.array([[1.0], [1.0], [1.0]]), 2 / 3),
    ("perplexity", {}, np.log(SHARES), np.array([[0, 1], [2, -100]]), (0.5 * 0.25 * 0.8) ** (-1 / 3)),
    ("bits_per_character", {}, np.log(SHARES) + 1000, np.array([[0, 1], [1, -1]]), (1 + 2 + np.log2(10)) / 3),
    ("mae", {}, VALUES, TARGETS, 2.5 / 3),
    ("mse", {}, VALUES, TARGETS, 4.25 / 3),
    ("rmse", {}, VALUES, TARGETS, (4.25 / 3) ** 0.5),
]


def test_top_k_counts_neither_ties_nor_what_is_no_number():
    output = np.array([[1.0, 1.0, 0.0], [np.nan, 0.0, 1.0], [2.0, 1.0, 0.0]])
    assert figure(metrics["top_k_accuracy"](k=1), output, np.zeros(3, int), "cpu", (3,)) == 1 / 3


def test_top_k_of_fewer_outputs_is_refused():
    with pytest.raises(ShapeError, match="top_3_accuracy of 3 outputs is always 1"):
        metrics["top_k_accuracy"](k=3).check((3,), ())


def figure(metric, output, target, device, sizes):
    backend, _ = choose(device)
    totals = Totals(backend.xp)
    edges = np.cumsum((0, *sizes))
    for low, high in itertools.pairwise(edges):
        part, wanted = backend.from_host(output[low:high]), backend.from_host(target[low:high])
        totals.add(metric.sums(backend.xp, part, wanted))
    return metric.value(*totals.read(backend.to_host))


def test_every_metric_has_a_row():
    assert {row[0] for row in TABLE} | {"head"} == set(metrics)


@pytest.mark.parametrize("device", ["cpu", "strict"])
@pytest.mark.parametrize(("name", "options", "output", "target", "wanted"), TABLE)
def test_figures_by_hand(name, options, output, target, wanted, device):
    metric = metrics[name](**options)
    count = len(output)
    for sizes in ((count,), (1, count - 1), (count - 1, 1)):
        assert figure(metric, output, target, device, sizes) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("name", "options", "output", "target", "wanted"), TABLE)
def test_shapes_that_cannot_be_compared(name, options, output, target, wanted):
    metric = metrics[name](**options)
    metric.check(output.shape[1:], target.shape[1:])
    with pytest.raises(ShapeError, match=metric.name):
        metric.check(output.shape[1:], (7,))


def test_nothing_to_count_is_not_a_number():
    assert np.isnan(figure(metrics["accuracy"](), LOGITS, np.full(4, -100), "cpu", (4,)))


def test_sequences_count_every_position():
    output = np.stack([LOGITS, LOGITS])
    target = np.stack([CLASSES, np.array([0, 1, 2, 0])])
    assert figure(metrics["accuracy"](), output, target, "cpu", (1, 1)) == pytest.approx(5 / 7)


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_evaluation_is_of_samples_not_of_batches(rng, device):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).build((4,), 0, device, "float64")
    x, y = rng.normal(size=(11, 4)), rng.integers(0, 3, 11)
    logits = np.asarray(model(x))
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(11), y]
    before = model.state_dict()
    for size in (11, 4, 1):
        parts = [{"inputs": x[i : i + size], "targets": y[i : i + size]} for i in range(0, 11, size)]
        found = evaluate(model, nn.CrossEntropyLoss(), [metrics["accuracy"]()], parts)
        assert found == pytest.approx({"loss": losses.mean(), "accuracy": (logits.argmax(1) == y).mean()}, rel=1e-12)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_evaluation_of_overflowing_outputs_is_quiet():
    model = nn.Sequential(nn.Linear(2, 2)).build((2,))
    model.load_state_dict({"0.weight": np.full((2, 2), 3e38), "0.bias": np.zeros(2)})
    batch = {"inputs": np.ones((2, 2), np.float32), "targets": np.array([0, 1])}
    assert not np.isfinite(evaluate(model, nn.CrossEntropyLoss(), [], [batch])["loss"])


def test_outputs_come_in_order(rng):
    model = nn.Sequential(nn.Linear(2, 3)).build((2,))
    x = rng.normal(size=(7, 2)).astype(np.float32)
    parts = list(outputs(model, x, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_allclose(np.concatenate(parts), model(x), rtol=1e-6)


def test_outputs_of_heads_are_refused():
    model = nn.Sequential(nn.Heads({"a": [nn.Linear(2, 3)], "b": []})).build((2,))
    with pytest.raises(UsageError, match=r"several outputs \(a, b\)"):
        list(outputs(model, np.ones((4, 2), np.float32), 3))


def test_perplexity_of_a_hopeless_model_is_infinite():
    output = np.array([[0.0, 1e4]])
    assert figure(metrics["perplexity"](), output, np.array([0]), "cpu", (1,)) == np.inf
    assert np.isnan(figure(metrics["perplexity"](), output, np.array([-1]), "cpu", (1,)))


class TestMasks:
    """What is left out by a mask counts in no metric, as it does in no loss."""

    @pytest.mark.parametrize("device", ["cpu", "strict"])
    @pytest.mark.parametrize("name", ["mse", "mae", "rmse", "binary_accuracy", "accuracy", "perplexity"])
    def test_padding_does_not_count(self, name, device, rng):
        model = nn.Sequential(nn.Linear(3, 2)).build((5, 3), 0, device, "float64")
        x, mask = rng.normal(size=(4, 5, 3)), np.arange(5) < np.array([[5], [1], [0], [3]])
        by_class = name in ("accuracy", "perplexity")
        y = rng.integers(0, 2, (4, 5) if by_class else (4, 5, 2))
        loss = nn.CrossEntropyLoss() if by_class else nn.MSELoss()
        found = evaluate(model, loss, [metrics[name]()], [{"inputs": x, "targets": y, "mask": mask}])
        wanted = evaluate(model, loss, [metrics[name]()], [{"inputs": x[mask], "targets": y[mask]}])
        assert found == pytest.approx(wanted, rel=1e-12)

    def test_of_heads(self, rng):
        heads = {"word": [nn.Linear(3, 2)], "size": [nn.GlobalAvgPool1d(), nn.Linear(3, 1)]}
        model = nn.Sequential(nn.Heads(heads)).build((5, 3), precision="float64")
        loss = nn.MultiTaskLoss({"word": nn.CrossEntropyLoss(), "size": nn.MSELoss()})
        x, mask = rng.normal(size=(4, 5, 3)), np.arange(5) < np.array([[5], [1], [0], [3]])
        y = rng.integers(0, 2, (4, 5))
        wanted = [metrics["head"]("word", metrics["accuracy"]()), metrics["head"]("size", metrics["mae"]())]
        found = []
        for targets in (y, np.where(mask, y, -100)):
            batch = {"inputs": x, "targets": {"word": targets, "size": np.ones((4, 1))}, "mask": mask}
            found.append(evaluate(model, loss, wanted, [batch]))
        assert found[0] == pytest.approx(found[1], rel=1e-12)

    @pytest.mark.parametrize("by_head", [True, False])
    def test_a_mask_of_a_heads_targets_counts(self, by_head, rng):
        model = nn.Sequential(nn.Heads({"a": [nn.Linear(3, 2)], "b": [nn.Linear(3, 1)]})).build(
            (3,), precision="float64"
        )
        loss = nn.MultiTaskLoss({"a": nn.MSELoss(), "b": nn.MSELoss()})
        x, mask = rng.normal(size=(4, 3)), np.array([True, False, True, False])
        targets = {"a": rng.normal(size=(4, 2)), "b": rng.normal(size=(4, 1))}
        batch = {"inputs": x, "targets": targets, "mask": {"a": mask, "b": mask} if by_head else mask}
        kept = {"inputs": x[mask], "targets": {name: each[mask] for name, each in targets.items()}}
        wanted = [metrics["head"]("a", metrics["mse"]())]
        assert evaluate(model, loss, wanted, [batch]) == pytest.approx(evaluate(model, loss, wanted, [kept]))

    def test_labels_of_a_whole_sequence_that_are_as_many_as_its_positions(self, rng):
        layers = [nn.GRU(3, 4, last=True), nn.Linear(4, 5)]
        model = nn.Sequential(*layers).build((5, 3), precision="float64")
        x, mask = rng.normal(size=(2, 5, 3)), np.arange(5) < np.array([[5], [2]])
        y = rng.integers(0, 2, (2, 5))
        alone = [{"inputs": x[:1], "targets": y[:1]}, {"inputs": x[1:, :2], "targets": y[1:]}]
        found = evaluate(model, nn.BCEWithLogitsLoss(), [], [{"inputs": x, "targets": y, "mask": mask}])
        assert found == pytest.approx(evaluate(model, nn.BCEWithLogitsLoss(), [], alone), rel=1e-12)


class TestHead:
    def test_its_figure_is_its_metrics_own(self):
        metric = metrics["head"]("digit", metrics["accuracy"]())
        outputs, targets = {"digit": LOGITS, "size": VALUES}, {"digit": CLASSES, "size": TARGETS}
        assert metric.name == "digit/accuracy"
        assert metric.better == "max"
        assert metric.value(*map(float, metric.sums(np, outputs, targets))) == pytest.approx(1 / 3)
        error = metrics["head"]("size", metrics["rmse"]())
        assert error.better == "min"
        assert error.value(*map(float, error.sums(np, outputs, targets))) == pytest.approx((4.25 / 3) ** 0.5)

    def test_mistakes(self):
        metric = metrics["head"]("digit", metrics["accuracy"]())
        metric.check({"digit": (10,)}, {"digit": ()})
        with pytest.raises(ShapeError, match=r"digit/accuracy needs outputs by head, got \(10,\)"):
            metric.check((10,), ())
        with pytest.raises(ShapeError, match="no targets called 'digit'; known: digits; did you mean 'digits'"):
            metric.check({"digit": (10,)}, {"digits": ()})
        with pytest.raises(ShapeError, match="accuracy needs class targets"):
            metric.check({"digit": (10,)}, {"digit": (10,)})
