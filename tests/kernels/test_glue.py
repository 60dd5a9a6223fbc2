"""Filling, copying, adding and scaling whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import harness


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 33, 1000])
def test_glue_is_numpys_to_the_bit(dtype, threads, size):
    b = harness.backend(threads)
    from gpubackprop.kernels.cpu import glue

    x, y = np.random.default_rng(size).normal(size=(2, size)).astype(dtype)
    out = np.full(size, np.nan, dtype)
    b.launch(glue.fill, out, dtype(3))
    assert (out == 3).all()
    b.launch(glue.copy, out, x)
    assert np.array_equal(out, x)
    b.launch(glue.add, x, y, out)
    assert np.array_equal(out, x + y)
    b.launch(glue.add_to, out, x)
    assert np.array_equal(out, x + y + x)
    for by in (1, 4):
        b.launch(glue.scale, out, np.full(1, by, dtype))
        assert out.dtype == dtype
        assert np.array_equal(out, (x + y + x) / by)
    b.launch(glue.scale, out, np.full(1, np.nan, dtype))
    assert np.isnan(out).all()


@pytest.mark.parametrize("size", [7, 5000])
def test_arrays_with_gaps_are_written_to_themselves(size):
    b = harness.backend(2)
    x, y = np.random.default_rng(size).normal(size=(2, size, 2)).astype(np.float32)
    two = np.full((), 2, np.float32)

    def gaps():
        return np.zeros((2, size), np.float32).T

    out = gaps()
    assert b.add(x, y, out) is out
    assert np.array_equal(out, x + y)
    b.add(out, y, out)
    assert np.array_equal(out, x + y + y)
    b.assign(out, x)
    assert np.array_equal(out, x)
    b.divide(out, two, out)
    assert np.array_equal(out, x / 2)
    out = gaps()
    assert b.divide(x, y, out) is out
    assert np.array_equal(out, x / y)
    b.assign(out, 3)
    assert (out == 3).all()
