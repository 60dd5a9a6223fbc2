"""Padding filled with a value, and with zeros in the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.ops.mask import fill
from gpubackprop.tape import Slots

FILL = "fill<{real}>"
SOURCE = Source("mask.cu", (FILL,))


def fill_forward(b: CudaBackend, x: Array, mask: Array, *, value: float = 0.0) -> tuple[Array, Any]:
    """As ops/mask.py."""
    return _filled(b, x, mask, b.empty(x.shape, x.dtype), value), mask


def fill_backward(b: CudaBackend, mask: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/mask.py."""
    return _filled(b, dy, mask, b.out(slots[0], dy.shape, dy.dtype), 0.0), None


def _filled(b: CudaBackend, x: Array, mask: Array, y: Array, value: float) -> Array:
    numbers = computed(x.dtype).type(value), np.int64(prod(x.shape[mask.ndim :])), np.int64(x.size)
    b.launch(SOURCE, FILL, x.dtype, *elementwise(x.size, x.itemsize), x, mask, y, *numbers)
    return y


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """A mask of booleans on the leading axes."""
    x, mask = arrays
    return same_floats(arrays, options) and mask.dtype.name == "bool" and mask.shape == x.shape[: mask.ndim]


kernel(fill, fill_forward, fill_backward, _fits)
