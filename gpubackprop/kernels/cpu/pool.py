"""Pooling: a thread takes whole samples, and the cells of a window are read as rows of channels.

Max pooling remembers by a byte which cell won, so its backward pass reads no values again. Letters as in ops/pool.py;
sequences (N, T, C) are images one pixel high.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, same_floats
from gpubackprop.ops.adaptive_pool import adaptive_avg_pool, adaptive_max_pool
from gpubackprop.ops.pool import avg_pool, global_avg_pool, global_max_pool, max_pool, pooled_size
from gpubackprop.tape import Slots

CELL = 0.3  # nanoseconds that one value of one cell takes one thread


@serial
def _cells(window, size, kernel, stride, before, dilation):
    """Where a window starts along one axis, its first cell that lies in the image, and the one behind the last."""
    start = window * stride - before
    first = 0 if start >= 0 else -(start // dilation)
    return start, first, min(kernel, max(first, -((start - size) // dilation)))


# Below a sample at a time: slices of single pixels would cost more than their few channels.


@serial
def _sample_max(x, y, winner, kernel, stride, before, dilation):  # (H, W, C), (P, Q, C), bytes (P, Q, C), pairs
    channels = x.shape[2]
    for p in range(y.shape[0]):
        top, i0, i1 = _cells(p, x.shape[0], kernel[0], stride[0], before[0], dilation[0])
        for q in range(y.shape[1]):
            left, j0, j1 = _cells(q, x.shape[1], kernel[1], stride[1], before[1], dilation[1])
            fresh = True
            for i in range(i0, i1):
                row = top + i * dilation[0]
                for j in range(j0, j1 - 1, 2):
                    here, there = left + j * dilation[1], left + (j + 1) * dilation[1]
                    cell, following = np.uint8(i * kernel[1] + j), np.uint8(i * kernel[1] + j + 1)
                    if fresh:
                        for c in range(channels):
                            v, w = x[row, here, c], x[row, there, c]
                            wins = w > v or w != w  # a NaN wins, and stays
                            y[p, q, c] = w if wins else v
                            winner[p, q, c] = following if wins else cell
                        fresh = False
                    else:
                        for c in range(channels):
                            v, w = x[row, here, c], x[row, there, c]
                            best, won = y[p, q, c], winner[p, q, c]
                            wins = v > best or v != v
                            best, won = v if wins else best, cell if wins else won
                            wins = w > best or w != w
                            y[p, q, c] = w if wins else best
                            winner[p, q, c] = following if wins else won
                if (j1 - j0) % 2:
                    here, cell = left + (j1 - 1) * dilation[1], np.uint8(i * kernel[1] + j1 - 1)
                    if fresh:
                        for c in range(channels):
                            y[p, q, c] = x[row, here, c]
                            winner[p, q, c] = cell
                        fresh = False
                    else:
                        for c in range(channels):
                            v, best, won = x[row, here, c], y[p, q, c], winner[p, q, c]
                            wins = v > best or v != v
                            y[p, q, c] = v if wins else best
                            winner[p, q, c] = cell if wins else won
            if fresh:  # a window of nothing but padding
                y[p, q] = -np.inf
                winner[p, q] = 0


@parallel
def _max(x, y, winner, kernel, stride, before, dilation, threads):  # (N, H, W, C), (N, P, Q, C) twice, pairs
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * share, min(x.shape[0], (t + 1) * share)):
            _sample_max(x[n], y[n], winner[n], kernel, stride, before, dilation)


@serial
def _sample_max_gradient(dy, winner, dx, kernel, stride, before, dilation, disjoint):  # (P, Q, C) twice, (H, W, C)
    channels, zero = dx.shape[2], dx.dtype.type(0)
    for p in range(dy.shape[0]):
        top, i0, i1 = _cells(p, dx.shape[0], kernel[0], stride[0], before[0], dilation[0])
        for q in range(dy.shape[1]):
            left, j0, j1 = _cells(q, dx.shape[1], kernel[1], stride[1], before[1], dilation[1])
            for i in range(i0, i1):
                row = top + i * dilation[0]
                for j in range(j0, j1):
                    here, cell = left + j * dilation[1], np.uint8(i * kernel[1] + j)
                    if disjoint:
                        for c in range(channels):
                            v = dy[p, q, c]
                            dx[row, here, c] = v if winner[p, q, c] == cell else zero
                    else:
                        for c in range(channels):
                            v = dy[p, q, c]
                            dx[row, here, c] += v if winner[p, q, c] == cell else zero


@parallel
def _max_gradient(dy, winner, dx, kernel, stride, before, dilation, disjoint, covered, threads):
    # dy and winner (N, P, Q, C), dx (N, H, W, C), pairs; no pixel in two windows, none in no window
    share = -(-dx.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * share, min(dx.shape[0], (t + 1) * share)):
            if not covered:
                dx[n] = 0
            _sample_max_gradient(dy[n], winner[n], dx[n], kernel, stride, before, dilation, disjoint)


@serial
def _counted(window, size, kernel, stride, before, after, include_pad):
    """How many cells of a window count in its mean, along one axis; what hangs over the padding never does."""
    start = window * stride - before
    low, high = (-before, size + after) if include_pad else (0, size)
    return min(start + kernel, high) - max(start, low)


@serial
def _sample_average(x, y, kernel, stride, before, after, include_pad):  # (H, W, C), (P, Q, C), pairs
    channels = x.shape[2]
    for p in range(y.shape[0]):
        top, i0, i1 = _cells(p, x.shape[0], kernel[0], stride[0], before[0], 1)
        high = _counted(p, x.shape[0], kernel[0], stride[0], before[0], after[0], include_pad)
        for q in range(y.shape[1]):
            left, j0, j1 = _cells(q, x.shape[1], kernel[1], stride[1], before[1], 1)
            wide = _counted(q, x.shape[1], kernel[1], stride[1], before[1], after[1], include_pad)
            part = x.dtype.type(1 / (high * wide))
            y[p, q] = 0
            for i in range(top + i0, top + i1):
                for j in range(left + j0, left + j1 - 1, 2):
                    for c in range(channels):
                        y[p, q, c] += (x[i, j, c] + x[i, j + 1, c]) * part
                if (j1 - j0) % 2:
                    for c in range(channels):
                        y[p, q, c] += x[i, left + j1 - 1, c] * part


@parallel
def _average(x, y, kernel, stride, before, after, include_pad, threads):  # (N, H, W, C), (N, P, Q, C), pairs
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * share, min(x.shape[0], (t + 1) * share)):
            _sample_average(x[n], y[n], kernel, stride, before, after, include_pad)


@serial
def _sample_average_gradient(dy, dx, kernel, stride, before, after, include_pad, disjoint):  # (P, Q, C), (H, W, C)
    channels = dx.shape[2]
    for p in range(dy.shape[0]):
        top, i0, i1 = _cells(p, dx.shape[0], kernel[0], stride[0], before[0], 1)
        high = _counted(p, dx.shape[0], kernel[0], stride[0], before[0], after[0], include_pad)
        for q in range(dy.shape[1]):
            left, j0, j1 = _cells(q, dx.shape[1], kernel[1], stride[1], before[1], 1)
            wide = _counted(q, dx.shape[1], kernel[1], stride[1], before[1], after[1], include_pad)
            part = dy.dtype.type(1 / (high * wide))
            for i in range(top + i0, top + i1):
                for j in range(left + j0, left + j1):
                    if disjoint:
                        for c in range(channels):
                            dx[i, j, c] = dy[p, q, c] * part
                    else:
                        for c in range(channels):
                            dx[i, j, c] += dy[p, q, c] * part


@parallel
def _average_gradient(dy, dx, kernel, stride, before, after, include_pad, disjoint, covered, threads):
    # dy (N, P, Q, C), dx (N, H, W, C), pairs; no pixel in two windows, none in no window
    share = -(-dx.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * share, min(dx.shape[0], (t + 1) * share)):
            if not covered:
                dx[n] = 0
            _sample_average_gradient(dy[n], dx[n], kernel, stride, before, after, include_pad, disjoint)


class _Windows:
    """Sizes along two axes, of images or of sequences: what the compiled functions take."""

    def __init__(self, x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> None:
        one = (1,) * (2 - len(kernel))
        sizes = x.shape[1:-1]
        options = zip(sizes, kernel, stride, padding, dilation, strict=True)
        out = tuple(pooled_size(*each, ceil_mode) for each in options)
        self.x_shape = (x.shape[0], *one, *sizes, x.shape[-1])
        self.y_shape = (x.shape[0], *out, x.shape[-1])
        self.wide_shape = (x.shape[0], *one, *out, x.shape[-1])
        self.kernel, self.stride, self.dilation = (*one, *kernel), (*one, *stride), (*one, *dilation)
        self.before = tuple(before for before, _ in ((0, 0),) * len(one) + tuple(padding))
        self.after = tuple(after for _, after in ((0, 0),) * len(one) + tuple(padding))
        every = tuple(zip(self.kernel, self.stride, self.dilation, strict=True))
        self.disjoint = all(d * (k - 1) < s for k, s, d in every)
        reach = ((o * s - before, size) for o, (_, s, _), before, size in self._ends(every))
        self.covered = self.disjoint and all(d * k >= s for k, s, d in every) and all(e >= size for e, size in reach)
        self.cost = CELL * prod(self.wide_shape) * prod(kernel)

    def _ends(self, every: Any) -> Any:
        return zip(self.wide_shape[1:3], every, self.before, self.x_shape[1:3], strict=True)


def max_pool_forward(
    b: CpuBackend, x: Array, *, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool = False
) -> tuple[Array, Any]:
    """As ops/pool.py."""
    w = _Windows(x, kernel, stride, padding, dilation, ceil_mode)
    y, winner = b.empty(w.y_shape, x.dtype), b.empty(w.wide_shape, np.uint8)
    sizes = (w.kernel, w.stride, w.before, w.dilation)
    b.launch(_max, x.reshape(w.x_shape), y.reshape(w.wide_shape), winner, *sizes, cost=w.cost)
    return y, (winner, w, sizes, x.shape)


def max_pool_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/pool.py."""
    winner, w, sizes, shape = saved
    dx = b.empty(shape, dy.dtype)
    arrays = (dy.reshape(w.wide_shape), winner, dx.reshape(w.x_shape))
    b.launch(_max_gradient, *arrays, *sizes, w.disjoint, w.covered, cost=w.cost)
    return (dx,)


