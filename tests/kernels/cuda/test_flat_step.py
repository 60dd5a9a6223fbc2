"""Captured steps with all that works on the flat buffers, beside the CPU's."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn, optim
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda.device import doubles
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
OPTIMIZERS = [
    (optim.LAMB, {}),
    (optim.Muon, {"adamw_for": ["0.*"]}),
    (optim.NAdam, {}),
    (optim.RMSprop, {"momentum": 0.9}),
]


def train(device, cls, options):
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    model.build((6,), 0, device, "float64", "auto" if device == "cuda" else "reference")
    params = model.parameters()
    noise, average = optim.GradientNoise(params, eta=1e-3, seed=1), optim.WeightAverage(params, 0.5)
    optimizer = cls(params, lr=1e-2, no_decay=("bias",), **options)
    parts = {"clip_norm": 0.3, "clip_value": 0.1, "noise": noise, "average": average}
    step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, **parts)
    rng = np.random.default_rng(0)
    found = []
    for number in range(5):
        optimizer.lr = 1e-2 / (1 + number)
        loss = step([{"inputs": rng.normal(size=(8, 6)), "targets": rng.integers(0, 3, 8)}])
        found.append([float(loss), float(step.grad_norm)])
    return {"losses": np.array(found), "average": params.backend.to_host(average.value)} | model.state_dict()


@pytest.mark.parametrize(("cls", "options"), OPTIMIZERS)
def test_captured_steps_equal_the_cpus(cls, options):
    with doubles() as cupy:
        found = train("cuda", cls, options)
        assert cupy.device.launches == 4, "the second step is captured, and launched, and those behind it"
    for name, value in train("cpu", cls, options).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6)  # the noise is float32
