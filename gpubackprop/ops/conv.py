"""Convolution over any number of axes: im2col and one GEMM, a few samples at a time: the columns stay in the cache.

Letters: N batch, S the sizes of x along the axes that the kernel slides over ((T,), (H, W) or (D, H, W)), P those of y,
C input channels, O output channels, G groups, K the kernel's sizes; a column holds prod(K)·C/G cells. The weight lies
as (*K, C/G, O), so that it is the GEMM's right factor as it is, and its transpose is what backward needs; PyTorch's
(O, C/G, *K) is a transposition at the state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any, NamedTuple, TypeAlias

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.channels import across, channel_sum, rows_of
from gpubackprop.ops.slices import at_once, slices
from gpubackprop.tape import Op, Slots

Sizes: TypeAlias = tuple[int, ...]  #: one number per axis: (along T,), (along H, along W), …
Padding: TypeAlias = tuple[tuple[int, int], ...]  #: by axis (before, after): ((top, bottom), (left, right))


class Windows(NamedTuple):
    """How windows lie over an image, by axis."""

    stride: Sizes
    padding: Padding
    dilation: Sizes
    groups: int


def output_size(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int = 1) -> int:
    """How many windows of `kernel` cells fit along an axis; zero or less where none does."""
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


def transposed_size(
    size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int = 1, output_padding: int = 0
) -> int:
    """How many cells `size` windows of `kernel` cells cover, padding cut off and `output_padding` put on behind."""
    return (size - 1) * stride - sum(padding) + dilation * (kernel - 1) + 1 + output_padding


def conv_forward(
    b: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int = 1,
) -> tuple[Array, Any]:
    """x (N, *S, C), weight (*K, C/G, O), bias (O,) or None -> y (N, *P, O); padding with zeros."""
    lie = Windows(stride, padding, dilation, groups)
    out = tuple(map(output_size, x.shape[1:-1], weight.shape[:-2], stride, padding, dilation))
    y = _correlate(b, x, weight, out, lie)
    _add_bias(b, y, bias)
    return y, (x, weight, lie)


def conv_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, ...]:
    """dy (N, *P, O) -> dx (N, *S, C), dweight = columnsᵀ dy, dbias = sum of dy.

    The columns are made again: keeping them would cost prod(K) times the memory of x, and writing fresh memory takes
    longer than copying within the cache.
    """
    x, weight, lie = saved
    dx = _spread(b, dy, weight, x.shape, lie) if slots[0].wanted else None
    dweight = _weight_gradient(b, x, weight.shape, dy, lie) if slots[1].wanted else None
    dbias = channel_sum(b, rows_of(dy), dy.shape[-1]) if slots[2].wanted else None
    return dx, dweight, dbias


def conv_transpose_forward(
    b: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Padding,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
) -> tuple[Array, Any]:
    """x (N, *P, C), weight (*K, O/G, C), bias (O,) or None -> y (N, *S, O): what a convolution's backward does to dy.

    The weight is that of the convolution from y to x. `output_padding` cells are put on behind, so that a stride that
    left cells over can be undone.
    """
    lie = Windows(stride, padding, dilation, groups)
    kernel = weight.shape[:-2]
    out = tuple(map(transposed_size, x.shape[1:-1], kernel, stride, padding, dilation, output_padding))
    y = _spread(b, x, weight, (x.shape[0], *out, weight.shape[-2] * groups), lie)
    _add_bias(b, y, bias)
    return y, (x, weight, lie)


def conv_transpose_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, ...]:
    """dy (N, *S, O) -> dx (N, *P, C), the convolution of dy; dweight = columns of dyᵀ x, dbias = sum of dy."""
    x, weight, lie = saved
    dx = _correlate(b, dy, weight, x.shape[1:-1], lie) if slots[0].wanted else None
    dweight = _weight_gradient(b, dy, weight.shape, x, lie) if slots[1].wanted else None
    dbias = channel_sum(b, rows_of(dy), dy.shape[-1]) if slots[2].wanted else None
    return dx, dweight, dbias


def _add_bias(b: Backend, y: Array, bias: Array | None) -> None:
    if bias is not None:
        rows = rows_of(y)
        rows += across(b, bias, rows)


def _correlate(b: Backend, x: Array, weight: Array, out: Sizes, lie: Windows) -> Array:
    """x (N, *S, C), weight (*K, C/G, O) -> y (N, *out, O), all windows times the weight."""
    y = b.xp.empty((x.shape[0], *out, weight.shape[-1]), x.dtype)
    factor = _by_group(weight, lie.groups)  # (G, prod(K)·C/G, O/G)
    for samples, columns in _columns(b, x, weight.shape[:-2], out, lie):
        b.matmul(columns, factor, out=_by_group(y[samples], lie.groups))
    return y


def _weight_gradient(b: Backend, x: Array, shape: Sizes, dy: Array, lie: Windows) -> Array:
    """x (N, *S, C), dy (N, *P, O) -> (*K, C/G, O)."""
    dweight = b.xp.zeros(shape, dy.dtype)
    total = _by_group(dweight, lie.groups)
    for samples, columns in _columns(b, x, shape[:-2], dy.shape[1:-1], lie):
        total += b.matmul(columns.transpose(0, 2, 1), _by_group(dy[samples], lie.groups))
    return dweight


def _spread(b: Backend, dy: Array, weight: Array, shape: Sizes, lie: Windows) -> Array:
    """dy (N, *P, O), weight (*K, C/G, O) -> (N, *S, C), the given shape: every value goes to its whole window."""
    stride, padding, dilation, groups = lie
    (*kernel, group_in, out_channels), (n, *size, channels), out = weight.shape, shape, dy.shape[1:-1]
    turned_padding = tuple(
        (d * (k - 1) - before, s - p + before)
        for s, p, k, d, (before, _) in zip(size, out, kernel, dilation, padding, strict=True)
    )
    if max(stride) == 1 and min(map(min, turned_padding)) >= 0:
        # The transpose of a convolution without stride is one itself, by the kernel turned around.
        turned = weight[(slice(None, None, -1),) * len(kernel)]
        turned = turned.reshape(*kernel, group_in, groups, out_channels // groups).swapaxes(-1, -3)
        turned = turned.reshape(*kernel, out_channels // groups, channels)
        return _correlate(b, dy, turned, tuple(size), Windows(stride, turned_padding, dilation, groups))

    dx = b.xp.empty(shape, dy.dtype)
    step = at_once(b, n, 2 * prod(out) * channels * dy.dtype.itemsize)
    padded, inner = _padded(b, step, size, groups, group_in, lie, dy.dtype)
    for samples in slices(n, step):
        dy_chunk = _by_group(dy[samples], groups)  # (G, n·prod(P), O/G)
        chunk = padded[: samples.stop - samples.start]
        chunk[...] = 0
        for cell in product(*map(range, kernel)):
            part = b.matmul(dy_chunk, _by_group(weight[cell], groups).transpose(0, 2, 1))
            part = b.xp.moveaxis(part.reshape(groups, -1, *out, group_in), 0, -2)
            chunk[cells_under(cell, out, stride, dilation)] += part
        dx[samples] = chunk[inner].reshape(-1, *size, channels)
    return dx


def _columns(b: Backend, x: Array, kernel: Sizes, out: Sizes, lie: Windows) -> Iterator[tuple[slice, Array]]:
    """Slices of the samples, each with its windows as (G, n·prod(P), prod(K)·C/G); their memory is used again."""
    stride, padding, dilation, groups = lie
    n, *size, channels = x.shape
    group_in = channels // groups
    if max(kernel) == max(stride) == 1 and tuple(size) == tuple(out) and not any(map(any, padding)):
        yield slice(0, n), _by_group(x, groups)
        return
    step = at_once(b, n, prod(out) * prod(kernel) * channels * x.dtype.itemsize)
    padded, inner = _padded(b, step, size, groups, group_in, lie, x.dtype)
    columns = b.xp.empty((groups, step, *out, *kernel, group_in), x.dtype)
    sample, *cells, group, channel = padded.strides
    moves = tuple(s * cell for s, cell in zip(stride, cells, strict=True))
    reaches = tuple(d * cell for d, cell in zip(dilation, cells, strict=True))
    # A view with the axes of the columns. (CuPy's sliding_window_view waits for the device to check its arguments.)
    windows = b.xp.lib.stride_tricks.as_strided(padded, columns.shape, (group, sample, *moves, *reaches, channel))
    for samples in slices(n, step):
        count = samples.stop - samples.start
        padded[:count][inner] = x[samples].reshape(count, *size, groups, group_in)
        columns[:, :count] = windows[:, :count]
        yield samples, columns[:, :count].reshape(groups, count * prod(out), prod(kernel) * group_in)


def _padded(
    b: Backend, n: int, size: list[int], groups: int, group_in: int, lie: Windows, dtype: Any
) -> tuple[Array, tuple[slice, ...]]:
    """Zeros (n, *S with padding, G, C/G), and the index of what is not padding."""
    sizes = (before + s + after for s, (before, after) in zip(size, lie.padding, strict=True))
    inner = (slice(before, before + s) for s, (before, _) in zip(size, lie.padding, strict=True))
    return b.xp.zeros((n, *sizes, groups, group_in), dtype), (slice(None), *inner)


def cells_under(cell: Sizes, out: Sizes, stride: Sizes, dilation: Sizes) -> tuple[slice, ...]:
    """The index into padded images (N, *S, ...) of one cell of the window, for all windows: (N, *P, ...)."""
    along = (slice(c * d, c * d + (p - 1) * s + 1, s) for c, p, s, d in zip(cell, out, stride, dilation, strict=True))
    return (slice(None), *along)


def _by_group(array: Array, groups: int) -> Array:
    """array (..., F) -> a view (G, product of ..., F/G): a batch of matrices that BLAS takes without a copy."""
    return array.reshape(-1, groups, array.shape[-1] // groups).transpose(1, 0, 2)


conv = Op(conv_forward, conv_backward)
conv_transpose = Op(conv_transpose_forward, conv_transpose_backward)
