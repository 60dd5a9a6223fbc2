"""Embeddings and positions by kernels: shapes and options that the rows of the op table do not have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.ops.embedding import embedding
from gpubackprop.ops.position import learned_position
from tests.kernels import harness

both = pytest.mark.parametrize("dtype", [np.float32, np.float64])
seeded = settings(max_examples=25, deadline=None, derandomize=True)


@both
@seeded
@given(data=st.data())
def test_embedding_over_shapes(dtype, data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    rows, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 70))
    rng = np.random.default_rng(width)
    x, weight = rng.integers(0, rows, shape), rng.normal(size=(rows, width)).astype(dtype)
    padding_idx = data.draw(st.none() | st.integers(0, rows - 1))
    b = harness.backend(threads=data.draw(st.sampled_from([1, 2, 3])))
    harness.assert_equals_reference(b, embedding, [x, weight], {"padding_idx": padding_idx})


@both
@seeded
@given(data=st.data())
def test_learned_positions_over_shapes(dtype, data):
    n, t, e = (data.draw(st.integers(1, most)) for most in (4, 9, 40))
    offset, beyond = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    rng = np.random.default_rng(e)
    x, weight = (rng.normal(size=shape).astype(dtype) for shape in ((n, t, e), (offset + t + beyond, e)))
    b = harness.backend(threads=data.draw(st.sampled_from([1, 2, 3])))
    harness.assert_equals_reference(b, learned_position, [x, weight], {"offset": offset})


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("number", [5, -1])
@pytest.mark.parametrize("place", [0, 29])
def test_a_number_that_names_no_row_is_found(number, place, shared):
    x, weight = np.zeros(30, np.int64), np.ones((5, 4), np.float32)
    x[place] = number
    b = harness.backend(threads=2, always_shared=shared)
    pair = b.pair(embedding, [x, weight], {})
    assert pair is not embedding
    with pytest.raises(IndexError, match="row"):
        pair.forward(b, x, weight)
