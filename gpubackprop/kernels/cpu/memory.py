"""Step memory: arrays whose memory is used again, so that a steady step asks the system for none.

A fresh array of a megabyte costs more than the arithmetic on it: the system hands it out page by page, zeroed.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array

_SMALL = 4096  # bytes: below it NumPy's own allocation is as quick
_LINE = 64  # bytes of a cache line
_KEEP = 128 << 20  # bytes that may lie idle whatever is in use


class _Block(np.ndarray[Any, Any]):
    """Memory that goes back to its pool when the last array on it is gone."""

    pool: Pool | None = None

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool.free.setdefault(self.size, []).append(self.base)
            self.pool.idle += self.size


class Pool:
    """Memory by size. `poison`: fill what is handed out with NaN, so that reading what nobody wrote shows."""

    def __init__(self, poison: bool = False) -> None:
        self.free: dict[int, list[Any]] = {}
        self.poison = poison
        self.held = 0  #: bytes that were asked of the system
        self.idle = 0  #: of them, those that are free

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array with whatever was there before."""
        dtype = np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        if size < _SMALL:
            small = np.empty(shape, dtype)
            if self.poison:
                small.view(np.uint8).fill(255) if small.ndim else small.fill(-1 if dtype.kind in "iu" else np.nan)
            return small
        rounded = -(-size // _LINE) * _LINE
        stack = self.free.get(rounded)
        # The array's base is the block; that of views, and of views of views, is the array: NumPy goes no further where
        # the class is another one. So `root` finds the block. Its own base is no array, and goes back to the pool.
        block = _Block(rounded, np.uint8, self._again(stack) if stack else self._fresh(rounded))
        block.pool = self
        if self.poison:
            block.fill(255)
        return np.ndarray(shape, dtype, block)

    def _again(self, stack: list[Any]) -> Any:
        raw = stack.pop()
        self.idle -= len(raw)
        return raw

    def _fresh(self, size: int) -> Any:
        if self.idle > max(_KEEP, 2 * (self.held - self.idle)):  # sizes that came and went: give them back
            self.free.clear()
            self.held, self.idle = self.held - self.idle, 0
        self.held += size
        wide = np.empty(size + _LINE, np.uint8)
        start = -wide.ctypes.data % _LINE
        return (ctypes.c_char * size).from_buffer(wide.data, start)

    def take(self, other: Pool) -> None:
        """What is free in another pool is free in this one instead."""
        for size, stack in other.free.items():
            self.free.setdefault(size, []).extend(stack)
        other.free.clear()
        self.held, other.held = self.held + other.idle, other.held - other.idle
        self.idle, other.idle = self.idle + other.idle, 0


def root(x: Array) -> _Block | None:
    """The step memory that an array lies in, None for other arrays."""
    while x is not None and type(x) is not _Block:
        x = getattr(x, "base", None)
    return x
