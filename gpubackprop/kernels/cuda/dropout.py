"""Dropout; the mask is drawn in the forward pass and again in the backward pass, and never kept."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.draws import draws
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import computed, kernel
from gpubackprop.ops.dropout import dropout
from gpubackprop.tape import Slots

SOURCE = Source("dropout.cu", ("apply<{real}>",))


def _apply(b: CudaBackend, x: Array, y: Array, numbers: tuple[Any, ...]) -> Array:
    size = elementwise(x.size, x.itemsize)
    b.launch(SOURCE, "apply<{real}>", x.dtype, *size, x, y, *numbers, np.int64(x.size))
    return y


def dropout_forward(
    b: CudaBackend,
    x: Array,
    samples: Array,
    step: int | Array,
    *,
    p: float,
    seed: int,
    stream: int,
    over: int = 0,
    alike: bool = False,
) -> tuple[Array, Any]:
    """As ops/dropout.py."""
    drawn = draws(b, samples, step, seed, stream)
    scale = computed(x.dtype).type(1 / (1 - p) if p < 1 else 0.0)
    limit = np.uint32(min(round(p * 2**32), 2**32 - 1))
    sizes = np.int64(prod(x.shape[1 + over :])), np.int64(prod(x.shape[1:]))
    numbers = (drawn.samples, drawn.step, scale, limit, np.int32(alike), drawn.seed, drawn.stream, *sizes)
    return _apply(b, x, b.empty(x.shape, x.dtype), numbers), numbers


def dropout_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/dropout.py."""
    return _apply(b, dy, b.out(slots[0], dy.shape, dy.dtype), saved), None, None


kernel(dropout, dropout_forward, dropout_backward)
