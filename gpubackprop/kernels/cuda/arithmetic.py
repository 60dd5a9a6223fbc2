"""Products of tensors: one pass over x and dy gives both gradients."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import elementwise, line_blocks
from gpubackprop.kernels.cuda.kernel import kernel
from gpubackprop.ops.arithmetic import scale
from gpubackprop.tape import Slots

NAMES = SCALE, BACKWARD = "scale<{real}>", "scale_backward<{real}>"
SOURCE = Source("arithmetic.cu", NAMES)


def scale_forward(b: CudaBackend, x: Array, s: Array) -> tuple[Array, Any]:
    """As ops/arithmetic.py."""
    return _scaled(b, x, s, b.empty(x.shape, x.dtype)), (x, s)


def scale_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/arithmetic.py."""
    x, s = saved
    dx = b.out(slots[0], x.shape, x.dtype) if slots[0].wanted else None
    if not slots[1].wanted:
        return dx if dx is None else _scaled(b, dy, s, dx), None
    ds = b.out(slots[1], s.shape, s.dtype)
    columns, block = line_blocks(s.shape[1], s.itemsize)
    sizes = np.int64(prod(x.shape[1:-1])), np.int64(s.shape[1])
    given = NULL if dx is None else dx
    b.launch(SOURCE, BACKWARD, x.dtype, (s.shape[0], columns), block, x, s, dy, given, ds, *sizes)
    return dx, ds


def _scaled(b: CudaBackend, x: Array, s: Array, y: Array) -> Array:
    sizes = np.int64(prod(x.shape[1:])), np.int64(s.shape[1]), np.int64(x.size)
    b.launch(SOURCE, SCALE, x.dtype, *elementwise(x.size, x.itemsize), x, s, y, *sizes)
    return y


kernel(scale, scale_forward, scale_backward)
