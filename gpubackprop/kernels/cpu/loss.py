"""Losses of single numbers, as (sum, weight): one loop over x and target, whatever the distance is.

Without weights the arrays are one row for each thread; with weights a row is what shares a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.elementary import exp, log1p, logistic
from gpubackprop.kernels.cpu.jit import Launched, inline, parallel, prange
from gpubackprop.kernels.cpu.kernel import kernel
from gpubackprop.kernels.cpu.totals import add_up, counts, elements_fit
from gpubackprop.ops import loss
from gpubackprop.tape import Op, Slots

COST = 0.6  # nanoseconds for an element
BLOCK = 4096  # numbers that are added up in x's dtype; their sums are added in float64


@inline
def _square(x, target, a):
    return (x - target) * (x - target)


@inline
def _square_slope(x, target, a):
    return type(x)(2) * (x - target)


@inline
def _distance(x, target, a):
    return abs(x - target)


@inline
def _distance_slope(x, target, a):
    e = x - target
    below = type(x)(-1) if e < 0 else e  # 0 and NaN are their own
    return type(x)(1) if e > 0 else below


@inline
def _huber(x, target, a):
    e = abs(x - target)
    inner = a if e > a else e
    return inner * (e - type(x)(0.5) * inner)


@inline
def _huber_slope(x, target, a):
    e = x - target
    e = -a if e < -a else e
    return a if e > a else e


@inline
def _smooth(x, target, a):
    return _huber(x, target, a) / a


@inline
def _smooth_slope(x, target, a):
    return _huber_slope(x, target, a) / a


@inline
def _cross(x, target, a):
    least = type(x)(0) if x >= 0 else x
    return log1p(exp(-abs(x))) - least + (type(x)(1) - target) * x


@inline
def _cross_slope(x, target, a):
    return (type(x)(1) - target) - logistic(-x)


class Distance(NamedTuple):
    """A loss of one number and its target, and its slope, over whole arrays."""

    forward: Launched
    backward: Launched


def _forward(value: Any) -> Launched:
    @parallel
    def forward(x, target, count, a, partial, total, weight, threads):
        # (L, R), (L, R), (L,) or (0,), a number, (threads, 2), (1,), (1,); without counts L is 1
        flat, flat_target = x.reshape(-1), target.reshape(-1)
        rows = max(1, x.shape[0])
        row = x.size // rows
        block = min(row, BLOCK) if count.size else BLOCK
        width = -(-rows // threads) * row if count.size else -(-flat.size // threads)
        for t in prange(threads):
            low, end = min(flat.size, t * width), min(flat.size, (t + 1) * width)
            first = second = 0.0
            while low < end:
                # Not beyond the end of a row, where another weight begins.
                high = min(end, low + block, (low // row + 1) * row if count.size else end)
                own, own_target = flat[low:high], flat_target[low:high]
                subtotal = x.dtype.type(0)
                for i in range(own.size):
                    subtotal += value(own[i], x.dtype.type(own_target[i]), a)
                factor = count[low // row] if count.size else x.dtype.type(1)
                first += subtotal * factor
                second += factor * x.dtype.type(high - low)
                low = high
            partial[t, 0] = first
            partial[t, 1] = second
        add_up(partial, threads, total, weight)

    return forward


def _backward(slope: Any) -> Launched:
    @parallel
    def backward(x, target, count, a, dy, dx, threads):  # as forward; (1,), (L, R)
        flat, flat_target, flat_dx = x.reshape(-1), target.reshape(-1), dx.reshape(-1)
        row = x.size // max(1, x.shape[0])
        width = -(-flat.size // threads)
        for t in prange(threads):
            low, end = min(flat.size, t * width), min(flat.size, (t + 1) * width)
            while low < end:
                high = min(end, (low // row + 1) * row) if count.size else end
                own, own_target, out = flat[low:high], flat_target[low:high], flat_dx[low:high]
                factor = dy[0] * (count[low // row] if count.size else x.dtype.type(1))
                for i in range(own.size):
                    out[i] = slope(own[i], x.dtype.type(own_target[i]), a) * factor
                low = high

    return backward


def distance(value: Any, slope: Any) -> Distance:
    """The loops over an inline function of a number, its target and an option, and over its slope."""
    return Distance(_forward(value), _backward(slope))


def _rows(x: Array, count: Array) -> Array:
    return x.reshape(count.size or 1, -1) if x.size else x.reshape(1, 0)


def elementwise(
    op: Op, choose: Callable[..., tuple[Distance, float]], factors: int = 2, fits: Any = elements_fit
) -> None:
    """Enter a kernel for a loss (x, target, …, weight, mask): choose(**options) is a distance and its number."""

    def forward(b: CpuBackend, x: Array, target: Array, *more: Any, **options: Any) -> tuple[tuple[Array, Array], Any]:
        found, number = choose(**options)
        weight, mask = more[-2:]
        positions = max((factor.size for factor in (weight, mask) if factor is not None), default=0)
        count = counts(b, positions, x.dtype, weight, mask)
        shared = (_rows(x, count), _rows(target, count), count, x.dtype.type(number))
        total, whole, partial = b.empty((), x.dtype), b.empty((), x.dtype), b.empty((b.threads, 2), np.float64)
        b.launch(found.forward, *shared, partial, total.reshape(1), whole.reshape(1), cost=COST * x.size)
        return (total, whole), (found, shared, x.shape)

    def backward(b: CpuBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
        found, shared, shape = saved
        dx = b.empty(shape, shared[0].dtype)
        b.launch(found.backward, *shared, dy[0].reshape(1), _rows(dx, shared[2]), cost=COST * dx.size)
        return dx, *(None,) * (1 + factors)

    kernel(op, forward, backward, fits)


def _no_pos_weight(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    x, target, pos_weight, *factors = arrays
    return pos_weight is None and elements_fit((x, target, *factors), options)


SQUARE = distance(_square, _square_slope)
DISTANCE = distance(_distance, _distance_slope)
HUBER = distance(_huber, _huber_slope)
SMOOTH = distance(_smooth, _smooth_slope)
CROSS = distance(_cross, _cross_slope)

elementwise(loss.mse, lambda: (SQUARE, 0))
elementwise(loss.l1, lambda: (DISTANCE, 0))
elementwise(loss.huber, lambda delta=1.0: (HUBER, delta))
elementwise(loss.smooth_l1, lambda beta=1.0: (SMOOTH, beta) if beta else (DISTANCE, 0))
elementwise(loss.bce_with_logits, lambda: (CROSS, 0), 3, _no_pos_weight)
