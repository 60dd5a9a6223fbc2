"""Dropout and noise on the test device: NumPy's random bits, whatever the batch, the place and the dtype."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.backend.strict import StrictArray
from gpubackprop.ops.dropout import dropout, dropout_mask
from gpubackprop.ops.noise import gaussian_noise, gaussian_sample
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import TestDevice, inside_step

pytestmark = rows.needs_compiler
drawn = settings(max_examples=25, deadline=None, derandomize=True)
shapes = st.sampled_from(
    [(0, 3), (5,), (3, 1), (2, 8), (3, 13), (1, 515), (4, 3, 8), (2, 4, 6), (2, 3, 4, 20), (2, 12)]
)


def on_device(op, x, samples, step, **options):
    """y, and dx of ones."""
    b = TestDevice("random")
    pair = b.pair(op, (x, samples, step), options)
    assert pair is not op
    step = step if isinstance(step, int) else StrictArray(step)
    y, saved = inside_step(pair.forward)(b, StrictArray(x), StrictArray(samples), step, **options)
    return b.to_host(y), lambda dy, slots: b.to_host(pair.backward(b, saved, StrictArray(dy), slots)[0])


@drawn
@given(
    shapes,
    st.sampled_from(rows.DTYPES),
    st.sampled_from([np.int64, np.int32, np.uint64]),
    st.sampled_from([7, np.array(2**31 + 5, np.uint64), np.array(3)]),
    st.sampled_from([0, 2**32 - 1, 2**63 + 12345]),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_masks_are_numpys_to_the_bit(shape, dtype, kind, step, seed, alike, over, p):
    over = min(over, len(shape) - 1)
    samples = (1000 + 3 * np.arange(shape[0])).astype(kind)
    options = {"p": p, "seed": seed, "stream": 2**32 - 5, "alike": alike}
    mask = dropout_mask(NumpyBackend(), (shape[0], *(1,) * over, *shape[1 + over :]), samples, step, **options)
    x = np.ones(shape, dtype)
    y, backward = on_device(dropout, x, samples, step, over=over, **options)
    assert np.array_equal(y != 0, np.broadcast_to(mask, shape) & (p < 1))
    assert np.array_equal(y, backward(x, rows.harness.only(0, [x, None, None])))


@pytest.mark.parametrize("start", [0, 1])
def test_a_mask_does_not_depend_on_where_an_array_begins(start):
    b = TestDevice()
    x = b.from_host(np.ones(2 * 24 + start, np.float32))[start:].reshape(2, 24)
    options = {"p": 0.5, "seed": 1, "stream": 2}
    y, _ = b.pair(dropout, (x, x, x), options).forward(b, x, b.from_host(np.arange(2)), 3, **options)
    mask = dropout_mask(NumpyBackend(), (2, 24), np.arange(2), 3, **options)
    assert np.array_equal(b.to_host(y), 2.0 * mask)


@drawn
@given(shapes.filter(lambda shape: len(shape) > 1 and shape[-1] % 2 == 0), st.sampled_from(rows.DTYPES))
def test_normal_numbers_are_numpys_to_rounding(shape, dtype):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    samples, step = np.arange(4, 4 + shape[0]), np.array(9, np.uint64)
    for op, options in ((gaussian_noise, {"std": 0.7}), (gaussian_sample, {})):
        options = {"seed": 2**40, "stream": 5, **options}
        y, _ = on_device(op, x, samples, step, **options)
        wanted, _ = op.forward(NumpyBackend(), x.astype(np.float64), samples, step, **options)
        tolerance = max(1e-5, rows.TOLERANCES[np.dtype(dtype).name])
        assert rows.harness.error(y.astype(np.float64), wanted) <= tolerance
