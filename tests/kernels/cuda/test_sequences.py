"""Whole steps of models of sequences on the doubles, eagerly and as a CUDA graph, beside the CPU's."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda.device import CudaBackend, doubles
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
T, E = 5, 8


def recurrent():
    return nn.LSTM(E, 6, num_layers=2, bidirectional=True), nn.GRU(12, E), nn.RNN(E, E, nonlinearity="relu")


def attention():
    return (
        *(nn.LearnedPosition(E, 9), nn.Save("memory"), nn.SinusoidalPosition()),
        *(nn.MultiheadAttention(E, 2, dropout=0.2, causal=True), nn.MultiheadAttention(E, 4, rotary=True, causal=True)),
        *(nn.MultiheadAttention(E, 2, memory="memory"), nn.Softmax()),
    )


def step_of(device, layers, precision, kernels="auto"):
    model = nn.Sequential(nn.Linear(6, E), *layers(), nn.Linear(E, 3))
    model.build((T, 6), 0, device, precision, kernels)
    optimizer = gbp.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    return TrainStep(model, nn.CrossEntropyLoss(), optimizer)


def train(step):
    losses = []
    for number in range(4):
        rng = np.random.default_rng(number)
        batch = {"inputs": rng.normal(size=(3, T, 6)), "targets": rng.integers(0, 3, (3, T))}
        losses.append(step([batch]))
    return {"losses": np.array(list(map(float, losses)))} | step.model.state_dict()


@pytest.mark.parametrize("layers", [recurrent, attention])
def test_captured_steps_equal_those_of_the_cpu(monkeypatch, layers):
    wanted = train(step_of("cpu", layers, "float64", "reference"))
    launched, right = set(), CudaBackend.launch
    monkeypatch.setattr(CudaBackend, "launch", lambda self, *args: (launched.add(args[0].file), right(self, *args))[1])
    with doubles("random") as cupy:
        found = train(step_of("cuda", layers, "float64"))
        assert cupy.device.launches == 3, "the second step is captured, and launched, and those behind it"
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9)
    expected = {"recurrent.cu"} if layers is recurrent else {"attention.cu", "position.cu", "softmax.cu"}
    assert expected <= launched
