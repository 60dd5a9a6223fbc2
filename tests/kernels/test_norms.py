"""Norm kernels: random shapes beside the references, precision, the running statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.errors import ShapeError
from gpubackprop.ops.add_norm import add_layer_norm, add_rms_norm
from gpubackprop.ops.batch_norm_act import batch_norm_add_relu, batch_norm_relu
from gpubackprop.ops.norm import batch_norm, batch_norm_inference, update_statistics
from gpubackprop.ops.sample_norm import layer_norm, rms_norm
from tests.kernels import harness

drawn = settings(max_examples=25, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64])
# Lanes are some 512: counts around them, and channels that do not divide them.
sizes = st.tuples(st.integers(4, 40), st.integers(2, 12), st.sampled_from([1, 3, 10, 16, 33, 64, 257, 600]))


def _arrays(dtype, *shapes):
    rng = np.random.default_rng(7)  # not the seed of the harness: a dy like x has no gradient
    return [None if shape is None else rng.normal(0.3, 1.5, size=shape).astype(dtype) for shape in shapes]


@drawn
@given(sizes, st.booleans(), st.booleans(), dtypes, st.integers(1, 3), st.sampled_from([1e-5, 1e-2]))
def test_batch_norms(shape, weighted, biased, dtype, threads, eps):
    channels = shape[-1:]
    affine = (channels if weighted else None, channels if biased else None)
    x, weight, bias, shortcut, mean = _arrays(dtype, shape, *affine, shape, channels)
    b = harness.backend(threads)
    far = np.abs(_before_relu(x, weight, bias, eps)).min() > 1e-6  # where rounding decides, relu may differ
    harness.assert_equals_reference(b, batch_norm, [x, weight, bias], {"eps": eps})
    if far or dtype == np.float64:
        harness.assert_equals_reference(b, batch_norm_relu, [x, weight, bias], {"eps": eps})
    if np.abs(_before_relu(x, weight, bias, eps) + shortcut).min() > 1e-6 or dtype == np.float64:
        harness.assert_equals_reference(b, batch_norm_add_relu, [x, weight, bias, shortcut], {"eps": eps})
    past = [x, weight, bias, mean, mean * mean + dtype(0.1)]
    harness.assert_equals_reference(b, batch_norm_inference, past, {"eps": eps}, constants=(3, 4))


def _before_relu(x, weight, bias, eps):
    wide = [None if a is None else a.astype(np.float64) for a in (x, weight, bias)]
    return batch_norm.forward(NumpyBackend(), *wide, eps=eps)[0][0]


def test_statistics_far_from_zero_lose_no_digits():
    b = harness.backend(2)
    x = np.random.default_rng(0).normal(1000, 1, size=(64, 40, 40, 2)).astype(np.float32)
    (_, mean, var), _ = b.pair(batch_norm, [x, None, None], {}).forward(b, x, None, None)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, x.var(axis=(0, 1, 2), dtype=np.float64), rtol=1e-4)


def test_values_that_relu_cut_get_no_gradient_even_where_rounding_decides():
    b = harness.backend(2)
    x = np.random.default_rng(1).integers(-2, 3, size=(300, 7, 16)).astype(np.float32)
    x[:, :, 1] = x[:, :, 1] - x[:, :, 1].mean()
    weight, bias = np.full(16, 1e-3, np.float32), np.zeros(16, np.float32)
    pair = b.pair(batch_norm_relu, [x, weight, bias], {})
    (y, *_), saved = pair.forward(b, x, weight, bias)
    dy = np.ones_like(x)
    dbias = pair.backward(b, saved, (dy, None, None), [harness.SKIP, harness.FREE, harness.FREE])[2]
    np.testing.assert_array_equal(dbias, (y > 0).sum(axis=(0, 1)))


def test_a_single_value_per_channel_is_refused():
    b = harness.backend()
    x = np.zeros((1, 1, 1, 3))
    with pytest.raises(ShapeError, match="more than one value per channel"):
        b.pair(batch_norm, [x, None, None], {}).forward(b, x, None, None)


def test_a_gradient_through_the_statistics_is_refused():
    b = harness.backend()
    x = np.arange(6.0).reshape(3, 2)
    pair = b.pair(batch_norm, [x, None, None], {})
    (y, mean, _), saved = pair.forward(b, x, None, None)
    with pytest.raises(NotImplementedError, match="running statistics"):
        pair.backward(b, saved, (y, mean, None), [harness.FREE, harness.SKIP, harness.SKIP])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.1, 1.0])
def test_running_statistics_move_as_the_references_do(dtype, momentum):
    b, plain = harness.backend(), NumpyBackend()
    rng = np.random.default_rng(0)
    ours, theirs = ([np.zeros(5, dtype), np.ones(5, dtype), np.zeros((), np.int64)] for _ in range(2))
    for count in (2, 5, 70):
        mean, var = rng.normal(size=5).astype(dtype), rng.uniform(size=5).astype(dtype)
        b.rule(update_statistics)(b, *ours, mean, var, count, momentum)
        update_statistics(plain, *theirs, mean, var, count, momentum)
    assert b.rule(update_statistics) is not update_statistics
    assert ours[2] == 3
    for found, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@drawn
@given(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from([6, 17, 64, 100, 256, 700])),
    st.integers(1, 2),
    st.tuples(st.booleans(), st.booleans()),
    dtypes,
    st.integers(1, 3),
)
def test_norms_of_samples(shape, axes, affine, dtype, threads):
    over = shape[3 - axes :]
    x, r, weight, bias = _arrays(dtype, shape, shape, *(over if given else None for given in affine))
    b = harness.backend(threads)
    options = {"axes": axes, "eps": 1e-3}
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    check = harness.assert_equals_reference
    check(b, layer_norm, [x, weight, bias], options, tolerance=tolerance)
    check(b, rms_norm, [x, weight], {"axes": axes}, tolerance=tolerance)
    for outputs in (1, 2):
        check(b, add_layer_norm, [x, r, weight, bias], options, outputs=outputs, tolerance=tolerance)
        check(b, add_rms_norm, [x, r, weight], options, outputs=outputs, tolerance=tolerance)


def test_a_norm_in_the_middle_hands_its_gradient_on_where_only_y_has_one():
    b = harness.backend()
    x, r, weight = _arrays(np.float64, (5, 7), (5, 7), (7,))
    dy = np.random.default_rng(1).normal(size=(5, 7))
    found = {}
    for backend in (b, NumpyBackend()):
        pair = backend.pair(add_rms_norm, [x, r, weight], {})
        _, saved = pair.forward(backend, x, r, weight)
        found[backend] = pair.backward(backend, saved, (None, dy), [harness.FREE] * 3)
    for ours, theirs in zip(*found.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
