"""Interpolation along the axes of images: a thread for 16 bytes of channels of each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import channel_block
from gpubackprop.kernels.cuda.kernel import kernel, same_floats
from gpubackprop.ops.upsample import upsample_linear, upsample_nearest
from gpubackprop.tape import Slots

#: Forward and backward.
NEAREST, LINEAR = (tuple(f"{way}ward<{{real}}, {curve}>" for way in ("for", "back")) for curve in ("Nearest", "Linear"))
SOURCE = Source("upsample.cu", (*NEAREST, *LINEAR))
#: Of an axis: its cells, those of y, cells for each of y, and where the first of y lies (upsample.cu's Axis).
Axes = Sequence[tuple[int, int, float, float]]


def _launch(b: CudaBackend, name: str, axes: Axes, x: Array, y: Array) -> None:
    """A kernel that reads x, with threads for all of y."""
    rows, channels = prod(y.shape[:-1]), y.shape[-1]
    across, block = channel_block(rows, channels, y.itemsize)
    numbers = [
        number
        for size, out, scale, shift in (*((1, 1, 1.0, 0.0),) * (3 - len(axes)), *axes)
        for number in (np.int32(size), np.int32(out), np.float64(scale), np.float64(shift))
    ]
    grid = -(-rows // block[1]), across if channels else 0
    b.launch(SOURCE, name, y.dtype, grid, block, x, y, *numbers, np.int64(channels), np.uint32(rows))


def _forward(b: CudaBackend, names: tuple[str, ...], x: Array, axes: Axes) -> tuple[Array, Any]:
    y = b.empty((x.shape[0], *(axis[1] for axis in axes), x.shape[-1]), x.dtype)
    _launch(b, names[0], axes, x, y)
    return y, (x.shape, names[1], axes)


def upsample_nearest_forward(b: CudaBackend, x: Array, *, size: Any, scales: Any) -> tuple[Array, Any]:
    """As ops/upsample.py."""
    axes = [(s, p, scale, 0.0) for s, p, scale in zip(x.shape[1:-1], size, scales, strict=True)]
    return _forward(b, NEAREST, x, axes)


def upsample_linear_forward(
    b: CudaBackend, x: Array, *, size: Any, scales: Any, align_corners: bool
) -> tuple[Array, Any]:
    """As ops/upsample.py, but that a NaN goes into its neighbours only, not into all of the reference's products."""
    axes = [
        (s, p, (s - 1) / max(p - 1, 1), 0.0) if align_corners else (s, p, scale, 0.5)
        for s, p, scale in zip(x.shape[1:-1], size, scales, strict=True)
    ]
    return _forward(b, LINEAR, x, axes)


def upsample_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/upsample.py."""
    shape, name, axes = saved
    dx = b.out(slots[0], shape, dy.dtype)
    _launch(b, name, axes, dy, dx)
    return (dx,)


def _countable(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    x = arrays[0]
    rows = x.shape[0] * max(prod(x.shape[1:-1]), prod(options["size"]))
    return same_floats(arrays, options) and 3 <= x.ndim <= 5 and prod(x.shape[1:-1]) > 0 and rows < 2**32


kernel(upsample_nearest, upsample_nearest_forward, upsample_backward, _countable)
kernel(upsample_linear, upsample_linear_forward, upsample_backward, _countable)
