"""The GPU's kernels of clipping and loss scaling beside their references, on the test device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda import grid
from gpubackprop.optim import LossScale, clip, scale
from tests.kernels.cuda.device import ORDERS, TestDevice, inside_step
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
NUMPY = NumpyBackend()
EASY = {"max_examples": 25, "deadline": None, "derandomize": True}
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def both(function, grad, *args, order="forward"):
    """What the kernel and the reference, in float64, give and leave."""
    b = TestDevice(order)
    ours, wanted = b.from_host(grad), grad.astype(np.float64)
    kernel = b.rule(function)
    assert kernel is not function
    found = inside_step(kernel)(b, ours, *args)
    assert found is None or (found.shape == () and found.dtype == grad.dtype)
    with np.errstate(invalid="ignore"):
        right = function(NUMPY, wanted, *args)
    return (None if found is None else b.to_host(found), b.to_host(ours)), (right, wanted)


@dtypes
def test_clipping_equals_the_reference(dtype, monkeypatch):
    monkeypatch.setattr(grid, "BLOCKS", 3)  # so that threads take several turns
    tolerance = 1e-13 if dtype == np.float64 else 1e-6

    @settings(**EASY)
    @given(st.integers(1, 5000), st.integers(0, 99), st.floats(1e-3, 1e3), st.sampled_from(ORDERS))
    def check(size, seed, limit, order):
        grad = np.random.default_rng(seed).normal(size=size).astype(dtype)
        for function, args in ((clip.clip_norm, (limit,)), (clip.norm, ()), (clip.clip_value, (limit,))):
            (length, ours), (wanted_length, wanted) = both(function, grad, *args, order=order)
            assert length is wanted_length or length == pytest.approx(wanted_length, rel=tolerance)
            assert np.abs(ours - wanted).max() <= tolerance * np.abs(wanted).max()

    check()


@dtypes
def test_results_are_the_same_bits_in_any_order_of_threads(dtype):
    grad = np.random.default_rng(0).normal(size=10_003).astype(dtype)
    found = [both(clip.clip_norm, grad, 1.0, order=order)[0] for order in ORDERS]
    assert all(length == found[0][0] and np.array_equal(ours, found[0][1]) for length, ours in found)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_is_not_hidden(bad):
    grad = np.ones(2000, np.float32)
    grad[900] = bad
    (length, ours), (_, wanted) = both(clip.clip_norm, grad, 1.0)
    assert not np.isfinite(length)
    assert np.array_equal(np.isnan(ours), np.isnan(wanted))
    assert np.isnan(both(clip.clip_value, np.array([np.nan, 3.0]), 1.0)[0][1]).tolist() == [True, False]


def test_zero_and_no_gradients():
    for size in (0, 5):
        grad = np.zeros(size)
        assert both(clip.clip_norm, grad, 1.0)[0][0] == 0
        assert both(clip.norm, grad)[0][0] == 0
        assert not both(clip.clip_value, grad, 1.0)[0][1].any()


def test_an_array_with_gaps_has_a_norm():
    b, array = TestDevice(), np.arange(10.0)
    found = b.rule(clip.norm)(b, b.from_host(array)[::2])
    assert float(found) == pytest.approx(np.linalg.norm(array[::2]))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("place", "bad"), [(0, np.inf), (2999, -np.inf), (1500, np.nan), (7, 3e38), (7, 0)])
def test_loss_scaling_equals_the_reference(order, place, bad, monkeypatch):
    monkeypatch.setattr(grid, "BLOCKS", 2)
    b, reference = TestDevice(order), NUMPY
    grad = np.random.default_rng(place).normal(size=3000).astype(np.float32)
    grad[place] = bad
    results = []
    for device in (b, reference):
        ours, state = device.from_host(grad.copy()), LossScale(device, 2.0**-3)  # 3e38 overflows
        with np.errstate(over="ignore"):
            ok = inside_step(state.unscale_and_check)(device, ours)
        assert (ok.shape, ok.dtype) == ((), bool)
        results.append((bool(ok), device.to_host(ours)))
    assert results[0][0] is results[1][0] is (bad == 0)
    assert np.array_equal(results[0][1], results[1][1], equal_nan=True)
    assert b.double.launches == 2


@pytest.mark.parametrize("first", [LossScale.SMALLEST, 2.0**16, LossScale.LARGEST])
def test_the_scale_goes_as_the_references_does(first):
    assert TestDevice().rule(scale.rescale) is not scale.rescale
    steps = np.random.default_rng(0).random(200) < 0.8
    scales = [LossScale(b, first, interval=4) for b in (TestDevice(), NUMPY)]
    for counts in steps:
        states = []
        for each in scales:
            inside_step(each.update)(each.backend.from_host(np.array(counts)))
            states.append(each.state_dict())
        assert all(np.array_equal(states[0][name], states[1][name]) for name in LossScale.STATE)
