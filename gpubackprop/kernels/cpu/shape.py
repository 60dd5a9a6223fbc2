"""Ops that move values. What only counts them otherwise is the reference's view: no launch, no copy."""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rows_of, same_floats
from gpubackprop.ops.shape import add, concat, divide, flatten, merge, pad_channels, reshape
from gpubackprop.tape import Slots

MOVE = 0.3  # nanoseconds that one value takes one thread


@serial
def _sum(x, other, y):  # (T,) each
    for i in range(x.size):
        y[i] = x[i] + other[i]


@parallel
def _add(x, other, y, threads):  # (T,) each
    share = -(-x.size // threads)
    for t in prange(threads):
        low, high = min(x.size, t * share), min(x.size, (t + 1) * share)
        _sum(x[low:high], other[low:high], y[low:high])


@serial
def _copied(x, y):  # (I,), (I,)
    for i in range(x.size):
        y[i] = x[i]


@parallel
def _copy(x, first, y, first_y, width, threads):  # (M, I), number, (M, O), number, number
    """Columns `first` and on of x into columns `first_y` and on of y, `width` of them."""
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        for i in range(t * share, min(x.shape[0], (t + 1) * share)):
            _copied(x[i, first : first + width], y[i, first_y : first_y + width])


@serial
def _turned(x, y):  # (S, C), (C, S)
    eights = x.shape[0] // 8 * 8
    for i in range(0, eights, 8):  # by hand: eight rows are read at a time, and what is written lies together
        for c in range(x.shape[1]):
            y[c, i] = x[i, c]
            y[c, i + 1] = x[i + 1, c]
            y[c, i + 2] = x[i + 2, c]
            y[c, i + 3] = x[i + 3, c]
            y[c, i + 4] = x[i + 4, c]
            y[c, i + 5] = x[i + 5, c]
            y[c, i + 6] = x[i + 6, c]
            y[c, i + 7] = x[i + 7, c]
    for i in range(eights, x.shape[0]):
        for c in range(x.shape[1]):
            y[c, i] = x[i, c]


@parallel
def _turn(x, y, threads):  # (N, S, C), (N, C, S)
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * share, min(x.shape[0], (t + 1) * share)):
            _turned(x[n], y[n])


@serial
def _sample_widened(x, y, before, stride):  # (H, W, C), (P, Q, O), numbers
    for p in range(y.shape[0]):
        for q in range(y.shape[1]):
            for c in range(y.shape[2]):
                y[p, q, c] = 0
            for c in range(x.shape[2]):
                y[p, q, before + c] = x[p * stride, q * stride, c]


@parallel
def _widen(x, y, before, stride, threads):  # (N, H, W, C), (N, P, Q, O), numbers
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * share, min(x.shape[0], (t + 1) * share)):
            _sample_widened(x[n], y[n], before, stride)


@serial
def _sample_narrowed(dy, dx, before, stride):  # (P, Q, O), (H, W, C), numbers
    if stride > 1:
        dx[:] = 0
    for p in range(dy.shape[0]):
        for q in range(dy.shape[1]):
            for c in range(dx.shape[2]):
                dx[p * stride, q * stride, c] = dy[p, q, before + c]


@parallel
def _narrow(dy, dx, before, stride, threads):  # (N, P, Q, O), (N, H, W, C), numbers
    share = -(-dx.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * share, min(dx.shape[0], (t + 1) * share)):
            _sample_narrowed(dy[n], dx[n], before, stride)


def add_forward(b: CpuBackend, x: Array, other: Array) -> tuple[Array, Any]:
    """As ops/shape.py."""
    y = b.empty(x.shape, x.dtype)
    b.launch(_add, x.reshape(-1), other.reshape(-1), y.reshape(-1), cost=MOVE * x.size)
    return y, None


def concat_forward(b: CpuBackend, *xs: Array) -> tuple[Array, Any]:
    """As ops/shape.py."""
    widths = [x.shape[-1] for x in xs]
    y = b.empty((*xs[0].shape[:-1], sum(widths)), xs[0].dtype)
    for i, x in enumerate(xs):
        b.launch(_copy, rows_of(x), 0, rows_of(y), sum(widths[:i]), widths[i], cost=MOVE * x.size)
    return y, widths


def concat_backward(b: CpuBackend, widths: list[int], dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/shape.py, copies: slices would have to be copied by whoever comes next."""
    dxs: list[Array | None] = []
    for i, (slot, width) in enumerate(zip(slots, widths, strict=True)):
        dx = b.empty((*dy.shape[:-1], width), dy.dtype) if slot.wanted else None
        if dx is not None:
            b.launch(_copy, rows_of(dy), sum(widths[:i]), rows_of(dx), 0, width, cost=MOVE * dx.size)
        dxs.append(dx)
    return tuple(dxs)


def flatten_forward(b: CpuBackend, x: Array) -> tuple[Array, Any]:
    """As ops/shape.py."""
    size = prod(x.shape[1:])
    if x.ndim not in (4, 5):
        return x.reshape(x.shape[0], size), x.shape
    y, shape = b.empty((x.shape[0], size), x.dtype), (x.shape[0], prod(x.shape[1:-1]), x.shape[-1])
    b.launch(_turn, x.reshape(shape), y.reshape(shape[0], shape[2], shape[1]), cost=MOVE * x.size)
    return y, x.shape


def flatten_backward(b: CpuBackend, shape: tuple[int, ...], dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/shape.py."""
    if len(shape) not in (4, 5):
        return (dy.reshape(shape),)
    dx, turned = b.empty(shape, dy.dtype), (shape[0], shape[-1], prod(shape[1:-1]))
    b.launch(_turn, dy.reshape(turned), dx.reshape(turned[0], turned[2], turned[1]), cost=MOVE * dy.size)
    return (dx,)


def pad_channels_forward(b: CpuBackend, x: Array, *, out_channels: int, stride: int) -> tuple[Array, Any]:
    """As ops/shape.py."""
    n, height, width, channels = x.shape
    before = (out_channels - channels) // 2
    y = b.empty((n, -(-height // stride), -(-width // stride), out_channels), x.dtype)
    b.launch(_widen, x, y, before, stride, cost=MOVE * y.size)
    return y, (x.shape, before, stride)


def pad_channels_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/shape.py."""
    shape, before, stride = saved
    dx = b.empty(shape, dy.dtype)
    b.launch(_narrow, dy, dx, before, stride, cost=MOVE * dx.size)
    return (dx,)


def _joined(arrays: Any, options: Any) -> bool:
    return same_floats(arrays, options) and all(x.ndim > 0 and x.shape[-1] > 0 for x in arrays)


kernel(add, add_forward, add.backward)
kernel(concat, concat_forward, concat_backward, _joined)
kernel(flatten, flatten_forward, flatten_backward)
kernel(pad_channels, pad_channels_forward, pad_channels_backward)
for view in (reshape, merge, divide):  # of arrays without gaps, as kernels get them, these are views
    kernel(view, view.forward, view.backward)
