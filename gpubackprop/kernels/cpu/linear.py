"""Fully connected layers: each thread multiplies its own columns, and adds the bias while they are in its cache."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.blas import gemm
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rows_of
from gpubackprop.ops.linear import linear
from gpubackprop.tape import Slots

FLOP = 0.012  # nanoseconds that a multiply-add takes one thread, about
COLUMN = 16  # numbers of a cache line: threads do not write into each other's


@serial
def _add(bias, y):  # (O,), (O,)
    for j in range(y.size):
        y[j] += bias[j]


@parallel
def _forward(x, weight, bias, y, threads):  # (M, I), (O, I), (O,) or (0,), (M, O)
    width = -(-y.shape[1] // (threads * COLUMN)) * COLUMN
    for t in prange(threads):
        low, high = t * width, min(y.shape[1], (t + 1) * width)
        if low < high:
            gemm(x, False, weight[low:high], True, y[:, low:high], False)
            if bias.size:
                for i in range(y.shape[0]):
                    _add(bias[low:high], y[i, low:high])


@parallel
def _input_gradient(dy, weight, dx, threads):  # (M, O), (O, I), (M, I)
    width = -(-dx.shape[1] // (threads * COLUMN)) * COLUMN
    for t in prange(threads):
        low, high = t * width, min(dx.shape[1], (t + 1) * width)
        if low < high:
            gemm(dy, False, weight[:, low:high], False, dx[:, low:high], False)


@parallel
def _weight_gradient(dy, x, dweight, dbias, threads):  # (M, O), (M, I), (O, I), (O,) or (0,)
    width = -(-dweight.shape[0] // (threads * COLUMN)) * COLUMN
    for t in prange(threads):
        low, high = t * width, min(dweight.shape[0], (t + 1) * width)
        if low < high:
            gemm(dy[:, low:high], True, x, False, dweight[low:high], False)
            if dbias.size:
                dbias[low:high] = 0
                for i in range(dy.shape[0]):
                    _add(dy[i, low:high], dbias[low:high])


def linear_forward(b: CpuBackend, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    """As ops/linear.py."""
    rows = rows_of(x)
    y = b.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    cost = FLOP * rows.size * weight.shape[0]
    b.launch(_forward, rows, weight, bias if bias is not None else b.empty((0,), x.dtype), rows_of(y), cost=cost)
    return y, (rows, weight)


def linear_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/linear.py."""
    x, weight = saved
    dy_rows = rows_of(dy)
    cost = FLOP * x.size * weight.shape[0]
    dx = dweight = dbias = None
    if slots[0].wanted:
        dx = b.empty((*dy.shape[:-1], weight.shape[1]), dy.dtype)
        b.launch(_input_gradient, dy_rows, weight, rows_of(dx), cost=cost)
    if slots[1].wanted:
        dweight = b.out(slots[1], weight)
        dbias = b.empty((weight.shape[0],) if slots[2].wanted else (0,), dy.dtype)
        b.launch(_weight_gradient, dy_rows, x, dweight, dbias, cost=cost)
    elif slots[2].wanted:
        dbias = dy_rows.sum(axis=0)
    return dx, dweight, dbias if slots[2].wanted else None


kernel(linear, linear_forward, linear_backward)
