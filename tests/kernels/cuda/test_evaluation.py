"""Evaluations on the doubles: captured like steps, and never behind what the model or the loss has become."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.errors import UsageError
from gpubackprop.training.evaluate import Evaluation, evaluate
from gpubackprop.training.metric import Head, Metric, metrics
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda.device import doubles
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
METRICS = [metrics["accuracy"](), metrics["perplexity"](), metrics["top_k_accuracy"](k=2)]


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


def test_states_of_stateful_layers_go_from_batch_to_batch_so_that_nothing_is_captured():
    data, found = batches(2, 2, 2, 2, shape=(4, 3), targets=(4,)), {}
    for device, kernels in (("cpu", "reference"), ("cuda", "auto")):
        with doubles() as cupy:
            model = nn.Sequential(nn.LSTM(3, 5, stateful=True), nn.Linear(5, 3))
            evaluation = Evaluation(model.build((4, 3), 0, device, "float64", kernels), nn.CrossEntropyLoss(), [])
            found[device] = [evaluation(data)["loss"], evaluation(data)["loss"], evaluation(data[1:])["loss"]]
            assert cupy.device.launches == 0
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-10)
    assert found["cpu"][0] == found["cpu"][1]


class Batches(Metric):
    """A metric of a user's own that counts in Python how often it was asked."""

    name = "batches"
    asked = 0

    def sums(self, xp, output, target, mask=None):
        self.asked += 1
        return xp.zeros(()) + self.asked, xp.ones(())


def test_metrics_of_heads_are_seen_to_be_another_or_a_users_own():
    rng = np.random.default_rng(0)
    data = [{"inputs": rng.normal(size=(8, 6)), "targets": {"kind": rng.integers(0, 9, 8)}} for _ in range(4)]
    with doubles() as cupy:
        model = nn.Sequential(nn.Linear(6, 8), nn.Heads({"kind": [nn.Linear(None, 9)]})).build((6,), 0, "cuda")
        loss, top = nn.MultiTaskLoss({"kind": nn.CrossEntropyLoss()}), metrics["top_k_accuracy"](k=1)
        evaluation = Evaluation(model, loss, [Head("kind", top)])
        few = [evaluation(data)["kind/top_1_accuracy"] for _ in range(2)]
        assert cupy.device.launches > 0
        top.k = 8
        assert few[0] == few[1] < evaluation(data)["kind/top_1_accuracy"]
        own = Evaluation(model, loss, [Head("kind", Batches())])
        with pytest.warns(
            RuntimeWarning, match="evaluations are not captured .*: what Batches does in Python"
        ) as warned:
            assert own(data)["kind/batches"] == 2.5
        own(data[:1])
        assert len(warned) == 1


def test_averaged_weights_masks_and_weights_of_samples_reach_a_graph():
    rng = np.random.default_rng(0)
    rest = {"mask": rng.random((6, 4)) < 0.7, "weight": rng.random(6)}
    data = [{**batch, **rest} for batch in batches(6, 6, 6, shape=(4, 3), targets=(4,))]
    found = {}
    for device, kernels in (("cpu", "reference"), ("cuda", "auto")):
        with doubles():
            model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))
            model.build((4, 3), 0, device, "float64", kernels)
            average = gbp.optim.WeightAverage(model.parameters(), decay=0.5)
            optimizer = gbp.optim.SGD(model.parameters(), lr=0.5)
            step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, average=average)
            evaluation = Evaluation(model, step.loss, METRICS)
            found[device] = [evaluation(data)]
            for batch in data:
                step(batch)
            with average.swapped():
                found[device].append(evaluation(data))
            found[device].append(evaluation(data))
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-10)
    assert len({figures["loss"] for figures in found["cpu"]}) == 3
