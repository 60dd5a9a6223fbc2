"""Pooling over all positions: one launch forward, one backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import channel_block, over_channels
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.ops.pool import global_avg_pool, global_max_pool
from gpubackprop.tape import Slots

AVERAGE = "average_forward<{real}>", "average_backward<{real}>"
MAX = "max_forward<{real}>", "max_backward<{real}>"
SOURCE = Source("global_pool.cu", (*AVERAGE, *MAX))


def _forward(b: CudaBackend, name: str, x: Array, mask: Array, kept: Array) -> Array:
    positions, channels = prod(x.shape[1:-1]), x.shape[-1]
    y = b.empty((x.shape[0], channels), x.dtype)
    across, block = channel_block(positions, channels, x.itemsize)
    numbers = np.int64(positions), np.int64(channels)
    b.launch(SOURCE, name, x.dtype, (x.shape[0], across), block, x, mask, y, kept, *numbers)
    return y


def _backward(b: CudaBackend, name: str, shape: tuple[int, ...], dy: Array, slots: Slots, *kept: Array) -> Array:
    positions, channels = prod(shape[1:-1]), shape[-1]
    dx = b.out(slots[0], shape, dy.dtype)
    strips, *size = over_channels(shape[0], positions, channels, dy.itemsize)
    b.launch(SOURCE, name, dy.dtype, *size, dy, *kept, dx, np.int32(strips), np.int64(positions), np.int64(channels))
    return dx


def global_avg_pool_forward(b: CudaBackend, x: Array, mask: Array | None) -> tuple[Array, Any]:
    """As ops/pool.py."""
    real, shares = NULL if mask is None else mask, b.empty((x.shape[0],), computed(x.dtype))
    return _forward(b, AVERAGE[0], x, real, shares), (x.shape, real, shares)


def global_avg_pool_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/pool.py."""
    shape, real, shares = saved
    return _backward(b, AVERAGE[1], shape, dy, slots, real, shares), None


def global_max_pool_forward(b: CudaBackend, x: Array, mask: Array | None) -> tuple[Array, Any]:
    """As ops/pool.py."""
    winner = b.empty((x.shape[0], x.shape[-1]), np.int32)
    return _forward(b, MAX[0], x, NULL if mask is None else mask, winner), (x.shape, winner)


def global_max_pool_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/pool.py."""
    shape, winner = saved
    return _backward(b, MAX[1], shape, dy, slots, winner), None


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    x, mask = arrays
    whole = mask is None or (mask.dtype.name == "bool" and mask.shape == x.shape[:-1])
    return same_floats(arrays, options) and whole and 0 < prod(x.shape[1:-1]) < 2**31


kernel(global_avg_pool, global_avg_pool_forward, global_avg_pool_backward, _fits)
kernel(global_max_pool, global_max_pool_forward, global_max_pool_backward, _fits)
