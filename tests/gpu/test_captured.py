"""Steps that are replayed on the GPU beside steps that Python runs one by one: the same, whatever changes."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.backend import Backend
from gpubackprop.training.step import TrainStep

pytestmark = pytest.mark.gpu
STEPS = 10


def mlp():
    hidden = [nn.LayerNorm(40), nn.GELU(), nn.Dropout(0.3), nn.Linear(40, 40), nn.ReLU()]
    return nn.Sequential(nn.Linear(12, 40), *hidden, nn.Linear(40, 5)), (12,)


def cnn():
    first = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)), (8, 8, 3)


def lstm():
    return nn.Sequential(nn.LSTM(6, 16, 2, last=True), nn.Linear(16, 5)), (7, 6)


def gpt():
    return nn.Sequential(nn.GPTBlock(4, dropout=0.1), nn.GPTBlock(4), nn.LayerNorm(24), nn.Linear(24, 5)), (9, 24)


def trained(make, optimizer, precision, monkeypatch, eager, choices=None):
    """Losses and weights after steps of changing learning rates, the last batch a smaller one; and how often Python ran
    the step.
    """
    rng, calls = np.random.default_rng(0), []
    model, shape = make()
    model.build(shape, 1, "cuda", precision)
    model.built.backend.adopt(choices or {})
    right = TrainStep.update
    monkeypatch.setattr(TrainStep, "update", lambda self, batches: (calls.append(1), right(self, batches))[1])
    if eager:
        backend = model.built.backend
        monkeypatch.setattr(backend, "capture", lambda step: step)
        monkeypatch.setattr(backend, "repeated", lambda *given: Backend.repeated(backend, *given))
    kind, options = optimizer
    made = kind(model.parameters(), **options)
    step = TrainStep(model, nn.CrossEntropyLoss(), made, clip_norm=0.5)
    tokens = (9,) if make is gpt else ()
    losses, norms, rate = [], [], made.lr
    for number in range(STEPS):
        count = 5 if number == STEPS - 1 else 8
        made.lr = rate * (1 + number % 3)
        x, target = rng.normal(size=(count, *shape)).astype(np.float32), rng.integers(0, 5, (count, *tokens))
        losses.append(float(step(x, target)))
        norms.append(float(step.grad_norm))
    monkeypatch.undo()
    return (
        {"losses": np.array(losses), "norms": np.array(norms), **model.state_dict()},
        len(calls),
        model.built.backend.choices,
    )


OPTIMIZERS = {
    "adamw": (gbp.optim.AdamW, {"lr": 1e-3}),
    "sgd": (gbp.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [mlp, cnn, lstm, gpt])
def test_replayed_steps_equal_those_of_python(cuda, make, optimizer, precision, monkeypatch):
    assert type(cuda).repeated is not Backend.repeated or type(cuda).capture is not Backend.capture, "nothing captures"
    wanted, runs, _ = trained(make, OPTIMIZERS[optimizer], precision, monkeypatch, eager=True)
    assert runs == STEPS
    found, runs, _ = trained(make, OPTIMIZERS[optimizer], precision, monkeypatch, eager=False)
    assert runs < STEPS, "Python ran every step: none was replayed"
    tolerance = 1e-10 if precision == "float64" else 1e-4
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("make", [mlp, cnn, lstm, gpt])
def test_the_same_seed_gives_the_same_bits(cuda, make, monkeypatch):
    adamw = OPTIMIZERS["adamw"]
    first, _, choices = trained(make, adamw, "float32", monkeypatch, eager=False)
    second = trained(make, adamw, "float32", monkeypatch, eager=False, choices=choices)[0]
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
