"""Leaky relu with learned slopes, which get their gradients from strips of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise, line_blocks, row_threads, strips
from gpubackprop.kernels.cuda.kernel import computed, kernel
from gpubackprop.ops.rectified import prelu
from gpubackprop.tape import Slots

NAMES = FORWARD, BACKWARD, STRIPS, ADD_STRIPS = tuple(
    f"{name}<{{real}}>" for name in ("forward", "backward", "strips", "add_strips")
)
SOURCE = Source("prelu.cu", NAMES)


def prelu_forward(b: CudaBackend, x: Array, weight: Array) -> tuple[Array, Any]:
    """As ops/rectified.py."""
    y = b.empty(x.shape, x.dtype)
    sizes = np.int64(weight.size), np.int64(x.size)
    b.launch(SOURCE, FORWARD, x.dtype, *elementwise(x.size, x.itemsize), x, weight, y, *sizes)
    return y, (x, weight)


def prelu_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, Array | None]:
    """As ops/rectified.py."""
    x, weight = saved
    dx = dweight = None
    if slots[0].wanted:
        dx = b.out(slots[0], x.shape, x.dtype)
        sizes = np.int64(weight.size), np.int64(x.size)
        b.launch(SOURCE, BACKWARD, x.dtype, *elementwise(x.size, x.itemsize), x, weight, dy, dx, *sizes)
    if slots[1].wanted:
        dweight = b.out(slots[1], weight.shape, weight.dtype)
        columns = x.shape[-1]
        rows, (blocks, block) = x.size // columns, line_blocks(columns, x.itemsize)
        partial = b.empty((strips(rows, blocks), columns), computed(x.dtype))
        sizes = np.int64(rows), np.int64(columns)
        b.launch(SOURCE, STRIPS, x.dtype, (blocks, partial.shape[0]), block, x, dy, partial, *sizes)
        sizes = np.int64(weight.size), np.int64(partial.size)
        threads = row_threads(partial.size // weight.size, partial.itemsize)
        b.launch(SOURCE, ADD_STRIPS, x.dtype, (weight.size,), threads, partial, dweight, *sizes)
    return dx, dweight


kernel(prelu, prelu_forward, prelu_backward)
