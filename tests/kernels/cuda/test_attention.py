"""Softmax and attention on the test device: random shapes, masks and dropout, and views of a projection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from gpubackprop.ops.activation import log_softmax, softmax
from gpubackprop.ops.attention import merge_heads, scaled_dot_product_attention, self_attention, split_heads
from gpubackprop.tape import FREE, SKIP
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS, TestDevice
from tests.kernels.cuda.test_shapes import check, widths

pytestmark = rows.needs_compiler
drawn = settings(max_examples=25, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64, np.float16])
orders = st.sampled_from(ORDERS[1:])


@drawn
@given(st.tuples(st.integers(0, 20), widths), st.booleans(), dtypes, orders)
def test_softmax(shape, logarithm, dtype, order):
    x = np.random.default_rng(0).normal(0, 2, size=shape).astype(dtype)
    check(log_softmax if logarithm else softmax, [x], order)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_softmax_of_numbers_as_large_as_they_come(dtype):
    x = np.array([[1e4, -1e4, 0], [-3e30, 1, 2], [80, 81, 79]], dtype)
    check(softmax, [x], "random")
    check(log_softmax, [x], "random")


def test_softmax_over_another_axis_is_the_references():
    assert TestDevice().pair(softmax, [np.ones((2, 3), np.float32)], {"axis": 0}) is softmax


@drawn
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 2, 5])),
    st.sampled_from([1, 3, 4, 8, 33, 516]),
    st.sampled_from([(1, 1), (4, 4), (3, 8)]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
    dtypes,
    orders,
)
def test_attention(queries, keys, sizes, causal, masked, dropout, dtype, order):
    (n, h, t), (size, value), rng = queries, sizes, np.random.default_rng(keys)
    q, k, v = (rng.normal(size=(n, h, *each)).astype(dtype) for each in ((t, size), (keys, size), (keys, value)))
    mask = np.arange(keys) < rng.integers(0, keys + 1, (n, 1)) if masked else None
    options = {"causal": causal, "dropout": dropout, "seed": 2**33 + 1, "stream": 5}
    check(scaled_dot_product_attention, [q, k, v, mask, np.arange(7, 7 + n), np.array(9)], order, options)


@drawn
@given(st.integers(0, 3), st.integers(1, 4), st.sampled_from([1, 7, 8]), st.integers(1, 8), dtypes, orders)
def test_self_attention(n, heads, t, size, dtype, order):
    x = np.random.default_rng(t).normal(size=(n, t, 3 * heads * size)).astype(dtype)
    check(self_attention, [x, None, None, np.array(0)], order, {"num_heads": heads, "causal": True})


def test_scores_as_large_as_they_come():
    q = np.array([[[[1e4, 0], [0, 1e4]]]], np.float32)
    check(scaled_dot_product_attention, [q, q, q / 1e4, None, None, None], "random")


def test_all_weights_dropped():
    q = np.ones((1, 1, 2, 4), np.float32)
    check(scaled_dot_product_attention, [q, q, q, None, np.zeros(1, int), np.array(0)], "random", {"dropout": 1.0})


@pytest.mark.parametrize("shape", [(2, 4, 6), (4, 2, 6), (1, 3, 5), (3, 1, 4)])
def test_views_of_a_projection_are_multiplied_where_they_lie(monkeypatch, shape):
    n, heads, t = shape
    b, size = TestDevice(), 4
    qkv = b.from_host(np.random.default_rng(0).normal(size=(n, t, 3 * heads * size)))
    (q, k, v), split = split_heads.forward(b, qkv, num_heads=heads, parts=3)

    def refuse(x):
        assert x is None or x.flags.c_contiguous, "a copy"
        return x

    monkeypatch.setattr(b, "contiguous", refuse)
    pair, whole = (b.pair(op, [qkv], {}) for op in (scaled_dot_product_attention, self_attention))
    y, saved = pair.forward(b, q, k, v, causal=True)
    merged, shapes = merge_heads.forward(b, y)
    wanted, kept = whole.forward(b, qkv, num_heads=heads, causal=True)
    assert np.array_equal(b.to_host(merged), b.to_host(wanted))
    dy = b.from_host(np.random.default_rng(1).normal(size=wanted.shape))
    (dheads,) = merge_heads.backward(b, shapes, dy, [FREE])
    grads = pair.backward(b, saved, dheads, [FREE] * 3 + [SKIP] * 3)
    (dqkv,) = split_heads.backward(b, split, grads[:3], [FREE])
    assert np.array_equal(b.to_host(dqkv), b.to_host(whole.backward(b, kept, dy, [FREE] + [SKIP] * 3)[0]))


@pytest.mark.parametrize("wanted", range(3))
def test_only_what_is_wanted_is_multiplied(monkeypatch, wanted):
    b = TestDevice()
    q, k, v = (b.from_host(np.random.default_rng(i).normal(size=(1, 1, 3, 4))) for i in range(3))
    pair = b.pair(scaled_dot_product_attention, [q], {})
    saved = pair.forward(b, q, k, v)[1]
    every = pair.backward(b, saved, q, [FREE] * 3 + [SKIP] * 3)
    calls, plain = [], b.multiply
    monkeypatch.setattr(b, "multiply", lambda *args, **more: calls.append(args) or plain(*args, **more))
    slots = [FREE if i == wanted else SKIP for i in range(6)]
    found = pair.backward(b, saved, q, slots)
    assert [i for i, each in enumerate(found) if each is not None] == [wanted]
    assert np.array_equal(b.to_host(found[wanted]), b.to_host(every[wanted]))
    assert len(calls) == (1 if wanted == 2 else 2)


def test_a_mask_of_numbers_is_the_references():
    b, q, mask = TestDevice(), np.ones((1, 1, 2, 4), np.float32), np.ones((1, 2), int)
    assert b.pair(scaled_dot_product_attention, [q, q, q, mask], {}) is scaled_dot_product_attention
    assert b.pair(self_attention, [q[0], mask], {}) is self_attention
