"""The GPU's update rules beside their references, on the test device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ml_dtypes import bfloat16

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda import chunks, optimizer
from gpubackprop.optim import LAMB, SAM, SGD, Adam, RMSprop, WeightAverage
from gpubackprop.optim.optimizer import Run
from gpubackprop.parameters import Param, Parameters
from tests.kernels.cuda.device import ORDERS, TestDevice, inside_step
from tests.kernels.cuda.rows import needs_compiler
from tests.optim.specs import ROWS, lr_of

pytestmark = needs_compiler
# LAMB's and Muon's own: test_alone.py. SAM's update is that of the optimizer in it.
FLAT = [spec for spec in ROWS if spec.cls.update_run in optimizer.FORMS and spec.cls not in (LAMB, SAM)]
each_row = pytest.mark.parametrize("spec", FLAT, ids=str)
SIZES = (1, 30, 1500, 77, 3, 1100)


def made(spec, b, dtype, working=None):
    """Its optimizer; every third param has another weight decay, and the fifth is frozen."""
    named = {
        f"{i}.w": Param((size,), lambda rng, shape: rng.normal(size=shape), kind="bias" if i % 3 else "weight")
        for i, size in enumerate(SIZES)
    }
    named["4.w"].needs_grad = False
    params = Parameters(named, b, dtype, seed=1)
    if working:
        params.value = b.from_host(b.to_host(params.master).astype(working))
    within = spec.inner or spec
    groups = {"no_decay": ("bias",), "groups": [{"match": "3.w", "lr_scale": 0.5}]}
    within = replace(within, options=within.options | groups)
    return (replace(spec, inner=within) if spec.inner else within).make(params)


def give_gradients(optimizer, step):
    """Gradients that float32 holds exactly, some of them zero."""
    rng = np.random.default_rng(step)
    for _, param, _, _ in optimizer.params.segments:
        grad = rng.normal(size=param.shape) * (rng.random(param.shape) > 0.2)
        param.grad[...] = optimizer.backend.from_host(grad.astype(np.float32))


def arrays_of(optimizer):
    states = optimizer.state | (optimizer.optimizer.state if hasattr(optimizer, "optimizer") else {})
    return {name: optimizer.backend.to_host(a) for name, a in [("master", optimizer.params.master), *states.items()]}


def train(optimizer, steps):
    for step in range(steps):
        give_gradients(optimizer, step)
        optimizer.lr = lr_of(optimizer.base_lr, step)
        optimizer.prepare()
        inside_step(optimizer.update)()
    return arrays_of(optimizer)


def test_every_rule_is_used():
    assert {spec.cls.__name__ for spec in ROWS} - {spec.cls.__name__ for spec in FLAT} == {"LAMB", "SAM"}
    found = {optimizer.FORMS[spec.cls.update_run].rule(made(spec, NumpyBackend(), np.float64)) for spec in FLAT}
    assert found == set(optimizer.RULES)


@each_row
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_an_update_equals_the_reference_in_any_order_of_threads(spec, dtype):
    devices = [TestDevice(order) for order in ORDERS]
    found = [train(made(spec, b, dtype), 3) for b in devices]
    assert all(b.double.launches == (6 if spec.inner else 3) for b in devices), "more than one launch for each update"
    reference = made(spec, NumpyBackend(), np.float64)
    reference.params.master[...] = made(spec, NumpyBackend(), dtype).params.master
    for name, wanted in train(reference, 3).items():
        limit = (1e-12 if dtype == np.float64 else 10 * spec.float32) * np.abs(wanted).max()
        assert np.abs(found[0][name] - wanted).max() <= limit, name
        assert all(np.array_equal(other[name], found[0][name]) for other in found[1:]), name


@each_row
@pytest.mark.parametrize("working", [np.float16, bfloat16], ids=["float16", "bfloat16"])
def test_the_working_copy_is_written_by_the_same_launch(spec, working):
    b = TestDevice()
    ours = made(spec, b, np.float32, working)
    found = train(ours, 2)
    assert b.double.launches == (4 if spec.inner else 2)
    wanted = train(made(spec, TestDevice(), np.float32), 2)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert np.array_equal(b.to_host(ours.params.value), wanted["master"].astype(working))


@each_row
def test_a_step_that_does_not_count_changes_nothing(spec):
    b = TestDevice()
    ours = made(spec, b, np.float32, np.float16)
    before = train(ours, 1) | {"value": b.to_host(ours.params.value)}
    ours.params.grad[70] = np.inf
    for counts in (False, True):
        ours.prepare()
        inside_step(ours.update)(b.from_host(np.array(counts)))
        after = arrays_of(ours) | {"value": b.to_host(ours.params.value)}
        same = [np.array_equal(after[name], before[name], equal_nan=True) for name in before]
        assert all(same) is not counts


@each_row
def test_a_nan_in_the_gradient_is_not_hidden(spec):
    found = []
    for b in (TestDevice(), NumpyBackend()):
        ours = made(spec, b, np.float32)
        train(ours, 1)
        ours.params.segments[2].param.grad[3] = np.nan
        ours.step()
        found.append({name: np.isnan(a) for name, a in arrays_of(ours).items()})
    assert found[0]["master"].sum() == 1
    assert all(np.array_equal(found[0][name], where) for name, where in found[1].items())


def test_a_variance_that_rounding_makes_negative_is_zero():
    b = TestDevice()
    params = Parameters({"w": Param((500,), lambda rng, shape: rng.normal(size=shape))}, b, np.float32, seed=1)
    ours = RMSprop(params, alpha=0.5, centered=True)
    params.grad[...] = params.master
    for _ in range(40):
        ours.step()
    assert np.isfinite(b.to_host(params.master)).all()


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
        assert b.double.launches == 0
        assert np.array_equal(b.to_host(params.master)[:50], before)


def test_nothing_that_is_trained_is_nothing_to_do():
    b = TestDevice()
    params = Parameters({"w": Param((50,), lambda rng, shape: rng.normal(size=shape))}, b, np.float64, seed=1)
    params.segments[0].param.needs_grad = False
    before = b.to_host(params.master)
    SGD(params).step()
    assert np.array_equal(b.to_host(params.master), before)


def test_chunks_cover_all_runs_once(monkeypatch):
    monkeypatch.setattr(chunks, "BLOCKS", 2)
    runs = [Run(0, 5000, 0, True), Run(5056, 5057, 1, False), Run(6400, 8448, 0, True)]
    rows = chunks.chunks(runs)
    assert rows.dtype == np.int64
    assert rows.shape[1] == 4
    for number, run in enumerate(runs):
        own = rows[rows[:, 3] == number]
        covered = [place for start, count, *_ in own for place in range(start, start + count)]
        assert covered == list(range(run.start, run.stop))
        assert set(own[:, 2]) == {run.setting}
    assert (rows[:, 0] % Parameters.ALIGN == 0).all()
    assert chunks.chunks([]).shape == (0, 4)


@pytest.mark.parametrize("order", ORDERS)
def test_an_average_follows(order):
    b = TestDevice(order)
    ours = made(FLAT[1], b, np.float64)
    average, wanted = WeightAverage(ours.params, 0.75), None
    for step in range(3):
        average.prepare(step)
        train(ours, 1)
        before = b.double.launches
        inside_step(average.update)()
        assert b.double.launches == before + 1
        value = b.to_host(ours.params.master)
        wanted = value if wanted is None else 0.75 * wanted + 0.25 * value
        np.testing.assert_allclose(b.to_host(average.value), wanted, rtol=1e-13)
