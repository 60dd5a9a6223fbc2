"""Random shapes of the families without sums, and of losses, on the test device."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.ops import class_loss, loss
from gpubackprop.ops.arithmetic import scale
from gpubackprop.ops.gated import glu, swiglu
from gpubackprop.ops.mask import fill
from gpubackprop.ops.position import learned_position, rotary, sinusoidal_position
from gpubackprop.ops.rectified import prelu
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS
from tests.ops.specs import OpSpec

pytestmark = rows.needs_compiler
drawn = settings(max_examples=25, deadline=None, derandomize=True)
dtypes = st.sampled_from(rows.DTYPES)
orders = st.sampled_from(ORDERS[1:])
widths = st.sampled_from([1, 2, 7, 8, 24, 130])


def check(op, inputs, order, options=None, constants=(), tolerance=0.0):
    spec = OpSpec("drawn", op, None, None, options or {}, 1, constants)
    rows.check(spec, inputs, ("forward", order), tolerance)


def normal(dtype, *shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(0, 2, size=shape).astype(dtype) for shape in shapes]


@drawn
@given(st.integers(0, 3), st.sampled_from([1, 3, 70]), widths, dtypes, orders)
def test_factors_masks_and_slopes(n, t, width, dtype, order):
    x, s, weight, one = normal(dtype, (n, t, width), (n, width), (width,), (1,))
    check(scale, [x, s], order)
    check(fill, [x, np.random.default_rng(0).random((n, t)) < 0.6], order, {"value": -1.5})
    check(prelu, [x, weight], order)
    check(prelu, [x, one], order)


@drawn
@given(st.integers(0, 3), st.sampled_from([1, 3]), widths, dtypes, orders)
def test_gates(n, t, width, dtype, order):
    for axis, shape in ((-1, (n, t, 2 * width)), (1, (n, 2 * t, width))):
        check(glu, normal(dtype, shape), order, {"axis": axis})
        check(swiglu, normal(dtype, shape), order, {"axis": axis})


@drawn
@given(st.integers(0, 40), st.sampled_from([1, 5]), widths, st.sampled_from([0, 2]), dtypes, orders)
def test_positions(n, t, width, offset, dtype, order):
    check(learned_position, normal(dtype, (n, t, width), (t + 3, width)), order, {"offset": offset})
    check(sinusoidal_position, normal(dtype, (n, t, width)), order, {"offset": offset})
    for pairs in ("halves", "neighbours"):
        options = {"offset": 1000 + offset, "pairs": pairs}
        check(rotary, normal(dtype, (n, 2, t, 2 * width)), order, options)


LOSSES = [
    (loss.mse, {}),
    (loss.huber, {"delta": 0.7}),
    (loss.smooth_l1, {"beta": 0.3}),
    (class_loss.binary_focal, {"gamma": 1.5}),
    (class_loss.kl_div, {"log_target": True}),
]


@drawn
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 3), widths),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    dtypes,
    orders,
)
def test_losses(shape, parts, dtype, order):
    rng = np.random.default_rng(0)
    weighted, masked, positive = parts
    x, target, weight = normal(dtype, shape, shape, shape[:1])
    factors = [weight if weighted else None, rng.random(shape[:2]) < 0.6 if masked else None]
    for op, options in LOSSES:
        check(op, [x, target, *factors], order, options, (1, 2))
    pos_weight = rng.uniform(0.5, 2, shape[1:]).astype(dtype) if positive else None
    check(loss.bce_with_logits, [x, rng.random(shape).astype(dtype), pos_weight, *factors], order, None, (1, 2, 3))


@drawn
@given(
    st.tuples(st.integers(0, 40), st.sampled_from([1, 2, 10, 33, 256])),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    dtypes,
    orders,
)
def test_losses_of_classes(shape, parts, dtype, order):
    rng = np.random.default_rng(0)
    classed, weighted, masked = parts
    x, class_weight, weight = normal(dtype, shape, shape[1:], shape[:1])
    target = rng.integers(0, shape[1], shape[:1])
    more = [abs(class_weight) if classed else None, weight if weighted else None]
    inputs = [x, target, *more, rng.random(shape[0]) < 0.6 if masked else None]
    for op, options in ((class_loss.nll, {}), (class_loss.hinge, {"p": 2}), (class_loss.focal, {"gamma": 2.0})):
        check(op, inputs, order, {**options, "ignore_index": 0}, (2, 3))
