"""The GPU's LAMB and Muon, which look at params as a whole, beside their references on the test device."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda import chunks
from gpubackprop.optim import LAMB, Muon
from gpubackprop.parameters import Param, Parameters
from tests.kernels.cuda.device import ORDERS, TestDevice, inside_step
from tests.kernels.cuda.rows import needs_compiler
from tests.optim.specs import ROWS, draw, lr_of

pytestmark = needs_compiler
WHOLE = [spec for spec in ROWS if spec.cls in (LAMB, Muon)]
each_row = pytest.mark.parametrize("spec", WHOLE, ids=str)


def normal(rng, shape):
    return rng.normal(size=shape)


def made(spec, b, dtype, working=None):
    """Matrices that lie either way, wide and tall, two of one shape, one of more numbers than a chunk has."""
    named = {
        "0.weight": Param((3, 5), normal),
        "0.bias": Param((3,), normal, kind="bias"),
        "1.weight": Param((3, 2, 4, 6), normal, layout=(3, 2, 0, 1)),
        "2.weight": Param((1, 2, 3, 20), normal, layout=(3, 2, 0, 1)),
        "3.weight": Param((20, 30), normal),
        "4.weight": Param((7, 4), normal),
        "5.weight": Param((3, 5), normal),
        "6.weight": Param((), normal),
    }
    params = Parameters(named, b, dtype, seed=1)
    for name, param, *_ in params.segments:
        if name == "6.weight":
            param.value[...] = 0  # a norm of 0
    if working:
        params.value = b.from_host(b.to_host(params.master).astype(working))
    return spec.cls(params, **spec.options, groups=[{"match": "5.*", "lr_scale": 0.5, "weight_decay": 0.2}])


def arrays_of(optimizer):
    to_host = optimizer.backend.to_host
    kept = {
        f"{name}.{state}": to_host(array)[start:stop]
        for state, array in optimizer.state.items()
        for name, param, start, stop in segments_that_keep(optimizer, state)
    }
    return kept | {"master": to_host(optimizer.params.master)}


def segments_that_keep(optimizer, state):
    return [segment for segment in optimizer.params.segments if optimizer.keeps(state, segment)]


def train(optimizer, steps):
    for step in range(steps):
        draw(optimizer.params, step)
        optimizer.params.grad[...] = optimizer.params.grad.astype(np.float32)
        optimizer.lr = lr_of(optimizer.base_lr, step)
        optimizer.prepare()
        inside_step(optimizer.update)()
    return arrays_of(optimizer)


@each_row
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_an_update_equals_the_reference_in_any_order_of_threads(spec, dtype, monkeypatch):
    monkeypatch.setattr(chunks, "STEP", 256)  # so that a param has several chunks
    devices = [TestDevice(order) for order in ORDERS]
    found = [train(made(spec, b, dtype), 2) for b in devices]
    reference = made(spec, NumpyBackend(), np.float64)
    reference.params.master[...] = made(spec, NumpyBackend(), dtype).params.master
    for name, wanted in train(reference, 2).items():
        limit = (1e-11 if dtype == np.float64 else 10 * spec.float32) * np.abs(wanted).max()
        assert np.abs(found[0][name] - wanted).max() <= limit, name
        assert all(np.array_equal(other[name], found[0][name]) for other in found[1:]), name


def test_there_are_few_launches_and_products():
    b = TestDevice()
    train(made(WHOLE[0], b, np.float32), 2)
    assert b.double.launches == 4
    assert not b.double.products.calls
    b = TestDevice()
    muon = next(spec for spec in WHOLE if spec.cls is Muon)
    ours = made(muon, b, np.float32)
    train(ours, 1)
    shapes = 5  # of six matrices
    assert b.double.launches == 1 + 3 + 5 * shapes
    before = len(b.double.products.calls)  # the first step measured algorithms too
    train(ours, 1)
    assert len(b.double.products.calls) - before == 3 * 5 * shapes


@each_row
@pytest.mark.parametrize("working", [np.float16, bfloat16], ids=["float16", "bfloat16"])
def test_the_working_copy_is_written_too(spec, working):
    ours = made(spec, TestDevice(), np.float32, working)
    found = train(ours, 2)
    wanted = train(made(spec, TestDevice(), np.float32), 2)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert np.array_equal(ours.backend.to_host(ours.params.value), wanted["master"].astype(working))


@each_row
def test_a_step_that_does_not_count_changes_nothing(spec):
    b = TestDevice()
    ours = made(spec, b, np.float32, np.float16)
    before = train(ours, 1) | {"value": b.to_host(ours.params.value)}
    ours.params.grad[5] = np.inf
    for counts in (False, True):
        ours.prepare()
        inside_step(ours.update)(b.from_host(np.array(counts)))
        after = arrays_of(ours) | {"value": b.to_host(ours.params.value)}
        assert all(np.array_equal(after[name], before[name], equal_nan=True) for name in before) is not counts


@each_row
def test_a_nan_in_a_gradient_is_not_hidden(spec):
    ours = made(spec, TestDevice(), np.float32)
    train(ours, 1)
    segment = ours.params.segments[4]
    segment.param.grad[3, 2] = np.nan
    ours.step()
    master = ours.backend.to_host(ours.params.master)
    bad = np.isnan(master[segment.start : segment.stop])
    assert bad.sum() == np.isnan(master).sum()
    assert bad.sum() == (1 if spec.cls is LAMB else 600)


def test_a_matrix_that_lies_otherwise_is_left_to_the_reference():
    found = []
    for b in (TestDevice(), NumpyBackend()):
        params = Parameters({"w": Param((2, 3, 4), normal, layout=(1, 0, 2))}, b, np.float64, seed=1)
        draw(params, 0)
        Muon(params).step()
        found.append(b.to_host(params.master))
    np.testing.assert_allclose(*found, rtol=1e-12)
