"""Positions: rows added to each sample of a batch, and queries and keys turned by angles from a small table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2, prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.columns import column_sums
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.ops.position import (
    learned_position,
    rotary,
    sinusoidal_position,
    sinusoidal_position_backward,
)
from gpubackprop.tape import Slots

NAMES = ADD_ROWS, WAVES, TURNS, ROTATE = "add_rows<{real}>", "waves<{real}>", "turns<{real}>", "rotate<{real}>"
SOURCE = Source("position.cu", NAMES)


def _added(b: CudaBackend, x: Array, rows: Array) -> Array:
    """x (N, T, E) + rows (T, E)."""
    y = b.empty(x.shape, x.dtype)
    b.launch(
        *(SOURCE, ADD_ROWS, x.dtype, *elementwise(x.size, x.itemsize)),
        *(x, rows, y, np.int64(rows.size), np.int64(x.size)),
    )
    return y


def learned_position_forward(b: CudaBackend, x: Array, weight: Array, *, offset: int = 0) -> tuple[Array, Any]:
    """As ops/position.py."""
    return _added(b, x, weight[offset : offset + x.shape[1]]), (weight.shape, offset)


def learned_position_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, Array | None]:
    """As ops/position.py."""
    shape, offset = saved
    if not slots[1].wanted:
        return dy, None
    dweight, stop = b.out(slots[1], shape, dy.dtype), offset + dy.shape[1]
    for beyond in (dweight[:offset], dweight[stop:]):
        if beyond.size:
            beyond[...] = 0
    column_sums(b, dy.reshape(dy.shape[0], prod(dy.shape[1:])), dweight[offset:stop].reshape(-1))
    return dy, dweight


def sinusoidal_position_forward(b: CudaBackend, x: Array, *, offset: int = 0, base: float = 1e4) -> tuple[Array, Any]:
    """As ops/position.py."""
    t, width = x.shape[1:]
    table = b.empty((t, width), x.dtype)
    numbers = _rate(base, width), np.int64(offset), np.int64(width), np.int64(table.size)
    b.launch(SOURCE, WAVES, x.dtype, *elementwise(table.size, x.itemsize), table, *numbers)
    return _added(b, x, table), None


def rotary_forward(
    b: CudaBackend, x: Array, *, offset: int = 0, base: float = 1e4, pairs: str = "halves"
) -> tuple[Array, Any]:
    """As ops/position.py."""
    t, width = x.shape[-2:]
    cosines, sines = (b.empty((t, width // 2), computed(x.dtype)) for _ in range(2))
    numbers = _rate(base, width), np.int64(offset), np.int64(width // 2), np.int64(sines.size)
    b.launch(SOURCE, TURNS, x.dtype, *elementwise(sines.size, sines.itemsize), cosines, sines, *numbers)
    saved = cosines, sines, np.int32(pairs == "neighbours")
    return _rotated(b, x, b.empty(x.shape, x.dtype), saved, 1), saved


def rotary_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/position.py."""
    return (_rotated(b, dy, b.out(slots[0], dy.shape, dy.dtype), saved, -1),)


def _rotated(b: CudaBackend, x: Array, y: Array, saved: Any, direction: int) -> Array:
    cosines, sines, neighbours = saved
    numbers = np.int64(sines.shape[1]), np.int64(sines.size), np.int64(x.size // 2)
    b.launch(
        *(SOURCE, ROTATE, x.dtype, *elementwise(x.size // 2, x.itemsize)),
        *(x, cosines, sines, y, sines.dtype.type(direction), neighbours, *numbers),
    )
    return y


def _rate(base: float, width: int) -> Any:
    return np.float64(-2 * log2(base) / max(width, 1))


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Not beyond the last position: the reference says what is wrong."""
    x, weight = arrays
    return same_floats(arrays, options) and options.get("offset", 0) + x.shape[1] <= weight.shape[0]


kernel(learned_position, learned_position_forward, learned_position_backward, _fits)
kernel(sinusoidal_position, sinusoidal_position_forward, sinusoidal_position_backward)
kernel(rotary, rotary_forward, rotary_backward)
