"""Pooling of images: a loop over the cells of the window, never over pixels.

Letters: N batch, H W height and width of x, P Q of y, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.conv import Padding, Pair, output_size
from gpubackprop.ops.slices import at_once, slices
from gpubackprop.tape import Op, Slots


def pooled_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int = 1, ceil_mode: bool = False) -> int:
    """How many windows fit along an axis; `ceil_mode` lets the last one hang over the end if it begins inside."""
    if not ceil_mode:
        return output_size(size, kernel, stride, padding, dilation)
    count = output_size(size, kernel, stride, (padding[0], padding[1] + stride - 1), dilation)
    return count - 1 if (count - 1) * stride >= size + padding[0] else count


def max_pool2d_forward(
    b: Backend,
    x: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, P, Q, C), the largest value of each window; padding never wins."""
    cells = _Cells(x.shape, kernel, stride, padding, dilation, ceil_mode)
    padded = cells.padded(b, x, -b.xp.inf)
    first, *others = cells
    y = padded[first].copy()
    for cell in others:
        b.xp.maximum(y, padded[cell], out=y)
    return y, (x, y, cells)


def max_pool2d_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, P, Q, C) -> dx (N, H, W, C): all of it to the first of the window's largest values, as in PyTorch."""
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


def avg_pool2d_forward(
    b: Backend,
    x: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Padding = ((0, 0), (0, 0)),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, P, Q, C), the mean of each window; `count_include_pad`: padding counts as zeros."""
    cells = _Cells(x.shape, kernel, stride, padding, (1, 1), ceil_mode)
    padded = cells.padded(b, x, 0)
    first, *others = cells
    y = padded[first].copy()
    for cell in others:
        y += padded[cell]
    share = cells.share(b, x.dtype, count_include_pad)
    y *= share
    return y, (share, cells)


def avg_pool2d_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, P, Q, C) -> dx (N, H, W, C): an equal share to every cell."""
    share, cells = saved
    dx = b.xp.zeros(cells.padded_shape(dy), dy.dtype)
    part = dy * share
    for cell in cells:
        dx[cell] += part
    return (cells.inner(dx),)


def adaptive_avg_pool2d_forward(b: Backend, x: Array, *, output_size: Pair) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, P, Q, C), the mean over cells ⌊iH/P⌋ to ⌈(i+1)H/P⌉, along W likewise.

    It is linear in either axis, hence two small matrix products.
    """
    along_h = _bins(b, x.shape[1], output_size[0], x.dtype)
    along_w = _bins(b, x.shape[2], output_size[1], x.dtype)
    return _along_axes(b, along_h, along_w, x), (along_h, along_w)


def adaptive_avg_pool2d_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, P, Q, C) -> dx (N, H, W, C), by the transposed matrices."""
    along_h, along_w = saved
    return (_along_axes(b, along_h.T, along_w.T, dy),)


def adaptive_max_pool2d_forward(b: Backend, x: Array, *, output_size: Pair) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, P, Q, C), the largest value of each bin; bins as in adaptive_avg_pool2d."""
    cells = _bin_cells(b, x.shape, output_size)
    first, *others = (x.take(rows, axis=1).take(columns, axis=2) for rows, columns in cells)
    y = first
    for values in others:
        b.xp.maximum(y, values, out=y)
    return y, (x, y, cells)


def adaptive_max_pool2d_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, P, Q, C) -> dx (N, H, W, C): all of it to the first of the bin's largest values; bins may share cells."""
    x, y, cells = saved
    dx = b.xp.zeros(x.shape, dy.dtype)
    searching = b.xp.ones(y.shape, bool)
    for rows, columns in cells:
        found = x.take(rows, axis=1).take(columns, axis=2) == y
        found &= searching
        searching ^= found
        to_rows = (b.xp.arange(x.shape[1])[:, None] == rows).astype(dy.dtype)  # (H, P)
        to_columns = (b.xp.arange(x.shape[2])[:, None] == columns).astype(dy.dtype)  # (W, Q)
        dx += _along_axes(b, to_rows, to_columns, dy * found)
    return (dx,)


def global_avg_pool2d_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, C), the mean over the image."""
    return x.mean(axis=(1, 2)), x.shape


def global_avg_pool2d_backward(b: Backend, shape: tuple[int, ...], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, C) -> dx (N, H, W, C)."""
    share = dy / (shape[1] * shape[2])
    return (b.xp.broadcast_to(share[:, None, None, :], shape),)


def global_max_pool2d_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, C), the largest value of the image."""
    n, h, w, c = x.shape
    flat = x.reshape(n, h * w, c)
    return flat.max(axis=1), (flat, x.shape)


def global_max_pool2d_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, C) -> dx (N, H, W, C): all of it to the first of the largest values."""
    flat, shape = saved
    pixel = b.xp.arange(flat.shape[1])[None, :, None]
    dx = (flat.argmax(axis=1)[:, None, :] == pixel) * dy[:, None, :]
    return (dx.reshape(shape),)


