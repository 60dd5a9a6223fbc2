"""Fully connected layers: each thread multiplies its own part, and adds the bias while it is in its cache."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.blas import gemm
from gpubackprop.kernels.cpu.glue import part
from gpubackprop.kernels.cpu.jit import inline, parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rows_of, same_floats
from gpubackprop.ops.linear import linear
from gpubackprop.ops.linear_activation import linear_activation
from gpubackprop.tape import Slots

FLOP = 0.012  # nanoseconds that a multiply-add takes one thread, about
#: What the loop behind the product does: nothing, or an activation.
PLAIN, RELU = 0, 1
KINDS = {"relu": RELU}


@inline
def share(c, threads, t):
    """Rows and columns of c (M, N) that thread t makes: the longer side is divided, so that the larger factor of the
    product is read once."""
    rows, columns = c.shape
    if rows > columns:
        low, high = part(rows, threads, t)
        return low, high, 0, columns
    low, high = part(columns, threads, t)
    return 0, rows, low, high


@serial
def _finish(kind, bias, y):  # kind, (O,) or (0,), (O,)
    if bias.size:
        for j in range(y.size):
            y[j] += bias[j]
    if kind == RELU:
        for j in range(y.size):
            y[j] = y[j] * 0 if y[j] <= 0 else y[j]


@serial
def _slope(kind, y, dy, dz):  # kind, (O,), (O,), (O,)
    if kind == RELU:
        for j in range(y.size):
            dz[j] = dy[j] if y[j] > 0 else dy[j] * 0


@serial
def _add(x, total):  # (O,), (O,)
    for j in range(x.size):
        total[j] += x[j]


@parallel
def _forward(kind, x, weight, bias, y, threads):  # kind, (M, I), (O, I), (O,) or (0,), (M, O)
    for t in prange(threads):
        top, bottom, left, right = share(y, threads, t)
        gemm(x[top:bottom], False, weight[left:right], True, y[top:bottom, left:right], False)
        if kind or bias.size:
            for i in range(top, bottom):
                _finish(kind, bias[left:right], y[i, left:right])


@parallel
def _backward(kind, y, dy, x, weight, dz, dx, dweight, dbias, threads):
    # kind, (M, O), (M, O), (M, I), (O, I), (M, O), the gradients or arrays of size 0 where none is wanted
    for t in prange(threads):  # by columns, so that each thread has sums of its own
        low, high = part(dy.shape[1], threads, t)
        if dbias.size:
            dbias[low:high] = 0
        for i in range(dy.shape[0]):
            if kind:
                _slope(kind, y[i, low:high], dy[i, low:high], dz[i, low:high])
            if dbias.size:
                _add(dz[i, low:high], dbias[low:high])
    if dx.size:
        for t in prange(threads):
            top, bottom, left, right = share(dx, threads, t)
            gemm(dz[top:bottom], False, weight[:, left:right], False, dx[top:bottom, left:right], False)
    if dweight.size:
        for t in prange(threads):
            top, bottom, left, right = share(dweight, threads, t)
            gemm(dz[:, top:bottom], True, x[:, left:right], False, dweight[top:bottom, left:right], False)


def _run_forward(b: CpuBackend, kind: int, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    rows = rows_of(x)
    y = b.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    bias = b.empty((0,), x.dtype) if bias is None else bias
    b.launch(_forward, kind, rows, weight, bias, rows_of(y), cost=FLOP * rows.size * weight.shape[0])
    return y, (kind, rows, weight, rows_of(y))


def _run_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    kind, x, weight, y = saved
    rows, nothing = rows_of(dy), b.empty((0, 0), dy.dtype)
    dz = b.empty(rows.shape, dy.dtype) if kind else rows
    dx = b.empty((*dy.shape[:-1], x.shape[1]), dy.dtype) if slots[0].wanted else nothing
    dweight = b.out(slots[1], weight) if slots[1].wanted else nothing
    dbias = b.out_of(slots[2], weight.shape[:1], dy.dtype) if slots[2].wanted else b.empty((0,), dy.dtype)
    products = slots[0].wanted + slots[1].wanted
    cost = FLOP * x.size * weight.shape[0] * max(products, 0.01)
    b.launch(_backward, kind, y, rows, x, weight, dz, dx.reshape(-1, x.shape[1]), dweight, dbias, cost=cost)
    return tuple(a if slot.wanted else None for a, slot in zip((dx, dweight, dbias), slots, strict=True))


def linear_forward(b: CpuBackend, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    """As ops/linear.py."""
    return _run_forward(b, PLAIN, x, weight, bias)


def linear_activation_forward(
    b: CpuBackend, x: Array, weight: Array, bias: Array | None, *, activation: str, **options: Any
) -> tuple[Array, Any]:
    """As ops/linear_activation.py."""
    return _run_forward(b, KINDS[activation], x, weight, bias)


kernel(linear, linear_forward, _run_backward)
kernel(
    linear_activation,
    linear_activation_forward,
    _run_backward,
    lambda arrays, options: options["activation"] in KINDS and same_floats(arrays, options),
)
