"""The GPU's update rules beside their references, on the test device."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda.kernel import RULES
from gpubackprop.optim import SGD, Adam
from gpubackprop.parameters import Param, Parameters
from tests.kernels.cuda.device import ORDERS, TestDevice, inside_step
from tests.kernels.cuda.rows import needs_compiler
from tests.optim.specs import PLAIN, lr_of

pytestmark = needs_compiler
# LAMB looks at params as a whole.
ROWS = [spec for spec in PLAIN if spec.cls.update_run in RULES and spec.cls.__name__ != "LAMB"]
each_row = pytest.mark.parametrize("spec", ROWS, ids=str)
SIZES = (1, 30, 1500, 77)


def optimizer_of(spec, b, dtype):
    named = {
        f"{i}.w": Param((size,), lambda rng, shape: rng.normal(size=shape), kind="bias" if i % 3 else "weight")
        for i, size in enumerate(SIZES)
    }
    return spec.cls(Parameters(named, b, dtype, seed=1), **spec.options)


def train(optimizer, steps):
    """Gradients that float32 holds exactly, some of them zero."""
    b = optimizer.backend
    for step in range(steps):
        rng = np.random.default_rng(step)
        for _, param, _, _ in optimizer.params.segments:
            grad = rng.normal(size=param.shape) * (rng.random(param.shape) > 0.2)
            param.grad[...] = b.from_host(grad.astype(np.float32))
        optimizer.lr = lr_of(optimizer.base_lr, step)
        optimizer.prepare()
        inside_step(optimizer.update)()
    state = {name: b.to_host(array) for name, array in optimizer.state.items()}
    return state | {"master": b.to_host(optimizer.params.master)}


def test_rules_have_rows():
    assert {spec.cls.__name__ for spec in ROWS} == {"SGD", "Adam", "AdamW"}


@each_row
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_an_update_equals_the_reference_in_any_order_of_threads(spec, dtype):
    devices = [TestDevice(order) for order in ORDERS]
    found = [train(optimizer_of(spec, b, dtype), 3) for b in devices]
    assert all(b.double.launches >= 3 for b in devices)
    reference = optimizer_of(spec, NumpyBackend(), np.float64)
    reference.params.master[...] = optimizer_of(spec, NumpyBackend(), dtype).params.master
    for name, wanted in train(reference, 3).items():
        limit = (1e-12 if dtype == np.float64 else 10 * spec.float32) * np.abs(wanted).max()
        assert np.abs(found[0][name] - wanted).max() <= limit, name
        assert all(np.array_equal(other[name], found[0][name]) for other in found[1:]), name


@each_row
def test_a_nan_in_the_gradient_is_not_hidden(spec):
    b = TestDevice()
    optimizer = optimizer_of(spec, b, np.float32)
    train(optimizer, 1)
    optimizer.params.segments[2].param.grad[3] = np.nan
    optimizer.step()
    assert np.isnan(b.to_host(optimizer.params.master)).sum() == 1


def test_a_rule_of_the_users_own_is_not_replaced():
    class Ascent(SGD):
        def update_run(self, value, grad, state, scalars, decay):
            value += 1

    class Frozen(Adam):
        def means(self, grad, state, share):
            return self.xp.zeros_like(grad), self.xp.ones_like(grad)

    for cls, change in ((Ascent, 1), (Frozen, 0)):
        b = TestDevice()
        params = Parameters({"w": Param((50,), lambda rng, shape: rng.normal(size=shape))}, b, np.float64, seed=1)
        before = b.to_host(params.master)[:50] + change
        cls(params).step()
        assert np.array_equal(b.to_host(params.master)[:50], before)
