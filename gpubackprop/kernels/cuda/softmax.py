"""Softmax over the last axis, and its logarithm: a warp or a block for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import rows_of_threads
from gpubackprop.kernels.cuda.kernel import kernel, rows_of, same_floats
from gpubackprop.ops.activation import log_softmax, softmax
from gpubackprop.tape import Op, Slots

FORWARD, BACKWARD = "forward<{{real}}, {}>", "backward<{{real}}, {}>"
SOURCE = Source("softmax.cu", tuple(name.format(each) for each in ("false", "true") for name in (FORWARD, BACKWARD)))


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Over the last axis only."""
    x = arrays[0]
    return same_floats(arrays, options) and x.shape[-1] > 0 and options.get("axis", -1) in (-1, x.ndim - 1)


def _enter(op: Op, logarithm: str) -> None:
    def forward(b: CudaBackend, x: Array, *, axis: int = -1) -> tuple[Array, Any]:
        y = b.empty(x.shape, x.dtype)
        rows, width = rows_of(x).shape
        size = rows_of_threads(rows, width, y.itemsize)
        b.launch(SOURCE, FORWARD.format(logarithm), x.dtype, *size, x, y, np.int64(rows), np.int64(width))
        return y, y

    def backward(b: CudaBackend, y: Array, dy: Array, slots: Slots) -> tuple[Array]:
        dx = b.out(slots[0], y.shape, y.dtype)
        rows, width = rows_of(y).shape
        size = rows_of_threads(rows, width, y.itemsize)
        b.launch(SOURCE, BACKWARD.format(logarithm), y.dtype, *size, y, dy, dx, np.int64(rows), np.int64(width))
        return (dx,)

    kernel(op, forward, backward, _fits)


_enter(softmax, "false")
_enter(log_softmax, "true")
