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
