"""Depthwise convolution: as the direct one, but vectors run over the channels of both factors.

Letters as in ops/depthwise.py. With M kernels per channel each m is a convolution by itself, on every M-th channel.
"""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.grid import (
    BEHIND,
    Grid,
    copy,
    flat_cells,
    forward_grid,
    geometry_of,
    place,
    room,
    spread_grids,
    whole_vectors,
    wide_of,
    zero,
)
from gpubackprop.kernels.cpu.jit import parallel, prange, single
from gpubackprop.kernels.cpu.kernel import kernel
from gpubackprop.kernels.cpu.sums import column_sums
from gpubackprop.kernels.cpu.tile import ROWS, deep_products_tile, deep_windows_tile, fitting, lanes
from gpubackprop.ops.conv import Padding, Sizes, Windows, output_size
from gpubackprop.ops.depthwise import depthwise_conv
from gpubackprop.tape import Slots

FLOP = 0.03  # nanoseconds that a multiply-add takes one thread, about
MOVE = 0.5  # that a number takes to be moved


@parallel
def _windows(x, weights, start, y, vector, geometry, offsets, padded, edges, threads):
    """x (N, D, H, W, C), weights (cells, columns), start (columns,), y (N, D, H, W, C)."""
    count, first, step, stride, before, shape, block = geometry
    planes, rows, width = shape
    channels, columns = x.shape[4], weights.shape[1]
    blocks = -(-count[1] // block)
    units = x.shape[0] * count[0] * blocks
    share = -(-units // threads)
    flat, out, factors = x.reshape(x.size), y.reshape(y.size), weights.reshape(weights.size)
    for t in prange(threads):
        for unit in range(t * share, min(units, (t + 1) * share)):
            image, rest = unit // (count[0] * blocks), unit % (count[0] * blocks)
            d, h0 = rest // blocks, rest % blocks * block
            if padded.size:
                place(x[image], d * stride[0], h0 * stride[1], planes, rows, width, before, padded[t])
                a, base, pitch = padded[t], 0, width * channels
            else:
                a, pitch = flat, x.shape[3] * channels
                base = ((image * x.shape[1] + d * stride[0]) * x.shape[2] + h0 * stride[1]) * pitch
            for h in range(min(block, count[1] - h0)):
                row = (image * y.shape[1] + first[0] + d * step[0]) * y.shape[2] + first[1] + (h0 + h) * step[1]
                y0 = (row * y.shape[3] + first[2]) * channels
                for low in range(0, channels, 2 * vector):
                    vectors = 2 if low + vector < channels else 1
                    kept = min(vectors * vector, channels - low)
                    whole = kept == vectors * vector
                    w = 0
                    while w < count[2]:
                        tall = fitting(count[2] - w)
                        at = y0 + w * step[2] * channels + low
                        deep_windows_tile(
                            tall,
                            vectors,
                            out if whole else edges[t],
                            at if whole else 0,
                            step[2] * channels if whole else 2 * vector,
                            a,
                            base + h * stride[1] * pitch + w * stride[2] * channels + low,
                            stride[2] * channels,
                            factors,
                            low,
                            columns,
                            start,
                            low,
                            offsets,
                            offsets.size,
                        )
                        if not whole:
                            for r in range(tall):
                                for v in range(kept):
                                    out[at + r * step[2] * channels + v] = edges[t, 2 * r * vector + v]
                        w += tall


@parallel
def _products(x, dy, part, kernel_width, vector, geometry, offsets, padded, copies, threads):
    """x (N, D, H, W, C), dy (N, D, H, W, C) -> part (chunks, cells, columns), dweight by chunk."""
    count, _, _, stride, before, shape, block = geometry
    planes, rows, width = shape
    channels, columns = x.shape[4], part.shape[2]
    blocks = -(-count[1] // block)
    units = x.shape[0] * count[0] * blocks
    share = -(-units // part.shape[0])
    flat_x, flat_dy = x.reshape(x.size), dy.reshape(dy.size)
    between = offsets[1] - offsets[0] if kernel_width > 1 else 0
    for t in prange(part.shape[0]):
        total = part[t].reshape(part[t].size)
        zero(total)
        for unit in range(t * share, min(units, (t + 1) * share)):
            image, rest = unit // (count[0] * blocks), unit % (count[0] * blocks)
            d, h0 = rest // blocks, rest % blocks * block
            many = min(block, count[1] - h0)
            if padded.size:
                place(x[image], d * stride[0], h0 * stride[1], planes, rows, width, before, padded[t])
                a, base, pitch = padded[t], 0, width * channels
            else:
                a, pitch = flat_x, x.shape[3] * channels
                base = ((image * x.shape[1] + d * stride[0]) * x.shape[2] + h0 * stride[1]) * pitch
            right, right0 = flat_dy, ((image * count[0] + d) * count[1] + h0) * count[2] * channels
            if copies.size:  # a vector at the end of dy would reach beyond it
                copy(right[right0 : right0 + many * count[2] * channels], copies[t])
                right, right0 = copies[t], 0
            for low in range(0, channels, 2 * vector):
                for s in range(0, offsets.size, kernel_width):
                    i = s
                    while i < s + kernel_width:
                        tall = fitting(s + kernel_width - i)
                        deep_products_tile(
                            tall,
                            2 if low + vector < channels else 1,
                            total,
                            i * columns + low,
                            columns,
                            a,
                            base + offsets[i] + low,
                            between,
                            stride[2] * channels,
                            stride[1] * pitch,
                            right,
                            right0 + low,
                            channels,
                            count[2] * channels,
                            many,
                            count[2],
                        )
                        i += tall


@single
def _pack(weight, bias, cells, m, multiplier, weights, start):
    """weight (K, O), bias (O,) or (0,) -> weights (cells, columns), start (columns,): those of every channel's m-th."""
    channels = weight.shape[1] // multiplier
    for c in range(start.size):
        start[c] = bias[c * multiplier + m] if bias.size and c < channels else 0
    for k in range(cells.size):
        for c in range(start.size):
            weights[k, c] = weight[cells[k], c * multiplier + m] if c < channels else 0


@single
def _gather(part, dweight, m, multiplier):
    """part (chunks, K, columns) -> dweight (K, O), the m-th of every channel."""
    for k in range(dweight.shape[0]):
        for c in range(dweight.shape[1] // multiplier):
            total = part[0, k, c]
            for i in range(1, part.shape[0]):
                total += part[i, k, c]
            dweight[k, c * multiplier + m] = total


@parallel
def _move(source, first, step, out, out_first, out_step, count, add, threads):
    """Every step-th number of `source` to every out_step-th of `out`, both flat; `add`: on top of what is there."""
    share = -(-count // threads)
    for t in prange(threads):
        for i in range(t * share, min(count, (t + 1) * share)):
            value = source[first + i * step]
            out[out_first + i * out_step] = out[out_first + i * out_step] + value if add else value


def _flat(x: Array) -> Array:
    return x.reshape(x.size)


def _mth(b: CpuBackend, x: Array, m: int, multiplier: int) -> Array:
    """The m-th of every channel of x (N, *S, C·M): (N, *S, C)."""
    if multiplier == 1:
        return x
    found = b.empty((*x.shape[:-1], x.shape[-1] // multiplier), x.dtype)
    b.launch(_move, _flat(x), m, multiplier, _flat(found), 0, 1, found.size, False, cost=MOVE * found.size)
    return found


def _run(
    b: CpuBackend, grid: Grid, x: Array, weight: Array, bias: Array | None, m: int, multiplier: int, y: Array
) -> None:
    """The windows of a grid over x (N, *S, C), times the m-th kernel of every channel."""
    channels, vector = x.shape[-1], lanes(x.dtype.itemsize)
    columns = whole_vectors(channels, vector)
    cells = flat_cells(grid, weight.shape[:-2])
    weights, start = b.empty((len(cells), columns), x.dtype), b.empty((columns,), x.dtype)
    kernels = weight.reshape(prod(weight.shape[:-2]), weight.shape[-1])
    bias = b.empty((0,), x.dtype) if bias is None else bias
    b.launch(_pack, kernels, bias, cells, m, multiplier, weights, start)
    padded, edges = room(b, grid, channels, x.dtype), b.empty((b.threads, 2 * vector * ROWS[0]), x.dtype)
    cost = FLOP * x.shape[0] * prod(grid.windows) * columns * max(1, len(cells))
    geometry = geometry_of(grid)
    arrays = wide_of(x), weights, start, wide_of(y)
    b.launch(_windows, *arrays, vector, geometry, grid.offsets, padded, edges, cost=cost)


def depthwise_conv_forward(
    b: CpuBackend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
) -> tuple[Array, Any]:
    """As ops/depthwise.py."""
    channels, multiplier = x.shape[-1], weight.shape[-1] // x.shape[-1]
    lie = Windows(stride, padding, dilation, channels)
    out = tuple(map(output_size, x.shape[1:-1], weight.shape[:-2], stride, padding, dilation))
    y = b.empty((x.shape[0], *out, weight.shape[-1]), x.dtype)
    grid = forward_grid(x.shape, out, weight.shape[:-2], lie, x.dtype.itemsize, b.threads, True, _ragged(x))
    for m in range(multiplier):
        part = y if multiplier == 1 else b.empty((x.shape[0], *out, channels), x.dtype)
        _run(b, grid, x, weight, bias, m, multiplier, part)
        if multiplier > 1:
            b.launch(_move, _flat(part), 0, 1, _flat(y), m, multiplier, part.size, False, cost=MOVE * part.size)
    return y, (x, weight, lie)


def depthwise_conv_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/depthwise.py."""
    x, weight, lie = saved
    multiplier = weight.shape[-1] // x.shape[-1]
    dx = b.empty(x.shape, dy.dtype) if slots[0].wanted else None
    dweight = b.out(slots[1], weight) if slots[1].wanted else None
    for m in range(multiplier):
        part = _mth(b, dy, m, multiplier)
        if dx is not None:
            _input_gradient(b, part, weight, m, multiplier, dx, lie)
        if dweight is not None:
            _weight_gradient(b, x, part, m, multiplier, dweight, lie)
    dbias = None
    if slots[2].wanted:
        dbias = slots[2].out if slots[2].out is not None else b.empty(dy.shape[-1:], dy.dtype)
        column_sums(b, dy.reshape(prod(dy.shape[:-1]), dy.shape[-1]), dbias)
    return dx, dweight, dbias


def _ragged(x: Array) -> bool:
    """Whether the last vector of a pixel reaches beyond it, so that the last of an array would beyond its memory."""
    return bool(x.shape[-1] % lanes(x.dtype.itemsize))


def _input_gradient(b: CpuBackend, dy: Array, weight: Array, m: int, multiplier: int, dx: Array, lie: Windows) -> None:
    """dx from the m-th of every channel of dy; on top of what is there but for m = 0."""
    size = dy.dtype.itemsize
    part = dx if m == 0 else b.empty(dx.shape, dx.dtype)
    for grid in spread_grids(dy.shape, dx.shape, weight.shape[:-2], lie, size, b.threads, True, _ragged(dy)):
        _run(b, grid, dy, weight, None, m, multiplier, part)
    if m:
        b.launch(_move, _flat(part), 0, 1, _flat(dx), 0, 1, dx.size, True, cost=MOVE * dx.size)


def _weight_gradient(b: CpuBackend, x: Array, dy: Array, m: int, multiplier: int, dweight: Array, lie: Windows) -> None:
    """dweight of the m-th kernel of every channel."""
    sizes, channels, vector = dweight.shape[:-2], x.shape[-1], lanes(x.dtype.itemsize)
    grid = forward_grid(x.shape, dy.shape[1:-1], sizes, lie, x.dtype.itemsize, b.threads, True, _ragged(x))
    part = b.empty((b.threads, prod(sizes), whole_vectors(channels, vector)), x.dtype)
    block = grid.block * grid.windows[2] * channels + BEHIND
    copies = b.empty((b.threads, block) if _ragged(x) else (0, 0), x.dtype)
    padded = room(b, grid, channels, x.dtype)
    arrays = wide_of(x), wide_of(dy), part, sizes[-1], vector, geometry_of(grid), grid.offsets, padded, copies
    b.launch(_products, *arrays, cost=FLOP * dy.size * prod(sizes))
    b.launch(_gather, part, dweight.reshape(prod(sizes), dweight.shape[-1]), m, multiplier)


kernel(depthwise_conv, depthwise_conv_forward, depthwise_conv_backward)
