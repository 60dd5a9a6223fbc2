"""Embeddings: rows gathered, and their gradients added up in an order that is always the same.

Letters: V rows of the table, D numbers in a row, M rows that are picked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import LINES, elementwise, line_blocks
from gpubackprop.kernels.cuda.kernel import kernel, same_floats
from gpubackprop.ops.embedding import embedding
from gpubackprop.tape import Slots

CHUNK, WARPS, LONG = 256, 32, 32  # as in embedding.cu
NAMES = GATHER, ARRANGE, SCATTER = "gather<{real}>", "arrange<{real}>", "scatter<{real}>"
SOURCE = Source("embedding.cu", NAMES)


def fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whole numbers that fit int64, and places that fit int32."""
    x, weight = arrays
    return same_floats(arrays, options) and x.dtype.name != "uint64" and weight.size > 0 and x.size < 2**31


def embedding_forward(b: CudaBackend, x: Array, weight: Array, *, padding_idx: int | None = None) -> tuple[Array, Any]:
    """As ops/embedding.py; a number that names no row gives NaN."""
    x = x if x.dtype == np.int64 else x.astype(np.int64)
    rows, width = weight.shape
    y = b.empty((*x.shape, width), weight.dtype)
    numbers = np.int64(rows), np.int64(width), np.int64(y.size)
    b.launch(SOURCE, GATHER, y.dtype, *elementwise(y.size, y.itemsize), x, weight, y, *numbers)
    return y, (x, weight.shape, padding_idx)


def embedding_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/embedding.py."""
    x, (rows, width), padding_idx = saved
    if not slots[1].wanted:
        return None, None
    padding = np.int64(-1 if padding_idx is None else padding_idx % rows)
    starts, order = b.empty((rows + 1,), np.int32), b.empty((x.size,), np.int32)
    places = x, starts, order, padding, np.int64(rows), np.int64(x.size)
    b.launch(SOURCE, ARRANGE, dy.dtype, (-(-rows // CHUNK),), (WARPS * 32,), *places)
    dweight = b.out(slots[1], (rows, width), dy.dtype)
    columns, block = line_blocks(width, dy.itemsize)
    each = LINES if x.size <= LONG * rows else 1  # a block does long rows one after the other
    sizes = np.int64(rows), np.int64(width), np.int32(each)
    b.launch(SOURCE, SCATTER, dy.dtype, (-(-rows // each), columns), block, dy, starts, order, dweight, *sizes)
    return None, dweight


kernel(embedding, embedding_forward, embedding_backward, fits)
