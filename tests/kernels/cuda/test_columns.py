"""Sums over the leading axis on the test device: one strip of rows and many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.kernels.cuda import grid
from gpubackprop.kernels.cuda.columns import column_sums
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS, TestDevice

pytestmark = rows.needs_compiler


def sums(x, order):
    b = TestDevice(order)
    return b.to_host(column_sums(b, b.from_host(x), b.empty(x.shape[1:], x.dtype)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(st.sampled_from([0, 1, 31, 32, 200, 700]), st.sampled_from([1, 4, 10, 128, 130, 515])),
    st.sampled_from(rows.DTYPES),
)
def test_column_sums(shape, dtype):
    x = np.random.default_rng(0).normal(0.1, 1, size=shape).astype(dtype)
    found = [sums(x, order) for order in ORDERS]
    assert all(np.array_equal(each, found[0]) for each in found)
    wanted = x.astype(np.float64).sum(axis=0)
    off = np.abs(found[0].astype(np.float64) - wanted).max() / max(np.abs(wanted).max(), 1)
    assert off <= rows.TOLERANCES[np.dtype(dtype).name]


@pytest.mark.parametrize(("rows", "blocks", "wanted"), [(0, 1, 1), (33, 1, 2), (10**6, 1, 128), (10**6, 6144, 1)])
def test_more_strips_where_there_are_fewer_columns(rows, blocks, wanted):
    assert grid.strips(rows, blocks) == wanted
