"""Fully connected layers: each thread multiplies its own part, and adds the bias while it is in its cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu import curves
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.curves import (
    gelu,
    gelu_slope,
    gelu_tanh,
    gelu_tanh_slope,
    hyperbolic,
    hyperbolic_slope,
    relu,
    relu_slope,
    sigmoid,
    sigmoid_slope,
    silu,
    silu_slope,
)
from gpubackprop.kernels.cpu.glue import part
from gpubackprop.kernels.cpu.jit import inline, parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rows_of
from gpubackprop.kernels.cpu.panels import multiply, pack_block, pack_rows, scratch_for
from gpubackprop.ops.linear import linear
from gpubackprop.ops.linear_activation import linear_activation, linear_gelu_linear
from gpubackprop.tape import FREE, SKIP, Slots

FLOP = 0.01  # nanoseconds that a multiply-add takes one thread, about
SLOPE = 0.5  # nanoseconds of a number's slope, about
#: What the loop behind the product does: nothing, or an activation; the latter three need the product for their slope.
PLAIN, RELU, TANH, SIGMOID, SILU, ERF_GELU, TANH_GELU = range(7)
KINDS = {
    ("relu", None): (RELU, 0.0, 0.0),
    ("tanh", None): (TANH, 0.0, 0.0),
    ("sigmoid", None): (SIGMOID, 0.0, 0.0),
    ("silu", None): (SILU, 0.0, 0.0),
    ("gelu", "none"): (ERF_GELU, *curves.GELU),
    ("gelu", "tanh"): (TANH_GELU, *curves.GELU_TANH),
}


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
def _finish(kind, a, b, bias, z, y):  # kind and its numbers, (O,) or (0,), (O,), (O,)
    if bias.size:
        for j in range(z.size):
            z[j] += bias[j]
    if kind == RELU:
        for j in range(z.size):
            y[j] = relu(z[j], a, b)
    elif kind == TANH:
        for j in range(z.size):
            y[j] = hyperbolic(z[j], a, b)
    elif kind == SIGMOID:
        for j in range(z.size):
            y[j] = sigmoid(z[j], a, b)
    elif kind == SILU:
        for j in range(z.size):
            y[j] = silu(z[j], a, b)
    elif kind == ERF_GELU:
        for j in range(z.size):
            y[j] = gelu(z[j], a, b)
    elif kind == TANH_GELU:
        for j in range(z.size):
            y[j] = gelu_tanh(z[j], a, b)


@serial
def _slope(kind, a, b, z, dy, dz):  # kind and its numbers, (O,) of the input or the output, (O,), (O,)
    if kind == RELU:
        for j in range(z.size):
            dz[j] = dy[j] * relu_slope(z[j], a, b)
    elif kind == TANH:
        for j in range(z.size):
            dz[j] = dy[j] * hyperbolic_slope(z[j], a, b)
    elif kind == SIGMOID:
        for j in range(z.size):
            dz[j] = dy[j] * sigmoid_slope(z[j], a, b)
    elif kind == SILU:
        for j in range(z.size):
            dz[j] = dy[j] * silu_slope(z[j], a, b)
    elif kind == ERF_GELU:
        for j in range(z.size):
            dz[j] = dy[j] * gelu_slope(z[j], a, b)
    elif kind == TANH_GELU:
        for j in range(z.size):
            dz[j] = dy[j] * gelu_tanh_slope(z[j], a, b)


@serial
def _add(x, total):  # (O,), (O,)
    for j in range(x.size):
        total[j] += x[j]


@parallel
def _multiply(a, turn_a, b, turn_b, z, kind, first, second, bias, y, scratch, threads):
    """z (M, N) = a b + bias; y = activation of z. All three products of a layer: so one function is compiled.

    `turn_a`: a is (K, M), else (M, K); `turn_b`: b is (N, K), else (K, N). kind and its numbers, bias (N,) or (0,),
    y (M, N) or z again, scratch (threads, P + 1, K', width) of panels.scratch_for.
    """
    inner = a.shape[0] if turn_a else a.shape[1]
    deep, width = scratch.shape[2:]
    wide = (scratch.shape[1] - 1) * width
    for t in prange(threads):
        top, bottom, left, right = share(z, threads, t)
        for j in range(left, right, wide):
            end = min(j + wide, right)
            panels = scratch[t, : -(-(end - j) // width)]
            for low in range(0, max(inner, 1), deep):
                high = min(low + deep, inner)
                pack_block(b[j:end, low:high] if turn_b else b[low:high, j:end], turn_b, panels)
                for i in range(top, bottom, width):
                    stop = min(i + width, bottom)
                    if turn_a:
                        turned = scratch[t, -1]
                        pack_rows(a[low:high, i:stop], turned)
                        rows = turned[: high - low].T[: stop - i]
                    else:
                        rows = a[i:stop, low:high]
                    multiply(rows, panels, z[i:stop, j:end], low > 0)
                    if (kind or bias.size) and high == inner:
                        for r in range(i, stop):
                            _finish(kind, first, second, bias[j:end], z[r, j:end], y[r, j:end])


@parallel
def _slopes(kind, a, b, z, dy, dz, dbias, threads):
    # kind and its numbers, (M, O), (M, O), (M, O), (O,) or (0,)
    for t in prange(threads):  # by columns, so that each thread has sums of its own
        low, high = part(dy.shape[1], threads, t)
        if dbias.size:
            dbias[low:high] = 0
        for i in range(dy.shape[0]):
            if kind:
                _slope(kind, a, b, z[i, low:high], dy[i, low:high], dz[i, low:high])
            if dbias.size:
                _add(dz[i, low:high], dbias[low:high])


def _run_forward(
    b: CpuBackend, what: tuple[int, float, float], x: Array, weight: Array, bias: Array | None
) -> tuple[Array, Any]:
    kind, first, second = what
    rows = rows_of(x)
    y = b.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    z = b.empty(y.shape, x.dtype) if kind >= SILU else y
    bias = b.empty((0,), x.dtype) if bias is None else bias
    numbers = kind, x.dtype.type(first), x.dtype.type(second)
    scratch = scratch_for(b, *weight.shape[::-1], x.dtype)
    cost = FLOP * rows.size * weight.shape[0]
    factors = rows, np.bool_(False), weight, np.bool_(True)
    b.launch(_multiply, *factors, rows_of(z), *numbers, bias, rows_of(y), scratch, cost=cost)
    return y, (numbers, rows, weight, rows_of(z))


def _run_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    numbers, x, weight, z = saved
    rows, none = rows_of(dy), b.empty((0,), dy.dtype)
    dz = b.empty(rows.shape, dy.dtype) if numbers[0] else rows
    dx = dweight = dbias = None
    if slots[2].wanted:
        dbias = b.out_of(slots[2], weight.shape[:1], dy.dtype)
    if numbers[0] or dbias is not None:
        cost = SLOPE * rows.size
        b.launch(_slopes, *numbers, z, rows, dz, none if dbias is None else dbias, cost=cost)
    cost = FLOP * x.size * weight.shape[0]
    plain = PLAIN, *numbers[1:], none
    if slots[0].wanted:
        dx = b.empty((*dy.shape[:-1], x.shape[1]), dy.dtype)
        factors, scratch = (dz, np.bool_(False), weight, np.bool_(False)), scratch_for(b, *weight.shape, dy.dtype)
        b.launch(_multiply, *factors, rows_of(dx), *plain, rows_of(dx), scratch, cost=cost)
    if slots[1].wanted:
        dweight = b.out(slots[1], weight)
        turned, scratch = (dz, np.bool_(True), x, np.bool_(False)), scratch_for(b, *x.shape, dy.dtype)
        b.launch(_multiply, *turned, dweight, *plain, dweight, scratch, cost=cost)
    return dx, dweight, dbias


def linear_forward(b: CpuBackend, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    """As ops/linear.py."""
    return _run_forward(b, (PLAIN, 0.0, 0.0), x, weight, bias)


def linear_gradients(b: CpuBackend, x: Array, weight: Array, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dx, dweight, dbias of linear, for kernels that have a product inside."""
    saved = (PLAIN, x.dtype.type(0), x.dtype.type(0)), rows_of(x), weight, rows_of(dy)
    return _run_backward(b, saved, dy, slots)


def linear_activation_forward(
    b: CpuBackend, x: Array, weight: Array, bias: Array | None, *, activation: str, **options: Any
) -> tuple[Array, Any]:
    """As ops/linear_activation.py."""
    return _run_forward(b, KINDS[_named(activation, **options)], x, weight, bias)


def _named(activation: str, approximate: str | None = None) -> tuple[str, str | None]:
    return activation, "none" if activation == "gelu" and approximate is None else approximate


def linear_gelu_linear_forward(
    b: CpuBackend, x: Array, weight: Array, bias: Array | None, weight2: Array, bias2: Array | None
) -> tuple[Array, Any]:
    """As ops/linear_activation.py: one after the other; it is a GPU that gains by it."""
    h, first = linear_activation_forward(b, x, weight, bias, activation="gelu", approximate="tanh")
    y, second = linear_forward(b, h, weight2, bias2)
    return y, (first, second)


def linear_gelu_linear_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/linear_activation.py."""
    first, second = saved
    below = any(slot.wanted for slot in slots[:3])
    dh, *rest = _run_backward(b, second, dy, [FREE if below else SKIP, *slots[3:]])
    return (*(_run_backward(b, first, dh, slots[:3]) if below else (None,) * 3), *rest)


kernel(linear, linear_forward, _run_backward)
kernel(linear_activation, linear_activation_forward, _run_backward)
kernel(linear_gelu_linear, linear_gelu_linear_forward, linear_gelu_linear_backward)
