"""Kernels that move values, beside the references."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.ops.shape import add, concat, flatten, pad_channels
from tests.kernels import harness

drawn = settings(max_examples=25, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64])
shapes = st.lists(st.integers(1, 20), min_size=2, max_size=4).map(tuple)


def _normal(dtype, *shapes):
    rng = np.random.default_rng(7)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@drawn
@given(shapes, st.lists(st.integers(1, 40), min_size=1, max_size=4), dtypes, st.integers(1, 3))
def test_add_flatten_and_concat(shape, widths, dtype, threads):
    b = harness.backend(threads)
    harness.assert_equals_reference(b, add, _normal(dtype, shape, shape))
    harness.assert_equals_reference(b, flatten, _normal(dtype, shape))
    harness.assert_equals_reference(b, concat, _normal(dtype, *((*shape, width) for width in widths)))


@drawn
@given(
    st.tuples(st.integers(0, 4), *(st.integers(1, 40),) * 2, st.integers(1, 40)),
    st.integers(0, 9),
    st.integers(1, 3),
    dtypes,
)
def test_pad_channels(shape, more, stride, dtype):
    options = {"out_channels": shape[-1] + more, "stride": stride}
    harness.assert_equals_reference(harness.backend(2), pad_channels, _normal(dtype, shape), options)
