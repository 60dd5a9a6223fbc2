"""Half of the features times a gate of the other half, and relu with a learned slope: by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.elementary import logistic
from gpubackprop.kernels.cpu.jit import parallel, prange
from gpubackprop.kernels.cpu.kernel import kernel, rows_of, same_floats
from gpubackprop.ops.gated import glu, swiglu
from gpubackprop.ops.rectified import prelu
from gpubackprop.tape import Op, Slots

COST = 0.6  # nanoseconds for an element


@parallel
def _gate(x, y, swish, threads):  # (M, 2D), (M, D), whether the first half has the sigmoid, and the second the value
    width, middle = -(-y.shape[0] // threads), y.shape[1]
    for t in prange(threads):
        for i in range(t * width, min(y.shape[0], (t + 1) * width)):
            a, c, out = x[i, :middle], x[i, middle:], y[i]
            if swish:
                for j in range(out.size):
                    out[j] = a[j] * logistic(a[j]) * c[j]
            else:
                for j in range(out.size):
                    out[j] = a[j] * logistic(c[j])


@parallel
def _gate_backward(x, dy, dx, swish, threads):  # (M, 2D), (M, D), (M, 2D)
    width, middle = -(-dy.shape[0] // threads), dy.shape[1]
    for t in prange(threads):
        for i in range(t * width, min(dy.shape[0], (t + 1) * width)):
            a, c, own = x[i, :middle], x[i, middle:], dy[i]
            da, dc = dx[i, :middle], dx[i, middle:]
            one = x.dtype.type(1)
            if swish:
                for j in range(own.size):
                    s = logistic(a[j])
                    da[j] = s * (one + a[j] * (one - s)) * c[j] * own[j]
                    dc[j] = a[j] * s * own[j]
            else:
                for j in range(own.size):
                    s = logistic(c[j])
                    da[j] = s * own[j]
                    dc[j] = a[j] * s * (one - s) * own[j]


def _last(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    return same_floats(arrays, options) and options.get("axis", -1) in (-1, arrays[0].ndim - 1)


def _enter(op: Op, swish: bool) -> None:
    def forward(b: CpuBackend, x: Array, *, axis: int = -1) -> tuple[Array, Any]:
        y = b.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype)
        b.launch(_gate, rows_of(x), rows_of(y), swish, cost=COST * y.size)
        return y, x

    def backward(b: CpuBackend, x: Array, dy: Array, slots: Slots) -> tuple[Array]:
        dx = b.empty(x.shape, x.dtype)
        b.launch(_gate_backward, rows_of(x), rows_of(dy), rows_of(dx), swish, cost=COST * x.size)
        return (dx,)

    kernel(op, forward, backward, _last)


@parallel
def _prelu(x, weight, y, threads):  # (M, C), (C,) or (1,), (M, C)
    width = -(-x.shape[0] // threads)
    for t in prange(threads):
        for i in range(t * width, min(x.shape[0], (t + 1) * width)):
            own, out = x[i], y[i]
            if weight.size == 1:
                for j in range(own.size):
                    out[j] = weight[0] * own[j] if own[j] <= 0 else own[j]
            else:
                for j in range(own.size):
                    out[j] = weight[j] * own[j] if own[j] <= 0 else own[j]


@parallel
def _prelu_backward(x, weight, dy, dx, partial, dweight, threads):
    # (M, C), (C,) or (1,), (M, C), (M, C) or (0, C), (threads, C), (C,) or (1,) or (0,)
    width = -(-x.shape[0] // threads)
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for t in prange(threads):
        sums = partial[t]
        sums[:] = 0
        for i in range(t * width, min(x.shape[0], (t + 1) * width)):
            own, own_dy = x[i], dy[i]
            if dx.shape[0]:
                out = dx[i]
                if weight.size == 1:
                    for j in range(own.size):
                        out[j] = own_dy[j] * (weight[0] if own[j] <= 0 else one)
                else:
                    for j in range(own.size):
                        out[j] = own_dy[j] * (weight[j] if own[j] <= 0 else one)
            for j in range(own.size):
                sums[j] += own_dy[j] * (zero if own[j] > 0 else own[j])
    if dweight.size:
        for t in range(1, threads):
            for j in range(x.shape[1]):
                partial[0, j] += partial[t, j]
        if dweight.size == 1:
            total = partial[0, 0] * 0
            for j in range(x.shape[1]):
                total += partial[0, j]
            dweight[0] = total
        else:
            for j in range(x.shape[1]):
                dweight[j] = partial[0, j]


def prelu_forward(b: CpuBackend, x: Array, weight: Array) -> tuple[Array, Any]:
    """As ops/rectified.py."""
    y = b.empty(x.shape, x.dtype)
    b.launch(_prelu, rows_of(x), weight, rows_of(y), cost=COST * x.size)
    return y, (x, weight)


def prelu_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, Array | None]:
    """As ops/rectified.py."""
    x, weight = saved
    rows = rows_of(x)
    dx = b.empty(x.shape if slots[0].wanted else (0, x.shape[-1]), x.dtype)
    dweight = b.out(slots[1], weight) if slots[1].wanted else b.empty((0,), x.dtype)
    partial = b.empty((b.threads, x.shape[-1]), np.float64)
    b.launch(_prelu_backward, rows, weight, rows_of(dy), rows_of(dx), partial, dweight, cost=2 * COST * x.size)
    return dx if slots[0].wanted else None, dweight if slots[1].wanted else None


_enter(glu, False)
_enter(swiglu, True)
kernel(
    prelu, prelu_forward, prelu_backward, lambda arrays, options: same_floats(arrays, options) and arrays[0].ndim > 1
)
