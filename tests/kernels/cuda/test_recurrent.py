"""Recurrent layers on the test device: random shapes, lengths and directions, and gradients that nobody wants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.recurrent import gru, lstm, rnn
from gpubackprop.tape import FREE, SKIP
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS, TestDevice
from tests.kernels.cuda.test_shapes import check

pytestmark = rows.needs_compiler
drawn = settings(max_examples=25, deadline=None, derandomize=True)
GATES = {rnn: 1, lstm: 4, gru: 3}
ops = st.sampled_from(list(GATES))


def draw(op, n, t, d, h, *, dtype=np.float64, biases=(True, True), starts=True, mask=None, seed=0):
    rng, gates = np.random.default_rng(seed), GATES[op] * h
    shapes = [(n, t, d), (gates, d), (gates, h), *((gates,) if each else None for each in biases)]
    shapes += [(n, h) if starts else None] * (2 if op is lstm else 1)
    return [None if shape is None else rng.normal(0, shape[-1] ** -0.5, shape).astype(dtype) for shape in shapes] + [
        mask
    ]


@drawn
@given(
    ops,
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from([1, 5]), st.sampled_from([1, 8, 33, 260])),
    st.tuples(*[st.booleans()] * 5),
    st.sampled_from([np.float32, np.float64, np.float16]),
    st.sampled_from(ORDERS[1:]),
)
def test_recurrent(op, shape, parts, dtype, order):
    *biases, starts, masked, reverse = parts
    n, t = shape[:2]
    mask = np.random.default_rng(1).random((n, t)) < 0.7 if masked else None
    inputs = draw(op, *shape, dtype=dtype, biases=biases, starts=starts, mask=mask)
    check(op, inputs, order, {"reverse": reverse}, outputs=3 if op is lstm else 2)


@pytest.mark.parametrize("op", GATES, ids=lambda op: op.name)
@pytest.mark.parametrize("given", ["y", "h", "none but c"])
def test_gradients_come_from_some_outputs(op, given):
    inputs, b, plain = draw(op, 2, 3, 4, 5), TestDevice(), NumpyBackend()
    arrays = [None if x is None else b.from_host(x) for x in inputs]
    dys = [np.ones((2, 3, 5)), np.ones((2, 5)), np.ones((2, 5))][: 3 if op is lstm else 2]
    dys = [dy if i == ["y", "h", "none but c"].index(given) else None for i, dy in enumerate(dys)]
    slots = [FREE] * (len(inputs) - 1) + [SKIP]
    wanted = op.backward(plain, op.forward(plain, *inputs)[1], tuple(dys), slots)
    pair = b.pair(op, arrays, {})
    device = tuple(None if dy is None else b.from_host(dy) for dy in dys)
    found = pair.backward(b, pair.forward(b, *arrays)[1], device, slots)
    for one, other in zip(found[:-1], wanted[:-1], strict=True):
        np.testing.assert_allclose(b.to_host(one), other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("op", GATES, ids=lambda op: op.name)
@pytest.mark.parametrize("left", range(7))
def test_a_gradient_alone_is_as_among_others(op, left):
    inputs, b = draw(op, 2, 3, 4, 5), TestDevice()
    arrays = [None if x is None else b.from_host(x) for x in inputs]
    left = min(left, len(inputs) - 2)
    pair = b.pair(op, arrays, {})
    (y, *_), saved = pair.forward(b, *arrays)
    dys = y, *[None] * (2 if op is lstm else 1)
    every = pair.backward(b, saved, dys, [FREE] * (len(inputs) - 1) + [SKIP])
    alone = pair.backward(b, saved, dys, [FREE if i == left else SKIP for i in range(len(inputs))])
    assert [i for i, each in enumerate(alone) if each is not None] == [left]
    assert np.array_equal(b.to_host(alone[left]), b.to_host(every[left]))


@pytest.mark.parametrize("op", GATES, ids=lambda op: op.name)
def test_errors_do_not_grow_with_the_steps_in_short_types(op):
    inputs = draw(op, 2, 100, 8, 16, dtype=np.float16)
    wide = [None if x is None else x.astype(np.float64) for x in inputs]
    b = TestDevice()
    arrays = [None if x is None else b.from_host(x) for x in inputs]
    found = b.to_host(b.pair(op, arrays, {}).forward(b, *arrays)[0][0]).astype(np.float64)
    assert np.abs(found - op.forward(NumpyBackend(), *wide)[0][0]).max() < 2e-3


def test_a_mask_of_numbers_is_the_references():
    inputs = draw(gru, 2, 3, 4, 5, mask=np.ones((2, 3), int))
    assert TestDevice().pair(gru, inputs, {}) is gru
