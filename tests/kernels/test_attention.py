"""Attention by kernels: shapes and options that the rows of the op table do not have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.ops.attention import scaled_dot_product_attention, self_attention
from gpubackprop.tape import FREE, SKIP
from tests.kernels import harness

both = pytest.mark.parametrize("dtype", [np.float32, np.float64])
seeded = settings(max_examples=25, deadline=None, derandomize=True)


def lengths_mask(rng, n, length):
    return np.arange(length) < rng.integers(0, length + 1, n)[:, None]


@both
@seeded
@given(data=st.data())
def test_attention_over_shapes_and_options(dtype, data):
    small, long = st.integers(1, 4), st.integers(1, 150)
    n, h, d, v = (data.draw(small) for _ in range(4))
    t, s = data.draw(long), data.draw(long)
    rng = np.random.default_rng(t * s)
    arrays = [rng.normal(size=(n, h, *size)).astype(dtype) for size in ((t, d), (s, d), (s, v))]
    mask = lengths_mask(rng, n, s) if data.draw(st.booleans()) else None
    options = {"causal": data.draw(st.booleans()), "scale": data.draw(st.sampled_from([None, 0.7]))}
    b = harness.backend(threads=2)
    harness.assert_equals_reference(b, scaled_dot_product_attention, [*arrays, mask, None, np.array(0)], options)


@both
@seeded
@given(data=st.data())
def test_self_attention_over_shapes_and_options(dtype, data):
    n, h, d = (data.draw(st.integers(1, 4)) for _ in range(3))
    t = data.draw(st.integers(1, 200))
    rng = np.random.default_rng(t)
    qkv = rng.normal(size=(n, t, 3 * h * d)).astype(dtype)
    mask = lengths_mask(rng, n, t) if data.draw(st.booleans()) else None
    options = {"num_heads": h, "causal": data.draw(st.booleans())}
    b = harness.backend(threads=data.draw(st.sampled_from([1, 2, 3])))
    harness.assert_equals_reference(b, self_attention, [qkv, mask, None, np.array(0)], options)


def test_scores_of_any_size_make_weights():
    qkv = np.random.default_rng(0).normal(size=(2, 70, 24)).astype(np.float32) * 10
    b = harness.backend(threads=2)
    harness.assert_equals_reference(b, self_attention, [qkv, None, None, np.array(0)], {"num_heads": 2}, tolerance=1e-4)


def test_hidden_keys_have_no_weight_and_no_gradient_at_all():
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.normal(size=(1, 2, 5, 3)).astype(np.float32) for _ in range(4))
    mask = np.array([[True, True, False, True, False]])
    b = harness.backend()
    pair = b.pair(scaled_dot_product_attention, [q, k, v, mask], {})
    y, saved = pair.forward(b, q, k, v, mask)
    _, dk, dv, *_ = pair.backward(b, saved, dy, [FREE] * 3 + [SKIP] * 3)
    assert not dk[:, :, ~mask[0]].any()
    assert not dv[:, :, ~mask[0]].any()
    v[:, :, 2] = 1e30
    assert np.array_equal(pair.forward(b, q, k, v, mask)[0], y)
