"""Evaluations on the doubles: captured like steps, and never behind what the model or the loss has become."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.errors import UsageError
from gpubackprop.training.evaluate import Evaluation, evaluate
from gpubackprop.training.metric import metrics
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda.device import doubles
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
METRICS = [metrics[name]() for name in ("accuracy", "perplexity", "top_k_accuracy")]
METRICS[-1].k = 2


def network(device, kernels):
    model = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 3))
    return model.build((6,), 0, device, "float64", kernels)


def batches(*sizes, shape=(6,), targets=()):
    rng = np.random.default_rng(0)
    return [{"inputs": rng.normal(size=(n, *shape)), "targets": rng.integers(0, 3, (n, *targets))} for n in sizes]


def test_an_evaluation_is_captured_and_sees_what_the_model_and_the_loss_have_become():
    data, loss = batches(10, 10, 10, 10, 7), nn.CrossEntropyLoss()
    wanted = evaluate(network("cpu", "reference"), loss, METRICS, data)
    with doubles() as cupy:
        model = network("cuda", "auto")
        evaluation = Evaluation(model, loss, METRICS)
        for launches in (3, 8, 13):  # the second batch of a shape is captured and launched; then all of them are
            assert evaluation(data) == pytest.approx(wanted, rel=1e-10)
            assert cupy.device.launches == launches
        with pytest.raises(
            UsageError, match="target 5 of sample 0, the first of 10; it is none of the model's 3 classes"
        ):
            evaluation([data[0] | {"targets": np.full(10, 5)}])
        step = TrainStep(model, loss, gbp.optim.SGD(model.parameters(), lr=0.5))
        for batch in data:
            step(batch)
        trained = evaluation(data)
        assert trained == pytest.approx(evaluate(model, loss, METRICS, data), rel=1e-12)
        assert trained["loss"] != pytest.approx(wanted["loss"], rel=1e-3)
        loss.label_smoothing = 0.5
        smoothed = evaluation(data)
        assert smoothed["loss"] == pytest.approx(evaluate(model, loss, [], data)["loss"], rel=1e-12)
        assert smoothed["loss"] != pytest.approx(trained["loss"], rel=1e-3)


def test_states_of_stateful_layers_go_from_batch_to_batch():
    data, found = batches(2, 2, 2, 2, shape=(4, 3), targets=(4,)), {}

    def figures(device, kernels):
        model = nn.Sequential(nn.LSTM(3, 5, stateful=True), nn.Linear(5, 3))
        evaluation = Evaluation(model.build((4, 3), 0, device, "float64", kernels), nn.CrossEntropyLoss(), [])
        found[device] = [evaluation(data)["loss"], evaluation(data)["loss"], evaluation(data[1:])["loss"]]

    figures("cpu", "reference")
    with doubles(), pytest.warns(RuntimeWarning, match="evaluations are not captured .* hand states on") as warned:
        figures("cuda", "auto")
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-10)
    assert len(warned) == 1
    assert found["cpu"][0] == found["cpu"][1]
