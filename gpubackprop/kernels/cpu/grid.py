"""Grids of windows over padded images: what convolutions of every kind walk over.

Everything is brought to three axes, (N, D, H, W, C). A convolution is one grid; the gradient of its x is one for each
remainder of the position by the stride (by parity, where the stride is 2): a position of remainder r meets just the
kernel's cells of remainder r, as if in a convolution without stride.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import inline, serial
from gpubackprop.ops.conv import Sizes, Windows

CACHED = 1 << 17  # bytes of an image that a thread works on at a time: a part of its second-level cache
BEHIND = 32  # numbers: two vectors


class Axis(NamedTuple):
    """A grid of windows along one axis."""

    windows: int  #: how many
    first: int  #: where the first one's result goes
    step: int  #: from result to result
    stride: int  #: from window to window, over the padded image
    before: int  #: cells of padding in front
    starts: Sizes  #: of each cell of the window, from the window's start
    cells: Sizes  #: which cell of the kernel each is

    @property
    def reach(self) -> int:
        """How many cells of the padded image a window spans."""
        return max(self.starts, default=0) + 1

    @property
    def span(self) -> int:
        """How many cells of the padded image all windows span."""
        return (self.windows - 1) * self.stride + self.reach


def _windows_along(size: int, count: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> Axis:
    starts = tuple(k * dilation for k in range(kernel))
    return Axis(count, 0, 1, stride, padding[0], starts, tuple(range(kernel)))


def _spread_along(
    size: int, count: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int
) -> list[Axis]:
    """The grids over dy (`count` along the axis) that make dx (`size`), one for each remainder."""
    found = []
    for remainder in range(stride):
        first = (remainder - padding[0]) % stride
        q = (first + padding[0]) // stride  # position = stride q + remainder - padding, from dy's q - back[k]
        back = {k: k * dilation // stride for k in range(kernel) if k * dilation % stride == remainder}
        cells = tuple(sorted(back, key=back.__getitem__, reverse=True))
        before = max(0, max(back.values(), default=0) - q)
        starts = tuple(q - back[k] + before for k in cells)
        if first < size:
            found.append(Axis(-(-(size - first) // stride), first, stride, 1, before, starts, cells))
    return found


class Grid(NamedTuple):
    """A grid of windows over images, ready for the compiled loops. Positions and sizes along (D, H, W)."""

    windows: Sizes
    first: Sizes
    step: Sizes
    stride: Sizes
    before: Sizes
    planes: int  #: of the padded image that a block of windows sees
    rows: int
    width: int
    copied: bool  #: whether the images must be padded
    block: int  #: rows of windows that are worked on at a time
    offsets: Array  #: of each run of cells from its window's start, in numbers
    run: int  #: numbers of a run
    cells: Array  #: the kernel's cells in the order of the runs


def _grid(
    shape: Sizes, groups: int, itemsize: int, threads: int, axes: tuple[Axis, ...], deep: bool, always_copied: bool
) -> Grid:
    """`shape` (N, D, H, W, C): the images that the windows slide over."""
    n, *sizes, channels = shape
    copied = always_copied or any(axis.before or axis.span > size for axis, size in zip(axes, sizes, strict=True))
    far, high, wide = axes
    wanted = -(-2 * threads // max(1, n * far.windows))  # blocks of each image, so that all threads have some
    row = far.reach * (wide.span if copied else sizes[2]) * channels * itemsize
    cached = max(1, (CACHED // max(row, 1) - high.reach) // high.stride + 1)
    block = max(1, min(high.windows, cached, -(-high.windows // wanted)))
    rows = (block - 1) * high.stride + high.reach
    width = wide.span if copied else sizes[2]
    pitch = width * channels
    plane = pitch * (rows if copied else sizes[1])
    merged = (
        groups == 1 and not deep and len(wide.starts) > 1 and wide.starts == tuple(range(wide.starts[0], wide.reach))
    )
    along = wide.starts[:1] if merged else wide.starts
    offsets = [d * plane + h * pitch + w * channels for d, h, w in product(far.starts, high.starts, along)]
    return Grid(
        tuple(axis.windows for axis in axes),
        tuple(axis.first for axis in axes),
        tuple(axis.step for axis in axes),
        tuple(axis.stride for axis in axes),
        tuple(axis.before for axis in axes),
        far.reach,
        rows,
        width,
        copied,
        block,
        np.array(offsets, np.int64),
        channels // groups * (len(wide.starts) if merged else 1),
        np.array(list(product(*(axis.cells for axis in axes))), np.int64).reshape(-1, 3),
    )


@inline
def copy(source, out):  # same size
    """Out becomes source; both (I,)."""
    for j in range(out.size):
        out[j] = source[j]


@serial
def place(x, d0, h0, planes, rows, width, before, out):  # x (D, H, W, C), out: flat (planes, rows, width, C)
    """The part of the padded image that begins at plane d0, row h0."""
    size, channels = x.shape[2], x.shape[3]
    left = min(before[2], width)
    inner = max(0, min(size, width - left))
    for d in range(planes):
        for h in range(rows):
            row = out[(d * rows + h) * width * channels : (d * rows + h + 1) * width * channels]
            at, below = d0 + d - before[0], h0 + h - before[1]
            if 0 <= at < x.shape[0] and 0 <= below < x.shape[1]:
                zero(row[: left * channels])
                copy(
                    x[at, below].reshape(size * channels)[: inner * channels],
                    row[left * channels :][: inner * channels],
                )
                zero(row[(left + inner) * channels :])
            else:
                zero(row)


@inline
def zero(out):
    """Out (I,) becomes zero."""
    for j in range(out.size):
        out[j] = 0


def wide_of(x: Array) -> Array:
    """x (N, *S, C) with three axes in between."""
    n, *sizes, channels = x.shape
    return x.reshape(n, *(1,) * (3 - len(sizes)), *sizes, channels)


def _axes(shape: Sizes, out: Sizes, kernel: Sizes, lie: Windows) -> list[tuple[Any, ...]]:
    """(size, count, kernel, stride, padding, dilation) along D, H and W."""
    along = zip(shape[1:-1], out, kernel, lie.stride, lie.padding, lie.dilation, strict=True)
    return [*((1, 1, 1, 1, (0, 0), 1) for _ in range(3 - len(out))), *along]


@lru_cache(4096)
def forward_grid(
    shape: Sizes,
    out: Sizes,
    kernel: Sizes,
    lie: Windows,
    itemsize: int,
    threads: int,
    deep: bool = False,
    always_copied: bool = False,
) -> Grid:
    """The grid of `out` windows over x of the given shape.

    deep           every cell is a run of its own, for depthwise convolutions
    always_copied  through padded memory even where nothing is padded
    """
    axes = tuple(_windows_along(*each) for each in _axes(shape, out, kernel, lie))
    return _grid(_five(shape), lie.groups, itemsize, threads, axes, deep, always_copied)


@lru_cache(4096)
def spread_grids(
    dy_shape: Sizes,
    shape: Sizes,
    kernel: Sizes,
    lie: Windows,
    itemsize: int,
    threads: int,
    deep: bool = False,
    always_copied: bool = False,
) -> list[Grid]:
    """The grids over dy that make dx of the given shape."""
    each = [_spread_along(*along) for along in _axes(shape, dy_shape[1:-1], kernel, lie)]
    return [_grid(_five(dy_shape), lie.groups, itemsize, threads, axes, deep, always_copied) for axes in product(*each)]


def _five(shape: Sizes) -> Sizes:
    n, *sizes, channels = shape
    return (n, *(1,) * (3 - len(sizes)), *sizes, channels)


def flat_cells(grid: Grid, kernel: Sizes) -> Array:
    """The kernel's cells in the order of the grid's, as indices into the weight's flattened first axes."""
    _, high, wide = _five((0, *kernel, 0))[1:-1]
    return grid.cells @ np.array([high * wide, wide, 1])


