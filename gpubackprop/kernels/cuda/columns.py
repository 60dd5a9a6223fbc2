"""Sums over the leading axis, always in the same order: the gradient of a bias, or of what a batch shares."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import line_blocks, strips
from gpubackprop.kernels.cuda.kernel import computed

STRIPS, ADD_STRIPS = NAMES = "strips<{real}>", "add_strips<{real}>"
SOURCE = Source("columns.cu", NAMES)


def column_sums(b: CudaBackend, x: Array, out: Array) -> Array:
    """x (M, I), contiguous -> its sum over M, written into out (I,): one launch where I is large, else two.

    `out` is of x's dtype, or of the one that short numbers are computed in.
    """
    (rows, width), dtype = x.shape, x.dtype
    columns, block = line_blocks(width, x.itemsize)
    count = strips(rows, columns)
    sizes = np.int64(rows), np.int64(width)
    if count == 1 and out.dtype == dtype:
        b.launch(SOURCE, STRIPS, dtype, (columns, 1), block, x, NULL, out, *sizes)
        return out
    partial = b.empty((count, width), computed(dtype))
    b.launch(SOURCE, STRIPS, dtype, (columns, count), block, x, partial, NULL, *sizes)
    grid, block = line_blocks(width, partial.itemsize)
    b.launch(SOURCE, ADD_STRIPS, out.dtype, (grid,), block, partial, out, np.int64(count), np.int64(width))
    return out
