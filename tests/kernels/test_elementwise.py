"""Kernels that go over their arrays once: activations, softmax, losses, dropout; random shapes and options."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.backend.philox import random_bits
from gpubackprop.ops import activation, class_loss, gated, loss, rectified
from gpubackprop.ops.dropout import dropout, dropout_mask
from tests.kernels import harness

few = settings(max_examples=10, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple) | st.sampled_from([(4099,), (3, 1001), (0, 3)])

ACTIVATIONS = [
    (activation.relu, {}),
    (activation.leaky_relu, {"negative_slope": 0.3}),
    (activation.elu, {"alpha": 0.7}),
    (activation.gelu, {}),
    (activation.gelu, {"approximate": "tanh"}),
    (activation.silu, {}),
    (activation.tanh, {}),
    (activation.sigmoid, {}),
    (activation.softplus, {"beta": 2.0, "threshold": 3.0}),
    (rectified.selu, {}),
    (rectified.hardtanh, {"low": -0.5, "high": 2.0}),
    (rectified.hardsigmoid, {}),
    (gated.hardswish, {}),
    (gated.mish, {}),
]


@pytest.mark.parametrize(("op", "options"), ACTIVATIONS, ids=lambda each: str(each) if each else "")
@few
@given(dtype=dtypes, shape=shapes, seed=seeds, width=st.sampled_from([0.01, 1.0, 20.0]))
def test_activations(op, options, dtype, shape, seed, width):
    x = (np.random.default_rng(seed).normal(size=shape) * width).astype(dtype)
    x.reshape(-1)[:1] = 0.1  # so that the largest slope is no difference of nearly equal numbers
    harness.assert_equals_reference(harness.backend(threads=2), op, [x], options)


@pytest.mark.parametrize(("op", "options"), ACTIVATIONS, ids=lambda each: str(each) if each else "")
def test_activations_far_from_zero(op, options):
    x = np.array([-1e30, -300.0, -100.0, -30.0, 30.0, 100.0, 300.0, 1e30], np.float32)
    b = harness.backend()
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wanted = op.forward(NumpyBackend(), x.astype(np.float64), **options)[0]
    found, _ = b.pair(op, [x], options).forward(b, x, **options)
    assert np.allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("op", [activation.relu, activation.leaky_relu, activation.sigmoid, activation.tanh], ids=str)
def test_infinities_stay_what_they_are(op):
    x = np.array([-np.inf, np.inf], np.float32)
    b = harness.backend()
    with np.errstate(over="ignore"):
        wanted = op.forward(NumpyBackend(), x)[0]
    assert np.allclose(b.pair(op, [x], {}).forward(b, x)[0], wanted)


@pytest.mark.parametrize("name", ["erf", "tanh", "expm1", "log1p", "exp"])
def test_elementary_functions_are_right_near_zero_too(name):
    harness.backend()
    from scipy import special

    from gpubackprop.kernels.cpu import elementary
    from gpubackprop.kernels.cpu.activation import curve
    from gpubackprop.kernels.cpu.jit import inline

    function = getattr(elementary, name)

    @inline
    def value(x, a, b):
        return function(x)

    loop = curve(value, value).forward.py_func
    import numba

    x = np.concatenate([np.geomspace(1e-8, 1, 5000), -np.geomspace(1e-8, 1, 5000), np.linspace(-8, 8, 5000)])
    x = (np.abs(x) / 8 if name == "log1p" else x).astype(np.float32)
    y = np.empty_like(x)
    numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz", "afn"})(loop)(x, y, x[0], x[0], 1)
    wanted = getattr(special, name)(x.astype(np.float64)) if name == "erf" else getattr(np, name)(x.astype(np.float64))
    assert np.max(np.abs(y - wanted) / np.maximum(np.abs(wanted), 1e-30)) < 6e-7


@few
@given(dtype=dtypes, leading=shapes, half=st.integers(1, 40), seed=seeds)
def test_gates_and_learned_slopes(dtype, leading, half, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*leading, 2 * half)).astype(dtype)
    b = harness.backend(threads=2)
    harness.assert_equals_reference(b, gated.glu, [x])
    harness.assert_equals_reference(b, gated.swiglu, [x], {"axis": x.ndim - 1})
    for size in (1, 2 * half):
        harness.assert_equals_reference(b, rectified.prelu, [x, rng.normal(size=size).astype(dtype)])


@few
@given(
    dtype=dtypes, rows=st.integers(0, 40), classes=st.integers(1, 90), seed=seeds, shift=st.sampled_from([0.0, 500.0])
)
def test_softmax_over_rows_of_any_length(dtype, rows, classes, seed, shift):
    x = (np.random.default_rng(seed).normal(size=(rows, classes)) * 3 + shift).astype(dtype)
    for op in (activation.softmax, activation.log_softmax):
        harness.assert_equals_reference(harness.backend(threads=2), op, [x])


@few
@given(
    data=st.data(),
    dtype=dtypes,
    leading=st.lists(st.integers(1, 7), min_size=1, max_size=2).map(tuple),
    classes=st.integers(1, 40) | st.just(3000),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    seed=seeds,
)
def test_losses_of_classes(data, dtype, leading, classes, smoothing, seed):
    rng = np.random.default_rng(seed)
    ignored = data.draw(st.sampled_from([-100, 0]))
    target = rng.integers(0, classes, leading).astype(
        data.draw(st.sampled_from([np.int64, np.uint8])) if classes < 256 else np.int64
    )
    class_weight = rng.random(classes).astype(dtype) + dtype(0.1) if data.draw(st.booleans()) else None
    weight = rng.random(leading[:1]).astype(dtype) if data.draw(st.booleans()) else None
    mask = rng.random(leading) < 0.7 if data.draw(st.booleans()) else None
    inputs = [rng.normal(size=(*leading, classes)).astype(dtype) * 3, target, class_weight, weight, mask]
    b = harness.backend(threads=2)
    options = {"ignore_index": ignored}
    harness.assert_equals_reference(b, class_loss.nll, inputs, options, constants=(2, 3))
    options["label_smoothing"] = smoothing
    harness.assert_equals_reference(b, loss.cross_entropy, inputs, options, constants=(2, 3))


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
@pytest.mark.parametrize("op", [loss.cross_entropy, class_loss.nll], ids=str)
def test_a_class_that_there_is_not_gives_no_number_and_reads_nothing_else(op, wrong):
    b = harness.backend()
    logits = np.zeros((3, 5), np.float32)
    pair = b.pair(op, [logits, np.array([1, wrong, 2]), None, None, None], {})
    (total, _), saved = pair.forward(b, logits, np.array([1, wrong, 2]), None, None, None)
    assert np.isnan(total)
    dx = pair.backward(b, saved, (np.ones((), np.float32), None), [None] * 5)[0]
    assert np.isnan(dx[1]).any()
    assert not np.isnan(dx[[0, 2]]).any()


@pytest.mark.parametrize(
    ("op", "options"),
    [
        (loss.mse, {}),
        (loss.l1, {}),
        (loss.huber, {"delta": 0.4}),
        (loss.smooth_l1, {"beta": 0.6}),
        (loss.smooth_l1, {"beta": 0.0}),
        (loss.bce_with_logits, {}),
    ],
    ids=str,
)
@few
@given(data=st.data(), dtype=dtypes, shape=shapes, seed=seeds)
def test_losses_of_numbers(op, options, data, dtype, shape, seed):
    rng = np.random.default_rng(seed)
    axes = st.integers(1, len(shape))
    weight = rng.random(shape[: data.draw(axes)]).astype(dtype) if data.draw(st.booleans()) else None
    mask = rng.random(shape[: data.draw(axes)]) < 0.7 if data.draw(st.booleans()) else None
    extra = [None] if op is loss.bce_with_logits else []
    inputs = [rng.normal(size=shape).astype(dtype), rng.random(shape).astype(dtype), *extra, weight, mask]
    constants = range(1, len(inputs))
    harness.assert_equals_reference(harness.backend(threads=2), op, inputs, options, constants=constants)


@few
@given(
    dtype=dtypes,
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple) | st.just((2, 1031)),
    over=st.integers(0, 1),
    p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    alike=st.booleans(),
    seed=st.integers(0, 2**63),
    stream=seeds,
    step=st.integers(0, 2**31),
)
def test_dropout(dtype, shape, over, p, alike, seed, stream, step):
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    samples = np.arange(5, 5 + shape[0]) * 7
    options = {"p": p, "seed": seed, "stream": stream, "over": over, "alike": alike}
    b = harness.backend(threads=2)
    harness.assert_equals_reference(b, dropout, [x, samples, np.array(step)], options)
    del options["over"]
    wanted = dropout_mask(NumpyBackend(), shape, samples, step, **options)
    found = b.rule(dropout_mask)(b, shape, samples, np.array(step), **options)
    assert found.dtype == bool
    assert np.array_equal(found, wanted)


def test_the_words_are_those_of_the_reference():
    b = harness.backend()
    from gpubackprop.kernels.cpu.jit import single
    from gpubackprop.kernels.cpu.philox import U, draw_kept

    @single  # Python cannot call what is made to be part of other kernels
    def draw(kept, limit, sample, step, seed, stream):
        draw_kept(kept, limit, sample, step, seed, stream)

    bits = random_bits(np, 2**40 + 5, 77, 9, np.array([123]), 4096)[0]
    for limit in (1, 2**31, 2**32 - 1, int(bits[17]), int(bits[17]) + 1):
        kept = np.empty(1024, np.uint32)
        b.launch(draw, kept, U(limit), U(123), U(9), U(2**40 + 5), U(77))
        assert np.array_equal(kept.view(bool), bits >= limit)