class _Cells:
    """The windows over images, cell by cell: each iteration gives the index of one cell of all the windows."""

    def __init__(
        self, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, ceil_mode: bool
    ) -> None:
        self.size, self.kernel, self.stride, self.dilation = shape[1:3], kernel, stride, dilation
        self.out, self.padding, self.pad = [], padding, []
        self.disjoint = True  # whether no pixel is in two windows
        for i, size in enumerate(self.size):
            before, after = padding[i]
            count = pooled_size(size, kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
            reach = dilation[i] * (kernel[i] - 1) + 1
            overhang = (count - 1) * stride[i] + reach - size - before - after
            self.out.append(count)
            self.pad.append((before, after + max(0, overhang)))
            self.disjoint &= reach <= stride[i]

    def __iter__(self) -> Iterator[tuple[slice, slice, slice]]:
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield slice(None), self._along(0, i), self._along(1, j)

    def _along(self, axis: int, cell: int) -> slice:
        start, stride = cell * self.dilation[axis], self.stride[axis]
        return slice(start, start + (self.out[axis] - 1) * stride + 1, stride)

    def padded_shape(self, images: Array) -> tuple[int, ...]:
        """The shape of as many images of as many channels, padding added."""
        height, width = (sum(self.pad[i]) + self.size[i] for i in (0, 1))
        return images.shape[0], height, width, images.shape[3]

    def padded(self, b: Backend, x: Array, value: float) -> Array:
        """x with `value` around it; x itself where nothing is to be added."""
        if not any(map(any, self.pad)):
            return x
        padded = b.xp.full(self.padded_shape(x), value, x.dtype)
        self.inner(padded)[...] = x
        return padded

    def inner(self, padded: Array) -> Array:
        """The images without their padding, a view."""
        top, left = self.pad[0][0], self.pad[1][0]
        return padded[:, top : top + self.size[0], left : left + self.size[1]]

    def share(self, b: Backend, dtype: Any, include_pad: bool) -> float | Array:
        """1 / cells that count: a number where all windows have the same, else (P, Q, 1)."""
        if not any(map(any, self.pad)) or (include_pad and tuple(self.pad) == self.padding):
            return 1.0 / (self.kernel[0] * self.kernel[1])
        counts = []
        for i, size in enumerate(self.size):
            before, after = self.padding[i]
            start = b.xp.arange(self.out[i]) * self.stride[i] - before
            # What hangs over the padding in ceil mode counts never, as in PyTorch.
            low, high = (-before, size + after) if include_pad else (0, size)
            counts.append(b.xp.minimum(start + self.kernel[i], high) - b.xp.maximum(start, low))
        share: Array = 1.0 / (counts[0][:, None, None] * counts[1][None, :, None])
        return share.astype(dtype)


def _bins(b: Backend, size: int, bins: int, dtype: Any) -> Array:
    """(bins, size): row i holds 1 / its length over the cells of bin i, zero elsewhere."""
    start, stop = (edge[:, None] for edge in _edges(b, size, bins))
    cell = b.xp.arange(size)
    return (((cell >= start) & (cell < stop)) / (stop - start)).astype(dtype)


def _edges(b: Backend, size: int, bins: int) -> tuple[Array, Array]:
    """(bins,) each: the first cell of every bin, and the one behind its last."""
    i = b.xp.arange(bins)
    return i * size // bins, ((i + 1) * size + bins - 1) // bins


def _bin_cells(b: Backend, shape: tuple[int, ...], output_size: Pair) -> list[tuple[Array, Array]]:
    """For each cell that a bin may have its rows (P,) and columns (Q,); smaller bins see their last cells again."""
    rows, columns = (
        [b.xp.minimum(start + k, stop - 1) for k in range(-(-size // bins) + bool(size % bins))]
        for size, bins in zip(shape[1:3], output_size, strict=True)
        for start, stop in [_edges(b, size, bins)]
    )
    return [(row, column) for row in rows for column in columns]


def _along_axes(b: Backend, along_h: Array, along_w: Array, x: Array) -> Array:
    """x (N, H, W, C), matrices (P, H) and (Q, W) -> (N, P, Q, C)."""
    n, h, w, c = x.shape
    rows = b.matmul(along_h, x.reshape(n, h, w * c)).reshape(n, along_h.shape[0], w, c)
    return b.matmul(along_w, rows)


max_pool2d = Op(max_pool2d_forward, max_pool2d_backward)
avg_pool2d = Op(avg_pool2d_forward, avg_pool2d_backward)
adaptive_avg_pool2d = Op(adaptive_avg_pool2d_forward, adaptive_avg_pool2d_backward)
adaptive_max_pool2d = Op(adaptive_max_pool2d_forward, adaptive_max_pool2d_backward)
global_avg_pool2d = Op(global_avg_pool2d_forward, global_avg_pool2d_backward)
global_max_pool2d = Op(global_max_pool2d_forward, global_max_pool2d_backward)
