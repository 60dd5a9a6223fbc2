"""Direct convolution: tiles of windows times weights that stay in registers; no matrix of windows is ever written.

Letters as in ops/conv.py; grid.py says how the windows lie. A *panel* is what a tile takes of the weight: all cells of
the windows, one or two vectors of output channels.
"""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.grid import (
    CACHED,
    Grid,
    as_rows,
    copy,
    flat_cells,
    forward_grid,
    geometry_of,
    place,
    pointwise,
    room,
    row_windows,
    spread_grids,
    whole_vectors,
    wide_of,
    zero,
)
from gpubackprop.kernels.cpu.jit import inline, parallel, prange
from gpubackprop.kernels.cpu.sums import add
from gpubackprop.kernels.cpu.tile import ROWS, fitting, lanes, products_tile, windows_tile
from gpubackprop.ops.conv import Sizes, Windows, output_size

FLOP = 0.02  # nanoseconds that a multiply-add takes one thread, about


@inline
def _row_of_windows(
    a, base, ar, panels, panel, starts, start, offsets, run, count, vectors, wide, y, y0, yr, kept, edge
):
    """One row of `count` windows times a panel; `kept` of its channels are written, yr numbers from pixel to pixel."""
    whole = kept == wide
    c, c0, cr = (y, y0, yr) if whole else (edge, 0, wide)
    w = 0
    while w < count:
        rows = fitting(count - w)
        from_ = base + w * ar
        windows_tile(rows, vectors, c, c0, cr, a, from_, ar, panels, panel, starts, start, offsets, offsets.size, run)
        if whole:
            c0 += rows * yr
        else:
            for r in range(rows):
                for v in range(kept):
                    y[y0 + (w + r) * yr + v] = edge[r * wide + v]
        w += rows


