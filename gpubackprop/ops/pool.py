"""Pooling over any number of axes: a loop over the cells of the window, never over pixels.

Letters: N batch, S the sizes of x along the pooled axes ((T,), (H, W) or (D, H, W)), P those of y, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.conv import Padding, Sizes, cells_under, output_size
from gpubackprop.ops.slices import at_once, slices
from gpubackprop.tape import Op, Slots


def pooled_size(
    size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int = 1, ceil_mode: bool = False
) -> int:
    """How many windows fit along an axis; `ceil_mode` lets the last one hang over the end if it begins inside."""
    if not ceil_mode:
        return output_size(size, kernel, stride, padding, dilation)
    count = output_size(size, kernel, stride, (padding[0], padding[1] + stride - 1), dilation)
    return count - 1 if (count - 1) * stride >= size + padding[0] else count


def max_pool_forward(
    b: Backend,
    x: Array,
    *,
    kernel: Sizes,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    ceil_mode: bool = False,
) -> tuple[Array, Any]:
    """x (N, *S, C) -> y (N, *P, C), the largest value of each window; padding never wins."""
    cells = _Cells(x.shape, kernel, stride, padding, dilation, ceil_mode)
    padded = cells.padded(b, x, -b.xp.inf)
    first, *others = cells
    y = padded[first].copy()
    for cell in others:
        b.xp.maximum(y, padded[cell], out=y)
    return y, (x, y, cells)


def max_pool_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, *P, C) -> dx (N, *S, C): all of it to the first of the window's largest values, as in PyTorch."""
    x, y, cells = saved
    dx = b.xp.zeros(cells.padded_shape(x), dy.dtype)
    for piece in slices(len(x), at_once(b, len(x), prod(x.shape[1:]) * dy.dtype.itemsize)):
        padded, part = cells.padded(b, x[piece], -b.xp.inf), dx[piece]
        searching = b.xp.ones(y[piece].shape, bool)
        for cell in cells:
            found = padded[cell] == y[piece]
            found &= searching
            searching ^= found
            if cells.disjoint:
                b.xp.multiply(dy[piece], found, out=part[cell])
            else:
                part[cell] += dy[piece] * found
    return (cells.inner(dx),)


def avg_pool_forward(
    b: Backend,
    x: Array,
    *,
    kernel: Sizes,
    stride: Sizes,
    padding: Padding,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Array, Any]:
    """x (N, *S, C) -> y (N, *P, C), the mean of each window; `count_include_pad`: padding counts as zeros."""
    cells = _Cells(x.shape, kernel, stride, padding, (1,) * len(kernel), ceil_mode)
    padded = cells.padded(b, x, 0)
    first, *others = cells
    y = padded[first].copy()
    for cell in others:
        y += padded[cell]
    share = cells.share(b, x.dtype, count_include_pad)
    y *= share
    return y, (share, cells)


def avg_pool_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, *P, C) -> dx (N, *S, C): an equal share to every cell."""
    share, cells = saved
    dx = b.xp.zeros(cells.padded_shape(dy), dy.dtype)
    part = dy * share
    for cell in cells:
        dx[cell] += part
    return (cells.inner(dx),)


def global_avg_pool_forward(b: Backend, x: Array, mask: Array | None) -> tuple[Array, Any]:
    """x (N, *S, C), mask (N, *S) of booleans or None -> y (N, C), the mean over the real positions; 0 where none is."""
    axes = tuple(range(1, x.ndim - 1))
    if mask is None:
        return x.mean(axis=axes), (x.shape, None, 1 / max(prod(x.shape[1:-1]), 1))
    real = mask[..., None]
    share = 1 / b.xp.maximum(real.sum(axis=axes), 1).astype(x.dtype)  # (N, 1)
    return b.xp.where(real, x, 0).sum(axis=axes) * share, (x.shape, real, share)


def global_avg_pool_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, C) -> dx (N, *S, C): an equal share to every real position."""
    shape, real, share = saved
    dx = b.xp.broadcast_to(_at_every_position(dy * share, shape), shape)
    return dx if real is None else b.xp.where(real, dx, 0), None


