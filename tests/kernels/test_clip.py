"""The kernels of gradient clipping beside their references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.optim import clip
from tests.kernels import harness

NUMPY = NumpyBackend()
EASY = {"max_examples": 25, "deadline": None, "derandomize": True}
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def both(b, function, grad, *args):
    """What the kernel and the reference, in float64, give and leave."""
    ours, wanted = grad.copy(), grad.astype(np.float64)
    kernel = b.rule(function)
    assert kernel is not function
    return (kernel(b, ours, *args), ours), (function(NUMPY, wanted, *args), wanted)


@dtypes
def test_clipping_equals_the_reference(dtype):
    b = harness.backend(2)
    tolerance = 1e-13 if dtype == np.float64 else 1e-6

    @settings(**EASY)
    @given(st.integers(1, 40000), st.integers(0, 99), st.floats(1e-3, 1e3))
    def check(size, seed, limit):
        grad = np.random.default_rng(seed).normal(size=size).astype(dtype)
        (length, ours), (wanted_length, wanted) = both(b, clip.clip_norm, grad, limit)
        assert (length.shape, length.dtype) == ((), dtype)
        assert float(length) == pytest.approx(float(wanted_length), rel=tolerance)
        assert np.abs(ours - wanted).max() <= tolerance * np.abs(wanted).max()
        (length, ours), (wanted_length, _) = both(b, clip.norm, grad)
        assert float(length) == pytest.approx(float(wanted_length), rel=tolerance)
        assert np.array_equal(ours, grad)
        (_, ours), (_, wanted) = both(b, clip.clip_value, grad, limit)
        assert np.abs(ours - wanted).max() <= tolerance * np.abs(wanted).max()

    check()


@dtypes
def test_results_are_the_same_bits_whatever_the_number_of_threads(dtype):
    grad = np.random.default_rng(0).normal(size=100_003).astype(dtype)
    found = []
    for threads in (1, 2, 4):
        b, ours = harness.backend(threads), grad.copy()
        found.append((b.rule(clip.clip_norm)(b, ours, 1.0).tobytes(), ours.tobytes()))
    assert found[0] == found[1] == found[2]


def test_the_norm_of_many_small_numbers_is_exact_in_float32():
    b, grad = harness.backend(), np.full(3_000_001, 0.1, np.float32)
    wanted = np.sqrt(len(grad)) * float(np.float32(0.1))
    assert float(b.rule(clip.clip_norm)(b, grad, 1e9)) == pytest.approx(wanted, rel=1e-6)
    assert (grad == np.float32(0.1)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_is_not_hidden(bad):
    grad = np.ones(20000, np.float32)
    grad[9000] = bad
    with np.errstate(invalid="ignore"):
        (length, ours), (_, wanted) = both(harness.backend(2), clip.clip_norm, grad, 1.0)
    assert not np.isfinite(length)
    assert np.array_equal(np.isnan(ours), np.isnan(wanted))
    assert np.isnan(both(harness.backend(), clip.clip_value, np.array([np.nan, 3.0]), 1.0)[0][1]).tolist() == [
        True,
        False,
    ]


def test_zero_and_no_gradients():
    b = harness.backend(2)
    for size in (0, 5):
        grad = np.zeros(size)
        assert b.rule(clip.clip_norm)(b, grad, 1.0) == 0
        assert b.rule(clip.norm)(b, grad) == 0
        b.rule(clip.clip_value)(b, grad, 1.0)
        assert not grad.any()


def test_an_array_with_gaps_has_a_norm():
    b, array = harness.backend(), np.arange(10.0)[::2]
    assert float(b.rule(clip.norm)(b, array)) == pytest.approx(np.linalg.norm(array))
