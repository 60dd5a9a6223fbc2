"""Whole steps on the test device: what a GPU would be launched with, from the loss to the update."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda.device import ORDERS, TestDevice
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler


def train(device, precision, steps=4):
    rng = np.random.default_rng(0)
    hidden = [nn.LayerNorm(20), nn.GELU(), nn.Linear(20, 20), nn.RMSNorm(20), nn.SiLU()]
    model = nn.Sequential(nn.Linear(6, 20), *hidden, nn.Linear(20, 3))
    model.build((6,), 0, device, precision, "reference")
    loss = nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5], label_smoothing=0.1)
    optimizer = gbp.optim.AdamW(model.parameters(), lr=1e-2)
    step = TrainStep(model, loss, optimizer, clip_norm=1.0)
    x, target = rng.normal(size=(10, 6)), rng.integers(0, 3, 10)
    losses = [float(step([{"inputs": x, "targets": target}])) for _ in range(steps)]
    return {"losses": np.array(losses)} | model.state_dict()


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_steps_equal_those_of_the_cpu_in_any_order_of_threads(monkeypatch, precision, tolerance):
    wanted = train("cpu", precision)
    launched = set()
    right = TestDevice.launch
    monkeypatch.setattr(TestDevice, "launch", lambda self, *args: (launched.add(args[:2]), right(self, *args))[1])
    found = {}
    for order in ORDERS:
        monkeypatch.setattr("gpubackprop.backend.strict.StrictBackend", lambda order=order: TestDevice(order))
        found[order] = train("strict", precision)
    files = {source.file for source, _ in launched}
    assert files == {"activation.cu", "class_loss.cu", "layer_norm.cu", "optimizer.cu"}
    for name, value in wanted.items():
        np.testing.assert_allclose(found["forward"][name], value, rtol=tolerance, atol=tolerance)
        assert all(np.array_equal(found[order][name], found["forward"][name]) for order in ORDERS), name
