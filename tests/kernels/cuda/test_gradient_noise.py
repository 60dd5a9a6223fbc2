"""The GPU's gradient noise beside its reference, on the test device."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda import chunks
from gpubackprop.optim import GradientNoise
from gpubackprop.parameters import Param, Parameters
from tests.kernels.cuda.device import ORDERS, TestDevice, inside_step
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
SIZES = (1, 63, 64, 130, 7, 1001)


def noisy(b, dtype, step):
    """Gradients after noise on ones."""
    named = {f"{i}.w": Param((size,), lambda rng, shape: np.zeros(shape)) for i, size in enumerate(SIZES)}
    named["4.w"].needs_grad = False
    params = Parameters(named, b, dtype, seed=1)
    params.grad[...] = 1
    noise = GradientNoise(params, eta=0.3, seed=2**40 + 5)
    noise.prepare(3)
    add = b.rule(GradientNoise.add)
    inside_step(add)(noise, step if isinstance(step, int) else b.from_host(step))
    return b.to_host(params.grad)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("step", [np.array(7, np.uint64), 2**32 - 1], ids=["array", "number"])
def test_noise_equals_the_reference(order, dtype, step, monkeypatch):
    monkeypatch.setattr(chunks, "STEP", 128)
    b = TestDevice(order)
    assert b.rule(GradientNoise.add) is not GradientNoise.add
    found = noisy(b, dtype, step)
    assert b.double.launches == 1
    np.testing.assert_allclose(found, noisy(NumpyBackend(), dtype, step), rtol=2e-6, atol=2e-6)
