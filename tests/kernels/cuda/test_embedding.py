"""Embeddings on the test device: rows picked often, never, and by numbers that name none."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.ops.embedding import embedding
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS
from tests.ops.specs import OpSpec

pytestmark = rows.needs_compiler


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(st.sampled_from([1, 3, 27, 255, 256, 600]), st.sampled_from([1, 4, 6, 33, 136])),
    st.sampled_from([0, 1, 31, 500, 1100]),
    st.sampled_from([1, 5, None]),
    st.sampled_from([np.int64, np.int32, np.uint16]),
    st.sampled_from([np.float32, np.float64, np.float16]),
    st.booleans(),
)
def test_embedding(shape, count, favourites, kind, dtype, padded):
    rng = np.random.default_rng(0)
    x = rng.integers(0, min(shape[0], favourites or shape[0]), count).astype(kind)
    options = {"padding_idx": -1} if padded else {}
    spec = OpSpec("drawn", embedding, None, None, options)
    rows.check(spec, [x, rng.normal(size=shape).astype(dtype)], ORDERS[1:])


def test_a_number_that_names_no_row_gives_nan_and_no_gradient():
    x, weight = np.array([7, 1, -1]), np.ones((3, 5), np.float32)
    found = rows.on_device(OpSpec("drawn", embedding, None, None), [x, weight])
    assert np.isnan(found["y0"]).all(axis=1).tolist() == [True, False, True]
    assert (found["d1"] != 0).any(axis=1).tolist() == [False, True, False]