def avg_pool_forward(
    b: CpuBackend,
    x: Array,
    *,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Array, Any]:
    """As ops/pool.py."""
    w = _Windows(x, kernel, stride, padding, (1,) * len(kernel), ceil_mode)
    y = b.empty(w.y_shape, x.dtype)
    sizes = (w.kernel, w.stride, w.before, w.after, count_include_pad)
    b.launch(_average, x.reshape(w.x_shape), y.reshape(w.wide_shape), *sizes, cost=w.cost)
    return y, (w, sizes, x.shape)


def avg_pool_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/pool.py."""
    w, sizes, shape = saved
    dx = b.empty(shape, dy.dtype)
    arrays = (dy.reshape(w.wide_shape), dx.reshape(w.x_shape))
    b.launch(_average_gradient, *arrays, *sizes, w.disjoint, w.covered, cost=w.cost)
    return (dx,)


def global_avg_pool_forward(b: CpuBackend, x: Array, mask: None) -> tuple[Array, Any]:
    """As ops/pool.py, without a mask."""
    return _global(b, avg_pool_forward, x, padding=((0, 0),))


def global_avg_pool_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/pool.py."""
    return _global_backward(b, avg_pool_backward, saved, dy, slots)


def global_max_pool_forward(b: CpuBackend, x: Array, mask: None) -> tuple[Array, Any]:
    """As ops/pool.py, without a mask."""
    return _global(b, max_pool_forward, x, padding=((0, 0),), dilation=(1,))


