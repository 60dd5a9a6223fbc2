"""Pooling and interpolation on the test device: random windows, bins and scales over one to three axes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from gpubackprop.ops.adaptive_pool import adaptive_avg_pool, adaptive_max_pool
from gpubackprop.ops.pool import avg_pool, global_avg_pool, global_max_pool, max_pool
from gpubackprop.ops.upsample import upsample_linear, upsample_nearest
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS
from tests.kernels.cuda.test_faults import broken
from tests.ops import harness
from tests.ops.specs import OpSpec

pytestmark = rows.needs_compiler
drawn = settings(max_examples=30, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64, bfloat16])
channels = st.sampled_from([1, 3, 4, 8, 10, 136, 264])
orders = st.sampled_from(ORDERS[1:])
RNG = np.random.default_rng(0)


def check(op, x, options, order="random", mask=None, **more):
    inputs = [x, mask] if op in (global_avg_pool, global_max_pool) else [x]
    rows.check(OpSpec("drawn", op, None, None, options), inputs, ("forward", order), **more)


def coarse(shape, dtype):
    """Numbers of which many are equal, so that the first of the largest has to be found."""
    return RNG.integers(-3, 4, size=shape).astype(dtype)


#: size, kernel, stride, padding, dilation of an axis
axes = st.tuples(
    st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.tuples(*[st.integers(0, 2)] * 2), st.integers(1, 3)
)


@drawn
@given(st.lists(axes, min_size=1, max_size=3), channels, st.booleans(), st.booleans(), dtypes, orders)
def test_windows(given_axes, width, ceil, counted, dtype, order):
    given_axes = [(size, k, s, tuple(min(p, k // 2) for p in around), e) for size, k, s, around, e in given_axes]
    assume(all(size >= e and size + sum(around) >= e * (k - 1) + 1 for size, k, _, around, e in given_axes))
    sizes, kernel, stride, padding, dilation = zip(*given_axes, strict=True)
    x = coarse((2, *sizes, width if len(sizes) < 3 else min(width, 10)), dtype)
    options = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
    check(max_pool, x, options | {"dilation": dilation}, order)
    check(avg_pool, x, options | {"count_include_pad": counted}, order)


@drawn
@given(st.lists(st.tuples(*[st.integers(1, 9)] * 2), min_size=1, max_size=3), channels, dtypes, orders)
def test_bins(sizes, width, dtype, order):
    sizes, bins = zip(*(sizes if len(sizes) < 3 else [(s % 4 + 1, p % 4 + 1) for s, p in sizes]), strict=True)
    x = coarse((2, *sizes, min(width, 136)), dtype)
    check(adaptive_max_pool, x, {"output_size": bins}, order)
    check(adaptive_avg_pool, x, {"output_size": bins}, order)


@drawn
@given(st.tuples(st.integers(0, 3), st.integers(1, 90)), channels, st.booleans(), dtypes, orders)
def test_all_positions(shape, width, masked, dtype, order):
    mask = RNG.random(shape) < 0.3 if masked else None
    for op in (global_avg_pool, global_max_pool):
        check(op, coarse((*shape, width), dtype), {}, order, mask)


@drawn
@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 17)), min_size=1, max_size=2),
    st.booleans(),
    channels,
    dtypes,
    orders,
)
def test_grids(sizes, corners, width, dtype, order):
    sizes, size = zip(*sizes, strict=True)
    x = RNG.normal(size=(2, *sizes, min(width, 136))).astype(dtype)
    options = {"size": size, "scales": tuple(s / p for s, p in zip(sizes, size, strict=True))}
    check(upsample_nearest, x, options, order)
    check(upsample_linear, x, options | {"align_corners": corners}, order)


@pytest.mark.parametrize("factor", [7, 1 / 7, 2.5, 0.3])
def test_a_long_axis_falls_as_the_references_at_every_cell(factor):
    cells = 900
    x = RNG.normal(size=(1, cells, 1)).astype(np.float32)
    options = {"size": (int(cells * factor),), "scales": (1 / factor,)}
    check(upsample_nearest, x, options)
    check(upsample_linear, x, options | {"align_corners": False}, tolerance=1e-3)


@pytest.mark.parametrize("op", [max_pool, adaptive_max_pool])
def test_windows_of_more_cells_than_a_byte_counts(op):
    x = RNG.normal(size=(2, 40, 20, 4)).astype(np.float32)
    options = {"kernel": (18, 15), "stride": (9, 3), "padding": ((0, 0),) * 2, "dilation": (1, 1)}
    check(op, x, options if op is max_pool else {"output_size": (2, 1)})


@pytest.mark.parametrize("op", [max_pool, adaptive_max_pool, global_max_pool])
def test_the_first_nan_of_a_window_gets_its_gradient(op):
    x = RNG.normal(size=(1, 6, 4)).astype(np.float32)
    x[0, [1, 2, 5], 0] = np.nan, 9, np.nan
    options = {
        max_pool: {"kernel": (6,), "stride": (6,), "padding": ((0, 0),), "dilation": (1,)},
        adaptive_max_pool: {"output_size": (1,)},
        global_max_pool: {},
    }[op]
    inputs = [x, None] if op is global_max_pool else [x]
    found = rows.on_device(OpSpec("nan", op, None, None, options), inputs)
    assert np.isnan(found["y0"].reshape(-1)).tolist() == [True, False, False, False]
    assert np.flatnonzero(found["d0"][0, :, 0]).tolist() == [1]


def test_windows_that_hold_nothing_but_padding_or_infinity():
    x = np.full((1, 4, 3), -np.inf, np.float32)
    options = {"kernel": (1,), "stride": (1,), "padding": ((1, 1),), "dilation": (1,)}
    found = rows.on_device(OpSpec("padding", max_pool, None, None, options), [x])
    assert (found["y0"] == -np.inf).all()


@pytest.mark.parametrize(
    ("op", "right", "wrong"),
    [
        ("max_pool2d overlapping", "won.at[k] == number", "won.at[k] >= number"),
        ("max_pool2d ceil mode, padded", "left < cells(p) ? left : cells(p)", "cells(p)"),
        ("max_pool2d dilation", "number * dilation == off ? number : -1", "number"),
        ("avg_pool2d padding not counted", "end < most ? end : most", "end"),
        ("adaptive_avg_pool2d", "(static_cast<long long>(i + 1) * out + size - 1) / size", "i * out / size + 1"),
    ],
)
def test_a_broken_kernel_is_seen(tmp_path, op, right, wrong):
    spec = next(spec for spec in rows.ROWS if spec.name == op)
    inputs = harness.draw(spec, np.float32)
    with pytest.raises(AssertionError), np.errstate(invalid="ignore"):
        rows.check(spec, inputs, ("forward",), folder=broken(tmp_path, "pool.cu", right, wrong))