def global_max_pool_forward(b: Backend, x: Array, mask: Array | None) -> tuple[Array, Any]:
    """x (N, *S, C), mask (N, *S) of booleans or None -> y (N, C), the largest real value; 0 where no position is."""
    flat = x.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1])
    if mask is None:
        return flat.max(axis=1), (flat, None, x.shape)
    real = mask.reshape(*flat.shape[:2], 1)
    flat = b.xp.where(real, flat, -b.xp.inf)
    some = real.any(axis=1)  # (N, 1)
    return b.xp.where(some, flat.max(axis=1), 0), (flat, some, x.shape)


def global_max_pool_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, C) -> dx (N, *S, C): all of it to the first of the largest values."""
    flat, some, shape = saved
    position = b.xp.arange(flat.shape[1])[None, :, None]
    given = dy if some is None else b.xp.where(some, dy, 0)
    dx = (flat.argmax(axis=1)[:, None, :] == position) * given[:, None, :]
    return dx.reshape(shape), None


def _at_every_position(y: Array, shape: Sizes) -> Array:
    """y (N, C) -> (N, 1, …, 1, C), with as many axes as `shape`."""
    return y.reshape(y.shape[0], *(1,) * (len(shape) - 2), y.shape[-1])


class _Cells:
    """The windows over images, cell by cell: each iteration gives the index of one cell of all the windows."""

    def __init__(
        self, shape: Sizes, kernel: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, ceil_mode: bool
    ) -> None:
        self.size, self.kernel, self.stride, self.dilation = shape[1:-1], kernel, stride, dilation
        self.padding = padding
        out, pad = [], []
        self.disjoint = True  # whether no pixel is in two windows
        for i, size in enumerate(self.size):
            before, after = padding[i]
            count = pooled_size(size, kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
            reach = dilation[i] * (kernel[i] - 1) + 1
            overhang = (count - 1) * stride[i] + reach - size - before - after
            out.append(count)
            pad.append((before, after + max(0, overhang)))
            self.disjoint &= reach <= stride[i]
        self.out, self.pad = tuple(out), tuple(pad)

    def __iter__(self) -> Iterator[tuple[slice, ...]]:
        for cell in product(*map(range, self.kernel)):
            yield cells_under(cell, self.out, self.stride, self.dilation)

    def padded_shape(self, images: Array) -> Sizes:
        """The shape of as many images of as many channels, padding added."""
        sizes = (sum(pad) + size for pad, size in zip(self.pad, self.size, strict=True))
        return images.shape[0], *sizes, images.shape[-1]

    def padded(self, b: Backend, x: Array, value: float) -> Array:
        """x with `value` around it; x itself where nothing is to be added."""
        if not any(map(any, self.pad)):
            return x
        padded = b.xp.full(self.padded_shape(x), value, x.dtype)
        self.inner(padded)[...] = x
        return padded

    def inner(self, padded: Array) -> Array:
        """The images without their padding, a view."""
        inner = (slice(before, before + size) for (before, _), size in zip(self.pad, self.size, strict=True))
        return padded[(slice(None), *inner)]

    def share(self, b: Backend, dtype: Any, include_pad: bool) -> float | Array:
        """1 / cells that count: a number where all windows have the same, else (*P, 1)."""
        if not any(map(any, self.pad)) or (include_pad and self.pad == self.padding):
            return 1.0 / prod(self.kernel)
        share = b.xp.ones(1)
        for i, size in enumerate(self.size):
            before, after = self.padding[i]
            start = b.xp.arange(self.out[i]) * self.stride[i] - before
            # What hangs over the padding in ceil mode counts never, as in PyTorch.
            low, high = (-before, size + after) if include_pad else (0, size)
            count = b.xp.minimum(start + self.kernel[i], high) - b.xp.maximum(start, low)
            share = share[..., None, :] / count[:, None]
        return share.astype(dtype)


max_pool = Op(max_pool_forward, max_pool_backward)
avg_pool = Op(avg_pool_forward, avg_pool_backward)
global_avg_pool = Op(global_avg_pool_forward, global_avg_pool_backward)
global_max_pool = Op(global_max_pool_forward, global_max_pool_backward)