def whole_vectors(channels: int, vector: int) -> int:
    """Channels filled up to whole vectors."""
    return -(-channels // vector) * vector


def geometry_of(grid: Grid) -> tuple[Any, ...]:
    """What the compiled loops take of a grid, but for its offsets."""
    shape = (grid.planes, grid.rows, grid.width)
    return grid.windows, grid.first, grid.step, grid.stride, grid.before, shape, grid.block


def room(b: CpuBackend, grid: Grid, channels: int, dtype: Any) -> Array:
    """Room for the padded part of an image, by thread; none where the images are good as they are.

    A vector may be read from its last number on.
    """
    size = grid.planes * grid.rows * grid.width * channels + BEHIND
    return b.empty((b.threads, size) if grid.copied else (0, 0), dtype)


def pointwise(n: int, kernel: Sizes, lie: Windows, threads: int) -> bool:
    """Whether every window is one pixel, so that rows do not matter."""
    return prod(kernel) * prod(lie.stride) == 1 and not any(map(any, lie.padding)) and n >= threads


def as_rows(x: Array) -> Array:
    """x (N, *S, C) as (N, pixels, C)."""
    return x.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1])


def row_windows(groups: int) -> Windows:
    """How windows lie over such rows."""
    return Windows((1,), ((0, 0),), (1,), groups)
