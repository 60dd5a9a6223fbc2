"""What the kernels of recurrent layers share: activations of a step's gates, and the work outside the loop over time.

A thread goes through all steps with its own samples, so that nobody waits for anybody. Arrays are (N, T, ·) as outside;
the state that a step multiplies lies apart, (N, H), and so do the gradients that a step backwards multiplies.
Letters as in ops/recurrent.py: D input and H hidden features, G gates times H.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.elementary import logistic, tanh
from gpubackprop.kernels.cpu.jit import serial, single
from gpubackprop.kernels.cpu.kernel import same_floats
from gpubackprop.kernels.cpu.linear import linear_forward, linear_gradients
from gpubackprop.tape import FREE, SKIP, Slots


@serial
def logistic_of_sum(a, p, bias):
    """a becomes σ of itself, the inputs' share, p, the state's, and the bias."""
    for j in range(a.size):
        a[j] = logistic(a[j] + p[j] + bias[j])


@serial
def tanh_of_sum(a, p, bias):
    """a becomes tanh of the same."""
    for j in range(a.size):
        a[j] = tanh(a[j] + p[j] + bias[j])


@serial
def copy(a, target):
    """Target becomes a."""
    for j in range(target.size):
        target[j] = a[j]


@serial
def clear(a):
    """A becomes 0."""
    for j in range(a.size):
        a[j] = 0


@serial
def hide(a, target):
    """Target becomes 0, but NaN where a is."""
    for j in range(target.size):
        target[j] = a[j] * a.dtype.type(0)


@serial
def add(a, target):
    """Add a to target."""
    for j in range(target.size):
        target[j] += a[j]


@single
def _biases(bias_ih, bias_hh, total, apart):  # (G,) or (0,) each, (G,), (A,)
    both = total.size - apart.size
    for j in range(total.size):
        total[j] = bias_ih[j] if bias_ih.size else 0
        if bias_hh.size and j < both:
            total[j] += bias_hh[j]
        elif j >= both:
            apart[j - both] = bias_hh[j] if bias_hh.size else 0


def fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Not where there is nothing to do."""
    return same_floats(arrays, options) and arrays[0].size > 0


def or_empty(b: CpuBackend, a: Array | None, like: Array, axes: int) -> Array:
    """`a`, or an array of no size and as many axes, as compiled functions take it."""
    return b.empty((0,) * axes, like.dtype) if a is None else a


def real_steps(b: CpuBackend, mask: Array | None) -> Array:
    """mask (N, T), or None as (0, 0): all."""
    return b.empty((0, 0), bool) if mask is None else mask


def biases(
    b: CpuBackend, bias_ih: Array | None, bias_hh: Array | None, gates: int, like: Array, both: int
) -> tuple[Array, Array]:
    """The biases (G,), the first `both` of them bias_ih + bias_hh, behind them bias_ih alone; and bias_hh's others."""
    total, apart = b.empty((gates,), like.dtype), b.empty((gates - both,), like.dtype)
    b.launch(_biases, or_empty(b, bias_ih, like, 1), or_empty(b, bias_hh, like, 1), total, apart)
    return total, apart


def input_products(b: CpuBackend, x: Array, weight: Array) -> Array:
    """x (N, T, D), weight (G, D) -> the share of the inputs in all gates, (N, T, G)."""
    y: Array = linear_forward(b, x, weight, None)[0]
    return y


def gradients(
    b: CpuBackend, x: Array, weight_ih: Array, weight_hh: Array, before: Array, dp: Array, dq: Array, slots: Slots
) -> tuple[Array | None, ...]:
    """As `weight_gradients` of ops/steps.py; before (N, T, H): the states before each step."""
    same = dp is dq and slots[3].wanted
    first, second = (FREE if slot.wanted else SKIP for slot in slots[3:5])
    dx, dweight_ih, dbias_ih = linear_gradients(b, x, weight_ih, dp, (slots[0], slots[1], first))
    _, dweight_hh, dbias_hh = linear_gradients(b, before, weight_hh, dq, (SKIP, slots[2], SKIP if same else second))
    dbias_hh = dbias_ih if same else dbias_hh
    grads: tuple[Any, ...] = (dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh)
    return tuple(grad if slot.wanted else None for grad, slot in zip(grads, slots, strict=False))
