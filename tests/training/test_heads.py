"""A model with two heads is trained and evaluated: accumulation, metrics by head."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import TrainStep, build, nn
from gpubackprop.optim import SGD
from gpubackprop.training.evaluate import evaluate
from gpubackprop.training.metric import metrics

MODEL = [{"linear": 8}, "tanh", {"heads": {"branches": {"digit": [{"linear": 3}], "parity": [{"linear": 1}]}}}]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5))
    return {"inputs": x, "targets": {"digit": rng.integers(0, 3, 12), "parity": (x[:, :1] > 0).astype(float)}}


@pytest.fixture
def loss():
    return nn.MultiTaskLoss({"digit": nn.CrossEntropyLoss(), "parity": nn.BCEWithLogitsLoss()}, {"parity": 0.5})


def part(batch, rows):
    return {"inputs": batch["inputs"][rows], "targets": {k: a[rows] for k, a in batch["targets"].items()}}


def test_accumulation_equals_the_large_batch(batch, loss):
    found = []
    for parts in ([batch], [part(batch, slice(0, 7)), part(batch, slice(7, 12))]):
        model = build(MODEL, input_shape=(5,), precision="float64")
        step = TrainStep(model, loss, SGD(model.parameters(), lr=0.5))
        found.append([*(float(step(parts)) for _ in range(3)), *model.parameters().value])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-15)
    assert found[0][2] < found[0][0]


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_evaluation_by_head(batch, loss, device):
    model = build(MODEL, input_shape=(5,), device=device)
    wanted = [metrics["head"]("digit", metrics["accuracy"]()), metrics["head"]("parity", metrics["binary_accuracy"]())]
    parts = [part(batch, slice(0, 7)), part(batch, slice(7, 12))]
    found = evaluate(model, loss, wanted, parts)
    assert list(found) == ["loss", "digit/accuracy", "parity/binary_accuracy"]
    host = build(MODEL, input_shape=(5,))
    outputs = host(batch["inputs"])
    assert found["digit/accuracy"] == pytest.approx((outputs["digit"].argmax(1) == batch["targets"]["digit"]).mean())
    assert found["loss"] == pytest.approx(float(loss(outputs, batch["targets"])), rel=1e-5)


def test_a_head_without_targets_is_named(batch, loss):
    model = build(MODEL, input_shape=(5,))
    step = TrainStep(model, loss, SGD(model.parameters(), lr=0.5))
    with pytest.raises(ValueError, match="a loss for head 'parity'; targets are digit"):
        step({"inputs": batch["inputs"], "targets": {"digit": batch["targets"]["digit"]}})
