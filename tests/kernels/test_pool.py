"""Pooling kernels over random windows, beside the references."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpubackprop.ops.adaptive_pool import adaptive_avg_pool, adaptive_max_pool
from gpubackprop.ops.pool import avg_pool, global_avg_pool, global_max_pool, max_pool, pooled_size
from tests.kernels import harness

drawn = settings(max_examples=40, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def windows(draw):
    """(sizes, kernel, stride, padding, dilation) along one axis or two, all of which fit."""
    axes = []
    for _ in range(draw(st.integers(1, 2))):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        padding = (draw(st.integers(0, kernel // 2)), draw(st.integers(0, kernel // 2)))
        size = draw(st.integers(1, 11))
        assume(size + sum(padding) >= dilation * (kernel - 1) + 1)
        axes.append((size, kernel, draw(st.integers(1, 4)), padding, dilation))
    return tuple(zip(*axes, strict=True))


@drawn
@given(windows(), st.integers(0, 3), st.sampled_from([1, 3, 16, 70]), st.booleans(), st.booleans(), dtypes)
def test_windows(window, n, channels, ceil_mode, include_pad, dtype):
    sizes, kernel, stride, padding, dilation = window
    # Small integers: a window often holds its largest value twice.
    x = np.random.default_rng(7).integers(-2, 3, size=(n, *sizes, channels)).astype(dtype)
    b = harness.backend(2)
    options = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    harness.assert_equals_reference(b, max_pool, [x], options | {"dilation": dilation})
    assume(all(s + sum(p) >= k for s, k, p in zip(sizes, kernel, padding, strict=True)))
    options["count_include_pad"] = include_pad
    ends = (
        (s, pooled_size(s, k, t, p, 1, ceil_mode)) for s, k, t, p in zip(sizes, kernel, stride, padding, strict=True)
    )
    assume(all(count > 0 for _, count in ends))
    harness.assert_equals_reference(b, avg_pool, [x], options)


@drawn
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.sampled_from([1, 5, 64]), dtypes)
def test_all_positions(sizes, channels, dtype):
    x = np.random.default_rng(7).normal(size=(3, *sizes, channels)).astype(dtype)
    b = harness.backend(2)
    harness.assert_equals_reference(b, global_avg_pool, [x, None])
    if np.prod(sizes) <= 256:
        harness.assert_equals_reference(b, global_max_pool, [x, None])


@drawn
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=2), dtypes)
def test_bins_of_one_size(axes, dtype):
    x = np.random.default_rng(7).normal(size=(2, *(bins * size for bins, size in axes), 6)).astype(dtype)
    b = harness.backend(2)
    harness.assert_equals_reference(b, adaptive_max_pool, [x], {"output_size": tuple(bins for bins, _ in axes)})
    harness.assert_equals_reference(b, adaptive_avg_pool, [x], {"output_size": (1,) * len(axes)})
