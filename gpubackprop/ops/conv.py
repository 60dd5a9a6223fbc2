"""Convolution of images: im2col and one GEMM, a few samples at a time so that the columns stay in the cache.

Letters: N batch, H W height and width of x, P Q of y, C input channels, O output channels, G groups, KH KW kernel;
K = KH·KW·C/G, the length of a column. The weight lies as (KH, KW, C/G, O), so that it is the GEMM's right factor as it
is, and its transpose is what backward needs; PyTorch's (O, C/G, KH, KW) is a transposition at the state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.channels import across, channel_sum, rows_of
from gpubackprop.ops.slices import at_once, slices
from gpubackprop.tape import Op, Slots

Pair: TypeAlias = tuple[int, int]  #: (along H, along W)
Padding: TypeAlias = tuple[Pair, Pair]  #: ((top, bottom), (left, right))


class Windows(NamedTuple):
    """How windows lie over an image."""

    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int


def output_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int = 1) -> int:
    """How many windows of `kernel` cells fit along an axis; zero or less where none does."""
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


def conv2d_forward(
    b: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Array, Any]:
    """x (N, H, W, C), weight (KH, KW, C/G, O), bias (O,) or None -> y (N, P, Q, O); padding with zeros."""
    lie = Windows(stride, padding, dilation, groups)
    y = _correlate(b, x, weight, lie)
    if bias is not None:
        rows = rows_of(y)
        rows += across(b, bias, rows)
    return y, (x, weight, lie)


def conv2d_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, ...]:
    """dy (N, P, Q, O) -> dx (N, H, W, C), dweight = columnsᵀ dy, dbias = sum of dy.

    The columns are made again: keeping them would cost K/C times the memory of x, and writing fresh memory takes longer
    than copying within the cache.
    """
    x, weight, lie = saved
    dx = _input_gradient(b, x.shape, weight, dy, lie) if slots[0].wanted else None
    dweight = _weight_gradient(b, x, weight.shape, dy, lie) if slots[1].wanted else None
    dbias = channel_sum(b, rows_of(dy), dy.shape[-1]) if slots[2].wanted else None
    return dx, dweight, dbias


def _correlate(b: Backend, x: Array, weight: Array, lie: Windows) -> Array:
    """x (N, H, W, C), weight (KH, KW, C/G, O) -> y (N, P, Q, O), all windows times the weight."""
    kh, kw, _, out_channels = weight.shape
    height = output_size(x.shape[1], kh, lie.stride[0], lie.padding[0], lie.dilation[0])
    width = output_size(x.shape[2], kw, lie.stride[1], lie.padding[1], lie.dilation[1])
    y = b.xp.empty((x.shape[0], height, width, out_channels), x.dtype)
    factor = _by_group(weight, lie.groups)  # (G, K, O/G)
    for samples, columns in _columns(b, x, (kh, kw), (height, width), lie):
        b.matmul(columns, factor, out=_by_group(y[samples], lie.groups))
    return y


def _weight_gradient(b: Backend, x: Array, shape: tuple[int, ...], dy: Array, lie: Windows) -> Array:
    """x (N, H, W, C), dy (N, P, Q, O) -> (KH, KW, C/G, O)."""
    dweight = b.xp.zeros(shape, dy.dtype)
    total = _by_group(dweight, lie.groups)
    for samples, columns in _columns(b, x, (shape[0], shape[1]), dy.shape[1:3], lie):
        total += b.matmul(columns.transpose(0, 2, 1), _by_group(dy[samples], lie.groups))
    return dweight


def _input_gradient(b: Backend, shape: tuple[int, ...], weight: Array, dy: Array, lie: Windows) -> Array:
    """weight (KH, KW, C/G, O), dy (N, P, Q, O) -> (N, H, W, C)."""
    stride, ((top, bottom), (left, right)), dilation, groups = lie
    kh, kw, group_in, out_channels = weight.shape
    n, height, width, channels = shape
    down, across = dilation[0] * (kh - 1), dilation[1] * (kw - 1)
    if stride == (1, 1) and max(top, bottom) <= down and max(left, right) <= across:
        # The transpose of a convolution without stride is one itself, by the kernel turned around.
        turned = weight[::-1, ::-1].reshape(kh, kw, group_in, groups, out_channels // groups).transpose(0, 1, 4, 3, 2)
        turned = turned.reshape(kh, kw, out_channels // groups, channels)
        back = ((down - top, down - bottom), (across - left, across - right))
        return _correlate(b, dy, turned, Windows(stride, back, dilation, groups))

    p, q = dy.shape[1:3]
    dx = b.xp.empty(shape, dy.dtype)
    step = at_once(b, n, 2 * p * q * channels * dy.dtype.itemsize)
    padded = b.xp.empty((step, top + height + bottom, left + width + right, groups, group_in), dy.dtype)
    for samples in slices(n, step):
        dy_chunk = _by_group(dy[samples], groups)  # (G, n·P·Q, O/G)
        chunk = padded[: samples.stop - samples.start]
        chunk[...] = 0
        for i in range(kh):
            for j in range(kw):
                part = b.matmul(dy_chunk, _by_group(weight[i, j], groups).transpose(0, 2, 1))
                rows = slice(i * dilation[0], i * dilation[0] + (p - 1) * stride[0] + 1, stride[0])
                columns = slice(j * dilation[1], j * dilation[1] + (q - 1) * stride[1] + 1, stride[1])
                chunk[:, rows, columns] += part.reshape(groups, -1, p, q, group_in).transpose(1, 2, 3, 0, 4)
        dx[samples] = chunk[:, top : top + height, left : left + width].reshape(-1, height, width, channels)
    return dx


def _columns(b: Backend, x: Array, kernel: Pair, out: Pair, lie: Windows) -> Iterator[tuple[slice, Array]]:
    """Slices of the samples, each with its windows as (G, n·P·Q, K). The memory is used again for the next slice."""
    stride, padding, dilation, groups = lie
    n, height, width, channels = x.shape
    (kh, kw), (p, q), group_in = kernel, out, channels // groups
    if kernel == stride == (1, 1) and not any(padding[0] + padding[1]):
        yield slice(0, n), _by_group(x, groups)
        return
    step = at_once(b, n, p * q * kh * kw * channels * x.dtype.itemsize)
    (top, bottom), (left, right) = padding
    padded = b.xp.zeros((step, top + height + bottom, left + width + right, groups, group_in), x.dtype)
    columns = b.xp.empty((groups, step, p, q, kh, kw, group_in), x.dtype)
    sample, row, column, group, channel = padded.strides
    # A view with the axes of the columns. (CuPy's sliding_window_view waits for the device to check its arguments.)
    windows = b.xp.lib.stride_tricks.as_strided(
        padded,
        columns.shape,
        (group, sample, stride[0] * row, stride[1] * column, dilation[0] * row, dilation[1] * column, channel),
    )
    for samples in slices(n, step):
        count = samples.stop - samples.start
        chunk = padded[:count, top : top + height, left : left + width]
        chunk[...] = x[samples].reshape(count, height, width, groups, group_in)
        columns[:, :count] = windows[:, :count]
        yield samples, columns[:, :count].reshape(groups, count * p * q, kh * kw * group_in)


def _by_group(array: Array, groups: int) -> Array:
    """array (..., F) -> a view (G, product of ..., F/G): a batch of matrices that BLAS takes without a copy."""
    return array.reshape(-1, groups, array.shape[-1] // groups).transpose(1, 0, 2)


conv2d = Op(conv2d_forward, conv2d_backward)