def global_max_pool_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/pool.py."""
    return _global_backward(b, max_pool_backward, saved, dy, slots)


def _global(b: CpuBackend, forward: Any, x: Array, **options: Any) -> tuple[Array, Any]:
    """One window over all positions as a sequence."""
    flat = x.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1])
    y, saved = forward(b, flat, kernel=flat.shape[1:2], stride=flat.shape[1:2], **options)
    return y.reshape(x.shape[0], x.shape[-1]), (saved, x.shape)


def _global_backward(b: CpuBackend, backward: Any, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    inner, shape = saved
    (dx,) = backward(b, inner, dy, slots)
    return dx.reshape(shape), None


def adaptive_avg_pool_forward(b: CpuBackend, x: Array, *, output_size: Any) -> tuple[Array, Any]:
    """As ops/adaptive_pool.py, for a single bin: a NaN goes into all bins of the reference's products."""
    return avg_pool_forward(b, x, **_bins(x, output_size))


def adaptive_max_pool_forward(b: CpuBackend, x: Array, *, output_size: Any) -> tuple[Array, Any]:
    """As ops/adaptive_pool.py, for bins of one size."""
    return max_pool_forward(b, x, **_bins(x, output_size), dilation=(1,) * len(output_size))


def _bins(x: Array, output_size: Any) -> dict[str, Any]:
    kernel = tuple(size // bins for size, bins in zip(x.shape[1:-1], output_size, strict=True))
    return {"kernel": kernel, "stride": kernel, "padding": ((0, 0),) * len(kernel)}


def _at_most_images(arrays: Any, options: Any) -> bool:
    return same_floats(arrays, options) and arrays[0].ndim <= 4


def _counts_in_a_byte(arrays: Any, options: Any) -> bool:
    return _at_most_images(arrays, options) and prod(options["kernel"]) <= 256


def _unmasked(arrays: Any, options: Any) -> bool:
    x, mask = arrays
    return same_floats(arrays, options) and mask is None and x.ndim > 2 and prod(x.shape[1:-1]) > 0


def _unmasked_in_a_byte(arrays: Any, options: Any) -> bool:
    return _unmasked(arrays, options) and prod(arrays[0].shape[1:-1]) <= 256


def _equal_bins(arrays: Any, options: Any) -> bool:
    bins = options["output_size"]
    return _at_most_images(arrays, options) and not any(
        size % count or not size for size, count in zip(arrays[0].shape[1:-1], bins, strict=True)
    )


def _one_bin(arrays: Any, options: Any) -> bool:
    return _equal_bins(arrays, options) and set(options["output_size"]) == {1}


def _equal_bins_in_a_byte(arrays: Any, options: Any) -> bool:
    return _equal_bins(arrays, options) and prod(_bins(arrays[0], options["output_size"])["kernel"]) <= 256


kernel(max_pool, max_pool_forward, max_pool_backward, _counts_in_a_byte)
kernel(avg_pool, avg_pool_forward, avg_pool_backward, _at_most_images)
kernel(global_avg_pool, global_avg_pool_forward, global_avg_pool_backward, _unmasked)
kernel(global_max_pool, global_max_pool_forward, global_max_pool_backward, _unmasked_in_a_byte)
kernel(adaptive_avg_pool, adaptive_avg_pool_forward, avg_pool_backward, _one_bin)
kernel(adaptive_max_pool, adaptive_max_pool_forward, max_pool_backward, _equal_bins_in_a_byte)
