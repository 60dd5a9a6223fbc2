"""Adaptive pooling over any number of axes: as many bins as are asked for, of sizes that fit.

Letters as in ops/pool.py; bin i of an axis holds the cells ⌊i S / P⌋ to ⌈(i + 1) S / P⌉, so neighbours may share one.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.axes import along_axes
from gpubackprop.ops.conv import Sizes
from gpubackprop.tape import Op, Slots


def adaptive_avg_pool_forward(b: Backend, x: Array, *, output_size: Sizes) -> tuple[Array, Any]:
    """x (N, *S, C) -> y (N, *P, C), the mean of each bin. It is linear along each axis, hence small matrix products."""
    matrices = [_bins(b, size, bins, x.dtype) for size, bins in zip(x.shape[1:-1], output_size, strict=True)]
    return along_axes(b, matrices, x), matrices


def adaptive_avg_pool_backward(b: Backend, matrices: list[Array], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, *P, C) -> dx (N, *S, C), by the transposed matrices."""
    return (along_axes(b, [matrix.T for matrix in matrices], dy),)


def adaptive_max_pool_forward(b: Backend, x: Array, *, output_size: Sizes) -> tuple[Array, Any]:
    """x (N, *S, C) -> y (N, *P, C), the largest value of each bin."""
    cells = _bin_cells(b, x.shape[1:-1], output_size)
    y, *others = (_taken(x, cell) for cell in cells)
    for values in others:
        b.xp.maximum(y, values, out=y)
    return y, (x, y, cells)


def adaptive_max_pool_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, *P, C) -> dx (N, *S, C): all of it to the first of the bin's largest values; bins may share cells."""
    x, y, cells = saved
    dx = b.xp.zeros(x.shape, dy.dtype)
    searching = b.xp.ones(y.shape, bool)
    for cell in cells:
        found = _taken(x, cell) == y
        found &= searching
        searching ^= found
        spread = [
            (b.xp.arange(size)[:, None] == index).astype(dy.dtype)  # (S_i, P_i)
            for size, index in zip(x.shape[1:-1], cell, strict=True)
        ]
        dx += along_axes(b, spread, dy * found)
    return (dx,)


def _bins(b: Backend, size: int, bins: int, dtype: Any) -> Array:
    """(bins, size): row i holds 1 / its length over the cells of bin i, zero elsewhere."""
    start, stop = (edge[:, None] for edge in _edges(b, size, bins))
    cell = b.xp.arange(size)
    return (((cell >= start) & (cell < stop)) / (stop - start)).astype(dtype)


def _edges(b: Backend, size: int, bins: int) -> tuple[Array, Array]:
    """(bins,) each: the first cell of every bin, and the one behind its last."""
    i = b.xp.arange(bins)
    return i * size // bins, ((i + 1) * size + bins - 1) // bins


def _bin_cells(b: Backend, sizes: Sizes, output_size: Sizes) -> list[tuple[Array, ...]]:
    """For each cell that a bin may have its indices (P_i,) by axis; smaller bins see their last cells again."""
    by_axis = []
    for size, bins in zip(sizes, output_size, strict=True):
        start, stop = _edges(b, size, bins)
        by_axis.append([b.xp.minimum(start + k, stop - 1) for k in range(-(-size // bins) + bool(size % bins))])
    return list(product(*by_axis))


def _taken(x: Array, indices: tuple[Array, ...]) -> Array:
    """x (N, *S, C), indices (P_i,) by axis -> (N, *P, C)."""
    for axis, index in enumerate(indices, start=1):
        x = x.take(index, axis=axis)
    return x


adaptive_avg_pool = Op(adaptive_avg_pool_forward, adaptive_avg_pool_backward)
adaptive_max_pool = Op(adaptive_max_pool_forward, adaptive_max_pool_backward)