@parallel
def _correlate(x, panels, start, y, groups, vector, geometry, offsets, run, padded, edges, threads):
    """x (N, D, H, W, C), panels (G, columns · window), start (G, columns), y (N, D, H, W, O)."""
    count, first, step, stride, before, shape, block = geometry
    planes, rows, width = shape
    n, channels, outputs = x.shape[0], x.shape[4], y.shape[4]
    group_in, group_out, window = channels // groups, outputs // groups, offsets.size * run
    blocks = -(-count[1] // block)
    units = n * count[0] * blocks
    share = -(-units // threads)
    flat, out = x.reshape(x.size), y.reshape(y.size)
    weights, starts = panels.reshape(panels.size), start.reshape(start.size)
    several = max(1, CACHED // (8 * window * vector)) * 2 * vector  # channels whose panels stay in the cache
    for t in prange(threads):
        for unit in range(t * share, min(units, (t + 1) * share)):
            image, rest = unit // (count[0] * blocks), unit % (count[0] * blocks)
            d, h0 = rest // blocks, rest % blocks * block
            many = min(block, count[1] - h0)
            if padded.size:
                place(x[image], d * stride[0], h0 * stride[1], planes, rows, width, before, padded[t])
                a, base, pitch = padded[t], 0, width * channels
            else:
                a, pitch = flat, x.shape[3] * channels
                base = ((image * x.shape[1] + d * stride[0]) * x.shape[2] + h0 * stride[1]) * pitch
            for g in range(groups):
                for left in range(0, group_out, several):
                    for h in range(many):
                        row = (image * y.shape[1] + first[0] + d * step[0]) * y.shape[2] + first[1] + (h0 + h) * step[1]
                        for low in range(left, min(left + several, group_out), 2 * vector):
                            vectors = 2 if low + vector < group_out else 1
                            _row_of_windows(
                                a,
                                base + h * stride[1] * pitch + g * group_in,
                                stride[2] * channels,
                                weights,
                                g * panels.shape[1] + low * window,
                                starts,
                                g * start.shape[1] + low,
                                offsets,
                                run,
                                count[2],
                                vectors,
                                vectors * vector,
                                out,
                                (row * y.shape[3] + first[2]) * outputs + g * group_out + low,
                                step[2] * outputs,
                                min(vectors * vector, group_out - low),
                                edges[t],
                            )


@parallel
def _pack(weight, bias, cells, turned, group_in, group_out, vector, panels, start, threads):
    """weight (K, I, J) -> panels (G, columns · window), start (G, columns): the bias, or zeros.

    Forward I is C/G and J is O; `turned`, for the gradient of x, the windows lie over O and the columns are C.
    """
    groups, columns = start.shape
    share = -(-columns // (2 * vector * threads)) * 2 * vector
    for t in prange(threads):
        for g in range(groups):
            for low in range(t * share, min(columns, (t + 1) * share), 2 * vector):
                wide = min(2 * vector, columns - low)
                kept = min(wide, group_out - low)
                for v in range(wide):
                    start[g, low + v] = bias[g * group_out + low + v] if bias.size and v < kept else 0
                at = low * cells.size * group_in
                for k in range(cells.size):
                    for i in range(group_in):
                        out = panels[g, at : at + wide]
                        if turned:
                            for v in range(kept):
                                out[v] = weight[cells[k], low + v, g * group_in + i]
                        else:
                            copy(weight[cells[k], i, g * group_out + low : g * group_out + low + kept], out[:kept])
                        zero(out[kept:])
                        at += wide


@parallel
def _products(x, dy, part, groups, vector, geometry, offsets, run, padded, copies, threads):
    """x (N, D, H, W, C), dy (N, D, H, W, O) -> part (chunks, G, window · columns), dweight by chunk."""
    count, _, _, stride, before, shape, block = geometry
    planes, rows, width = shape
    n, channels, outputs = x.shape[0], x.shape[4], dy.shape[4]
    group_in, group_out = channels // groups, outputs // groups
    columns = part.shape[2] // (offsets.size * run)
    blocks = -(-count[1] // block)
    units = n * count[0] * blocks
    share = -(-units // part.shape[0])
    flat_x, flat_dy = x.reshape(x.size), dy.reshape(dy.size)
    for t in prange(part.shape[0]):
        for g in range(groups):
            zero(part[t, g])
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
            right, right0 = flat_dy, ((image * count[0] + d) * count[1] + h0) * count[2] * outputs
            if copies.size:  # a vector at the end of dy would reach beyond it
                copy(right[right0 : right0 + many * count[2] * outputs], copies[t])
                right, right0 = copies[t], 0
            for g in range(groups):
                for s in range(offsets.size):
                    i = 0
                    while i < run:
                        tall = fitting(run - i)
                        for low in range(0, group_out, 2 * vector):
                            products_tile(
                                tall,
                                2 if low + vector < group_out else 1,
                                part[t, g],
                                (s * run + i) * columns + low,
                                columns,
                                a,
                                base + offsets[s] + g * group_in + i,
                                1,
                                stride[2] * channels,
                                stride[1] * pitch,
                                right,
                                right0 + g * group_out + low,
                                outputs,
                                count[2] * outputs,
                                many,
                                count[2],
                            )
                        i += tall


@parallel
def _gather(part, dweight, columns, threads):  # (chunks, G, window · columns), (window, O)
    window, groups = dweight.shape[0], part.shape[1]
    group_out = dweight.shape[1] // groups
    share = -(-window // threads)
    for t in prange(threads):
        for k in range(t * share, min(window, (t + 1) * share)):
            for g in range(groups):
                out = dweight[k, g * group_out : (g + 1) * group_out]
                copy(part[0, g, k * columns : k * columns + group_out], out)
                for i in range(1, part.shape[0]):
                    add(part[i, g, k * columns : k * columns + group_out], out)


def _run(
    b: CpuBackend, grid: Grid, x: Array, weight: Array, turned: bool, bias: Array | None, y: Array, groups: int
) -> None:
    """Pack the weight (*K, C/G, O) for the cells of a grid, and multiply its windows over x (N, D, H, W, C)."""
    vector = lanes(x.dtype.itemsize)
    kernel = weight.shape[:-2]
    flat = flat_cells(grid, kernel)
    group_in, group_out = x.shape[-1] // groups, y.shape[-1] // groups
    columns = whole_vectors(group_out, vector)
    panels = b.empty((groups, columns * len(flat) * group_in), x.dtype)
    start = b.empty((groups, columns), x.dtype)
    bias = b.empty((0,), x.dtype) if bias is None else bias
    cells = weight.reshape(prod(kernel), *weight.shape[-2:])
    b.launch(_pack, cells, bias, flat, turned, group_in, group_out, vector, panels, start, cost=0.5 * panels.size)
    padded = room(b, grid, x.shape[-1], x.dtype)
    edges = b.empty((b.threads, 2 * vector * ROWS[0]), x.dtype)
    cost = FLOP * x.shape[0] * prod(grid.windows) * groups * columns * len(flat) * group_in
    b.launch(
        _correlate,
        x,
        panels,
        start,
        y,
        groups,
        vector,
        geometry_of(grid),
        grid.offsets,
        grid.run,
        padded,
        edges,
        cost=cost,
    )


def correlate(b: CpuBackend, x: Array, weight: Array, bias: Array | None, out: Sizes, lie: Windows) -> Array:
    """x (N, *S, C), weight (*K, C/G, O) -> y (N, *out, O): all windows times the weight, plus the bias."""
    y = b.empty((x.shape[0], *out, weight.shape[-1]), x.dtype)
    grid = forward_grid(x.shape, tuple(out), weight.shape[:-2], lie, x.dtype.itemsize, b.threads)
    _run(b, grid, wide_of(x), weight, False, bias, wide_of(y), lie.groups)
    return y


def spread(b: CpuBackend, dy: Array, weight: Array, bias: Array | None, shape: Sizes, lie: Windows) -> Array:
    """dy (N, *P, O), weight (*K, C/G, O) -> (N, *S, C), the given shape: every value goes to its whole window."""
    dx = b.empty(shape, dy.dtype)
    for grid in spread_grids(dy.shape, tuple(shape), weight.shape[:-2], lie, dy.dtype.itemsize, b.threads):
        _run(b, grid, wide_of(dy), weight, True, bias, wide_of(dx), lie.groups)
    return dx


def fits(x_shape: Sizes, weight_shape: Sizes, lie: Windows, dtype: Any) -> bool:
    """Always."""
    return True


def forward(b: CpuBackend, x: Array, weight: Array, bias: Array | None, lie: Windows) -> Array:
    """x (N, *S, C), weight (*K, C/G, O), bias (O,) or None -> y (N, *P, O)."""
    if pointwise(x.shape[0], weight.shape[:-2], lie, b.threads):
        rows, one = as_rows(x), weight.reshape(1, *weight.shape[-2:])
        y = correlate(b, rows, one, bias, rows.shape[1:2], row_windows(lie.groups))
        return y.reshape(*x.shape[:-1], weight.shape[-1])
    along = zip(x.shape[1:-1], weight.shape[:-2], lie.stride, lie.padding, lie.dilation, strict=True)
    return correlate(b, x, weight, bias, tuple(output_size(*each) for each in along), lie)


def backward_data(b: CpuBackend, dy: Array, weight: Array, x_shape: Sizes, lie: Windows) -> Array:
    """dy (N, *P, O) -> dx (N, *S, C)."""
    if pointwise(dy.shape[0], weight.shape[:-2], lie, b.threads):
        rows, one = as_rows(dy), weight.reshape(1, *weight.shape[-2:])
        return spread(b, rows, one, None, (*rows.shape[:2], x_shape[-1]), row_windows(lie.groups)).reshape(x_shape)
    return spread(b, dy, weight, None, x_shape, lie)


def backward_weights(b: CpuBackend, x: Array, dy: Array, weight_shape: Sizes, lie: Windows, out: Array) -> None:
    """x (N, *S, C), dy (N, *P, O); writes the gradient of the weight (*K, C/G, O) into out."""
    if pointwise(x.shape[0], weight_shape[:-2], lie, b.threads) and x.shape[:-1] == dy.shape[:-1]:
        x, dy, weight_shape, lie = as_rows(x), as_rows(dy), (1, *weight_shape[-2:]), row_windows(lie.groups)
    vector, groups, outputs = lanes(x.dtype.itemsize), lie.groups, dy.shape[-1]
    grid = forward_grid(x.shape, dy.shape[1:-1], weight_shape[:-2], lie, x.dtype.itemsize, b.threads)
    columns = whole_vectors(outputs // groups, vector)
    window = prod(weight_shape[:-1])
    part = b.empty((b.threads, groups, window * columns), x.dtype)
    padded = room(b, grid, x.shape[-1], x.dtype)
    block = grid.block * grid.windows[2] * outputs + 2 * vector
    copies = b.empty((b.threads, block) if outputs // groups % vector else (0, 0), x.dtype)
    cost = FLOP * dy.size * window
    arrays = wide_of(x), wide_of(dy), part
    b.launch(_products, *arrays, groups, vector, geometry_of(grid), grid.offsets, grid.run, padded, copies, cost=cost)
    b.launch(_gather, part, out.reshape(window, outputs), columns, cost=part.size * 0.1)
