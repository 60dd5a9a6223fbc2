from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.optim import SGD, GradientNoise
from gpubackprop.parameters import Param, Parameters
from gpubackprop.training.step import TrainStep
from tests.optim.specs import normal


def gradients(steps=0, device="numpy", shapes=((40, 100), (30,)), frozen=False, **options):
    named = {f"{i}.weight": Param(shape, normal) for i, shape in enumerate(shapes)}
    params = Parameters(named, choose("cpu" if device == "numpy" else device)[0], "float64", seed=1)
    params.segments[0].param.needs_grad = not frozen
    noise = GradientNoise(params, **options)
    noise.prepare(steps)
    noise.add(steps)
    return params.backend.to_host(params.grad), params


@pytest.mark.parametrize(("steps", "eta", "gamma"), [(0, 0.01, 0.55), (99, 0.3, 0.55), (9, 1.0, 0.0)])
def test_its_variance_is_the_papers(steps, eta, gamma):
    grad, _ = gradients(steps, eta=eta, gamma=gamma)
    noise = grad[:4000] / np.sqrt(eta / (1 + steps) ** gamma)
    assert abs(noise.mean()) < 4 / np.sqrt(4000)
    assert noise.var() == pytest.approx(1, abs=4 * np.sqrt(2 / 4000))
    assert np.mean(np.abs(noise) > 1.96) == pytest.approx(0.05, abs=0.015)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 4 / np.sqrt(4000)
    assert abs(np.corrcoef(noise[:2000], noise[2000:])[0, 1]) < 4 / np.sqrt(2000)


def test_padding_and_frozen_params_have_none():
    grad, params = gradients(frozen=True)
    _, (_, _, start, stop) = params.segments
    assert grad[start:stop].all()
    assert not grad[:start].any()
    assert not grad[stop:].any()


def test_it_is_a_function_of_seed_step_and_key(monkeypatch):
    first, _ = gradients()
    assert np.array_equal(gradients()[0], first)
    assert np.array_equal(gradients(device="strict")[0], first)
    assert not np.array_equal(gradients(seed=1)[0], first)
    assert not np.isclose(gradients(1, gamma=0.0)[0], first).any(where=first != 0)
    assert np.array_equal(gradients(shapes=((40, 100),))[0][:4000], first[:4000])
    monkeypatch.setattr(GradientNoise, "BLOCK", 3)
    assert np.array_equal(gradients()[0], first)


def test_a_step_adds_it_before_clipping(rng):
    x, target = rng.normal(size=(8, 3)), rng.integers(0, 2, 8)
    found = {}
    for eta in (None, 0.01, 100.0):
        model = nn.Sequential(nn.Linear(3, 2)).build((3,), precision="float64")
        params = model.parameters()
        noise = GradientNoise(params, eta) if eta else None
        step = TrainStep(model, nn.CrossEntropyLoss(), SGD(params), clip_norm=1.0, noise=noise)
        step(x, target)
        found[eta] = params.grad.copy(), float(step.grad_norm)
    drawn = gradients(shapes=((2, 3), (2,)))[0]
    assert np.linalg.norm(found[100.0][0]) == pytest.approx(1, rel=1e-6)
    assert found[100.0][1] > 5
    plain, noisy = found[None][0], found[0.01][0]
    np.testing.assert_allclose((noisy - plain)[:6], drawn[:6], rtol=1e-6)
