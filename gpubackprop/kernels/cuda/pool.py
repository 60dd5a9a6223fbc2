"""Pooling by windows, and in bins of an image: a thread for 16 bytes of channels of each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda import global_pool
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import channel_block
from gpubackprop.kernels.cuda.kernel import kernel, same_floats
from gpubackprop.ops.adaptive_pool import adaptive_avg_pool, adaptive_max_pool
from gpubackprop.ops.pool import avg_pool, max_pool, pooled_size
from gpubackprop.tape import Slots

AVERAGE = "average_forward<{real}>", "average_backward<{real}>"
#: Forward and backward by the type that counts a window's cells.
MAX = {kind: tuple(f"max_{way}ward<{{real}}, {kind}>" for way in ("for", "back")) for kind in ("unsigned char", "int")}
SOURCE = Source("pool.cu", (*AVERAGE, *MAX["unsigned char"], *MAX["int"]))
NO_AXIS = (1, 1, 1, 1, 0, 0, 1)


class Windows(NamedTuple):
    """Those over x (N, *S, C) that give y (N, *P, C)."""

    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]  #: three, each as pool.cu's Axis
    cells: int  #: of the largest


def _windows(x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Windows:
    sizes, given = x.shape[1:-1], tuple(zip(kernel, stride, padding, dilation, strict=True))
    out = [pooled_size(size, *each, ceil_mode) for size, each in zip(sizes, given, strict=True)]
    axes = [(s, p, k, d, *around, e) for s, p, (k, d, around, e) in zip(sizes, out, given, strict=True)]
    return _of_axes(x, out, axes, prod(kernel))


def _bins(x: Array, bins: Sequence[int]) -> Windows:
    sizes = x.shape[1:-1]
    axes = [(size, count, 0, 1, 0, 0, 1) for size, count in zip(sizes, bins, strict=True)]
    return _of_axes(x, bins, axes, prod(-(-size // count) + 1 for size, count in zip(sizes, bins, strict=True)))


def _of_axes(x: Array, out: Sequence[int], axes: Sequence[tuple[int, ...]], cells: int) -> Windows:
    filled = (*(NO_AXIS,) * (3 - len(axes)), *axes)
    return Windows(x.shape, (x.shape[0], *out, x.shape[-1]), filled, cells)


def _launch(b: CudaBackend, name: str, windows: Windows, shape: tuple[int, ...], *arrays: Array, **flags: bool) -> None:
    """A kernel with threads for all of `shape`."""
    kind, rows, channels = arrays[-1].dtype, prod(shape[:-1]), shape[-1]
    across, block = channel_block(rows, channels, kind.itemsize)
    numbers = (*(np.int32(n) for axis in windows.axes for n in axis), *map(np.int32, flags.values()))
    grid = -(-rows // block[1]), across if channels else 0
    b.launch(SOURCE, name, kind, grid, block, *arrays, *numbers, np.int64(channels), np.uint32(rows))


def _max(b: CudaBackend, x: Array, windows: Windows) -> tuple[Array, Any]:
    kind = "unsigned char" if windows.cells <= 256 else "int"
    y = b.empty(windows.y_shape, x.dtype)
    winner = b.empty(windows.y_shape, np.uint8 if windows.cells <= 256 else np.int32)
    _launch(b, MAX[kind][0], windows, y.shape, x, winner, y)
    return y, (winner, windows, MAX[kind][1])


def _average(b: CudaBackend, x: Array, windows: Windows, padding: bool) -> tuple[Array, Any]:
    y = b.empty(windows.y_shape, x.dtype)
    _launch(b, AVERAGE[0], windows, y.shape, x, y, padding=padding)
    return y, (windows, padding)


def max_pool_forward(
    b: CudaBackend, x: Array, *, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool = False
) -> tuple[Array, Any]:
    """As ops/pool.py."""
    return _max(b, x, _windows(x, kernel, stride, padding, dilation, ceil_mode))


def max_pool_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/pool.py."""
    winner, windows, name = saved
    dx = b.out(slots[0], windows.x_shape, dy.dtype)
    _launch(b, name, windows, dx.shape, winner, dy, dx)
    return (dx,)


def avg_pool_forward(
    b: CudaBackend,
    x: Array,
    *,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[Array, Any]:
    """As ops/pool.py."""
    windows = _windows(x, kernel, stride, padding, (1,) * len(kernel), ceil_mode)
    return _average(b, x, windows, count_include_pad)


def avg_pool_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/pool.py."""
    windows, padding = saved
    dx = b.out(slots[0], windows.x_shape, dy.dtype)
    _launch(b, AVERAGE[1], windows, dx.shape, dy, dx, padding=padding)
    return (dx,)


def adaptive_avg_pool_forward(b: CudaBackend, x: Array, *, output_size: Any) -> tuple[Array, Any]:
    """As ops/adaptive_pool.py, but that a NaN goes into its own bins only, not into all of the reference's products."""
    if prod(output_size) == 1:
        return _one_bin(global_pool.global_avg_pool_forward(b, x, None), x, global_pool.global_avg_pool_backward)
    y, saved = _average(b, x, _bins(x, output_size), False)
    return y, (avg_pool_backward, saved)


def adaptive_max_pool_forward(b: CudaBackend, x: Array, *, output_size: Any) -> tuple[Array, Any]:
    """As ops/adaptive_pool.py."""
    if prod(output_size) == 1:
        return _one_bin(global_pool.global_max_pool_forward(b, x, None), x, global_pool.global_max_pool_backward)
    y, saved = _max(b, x, _bins(x, output_size))
    return y, (max_pool_backward, saved)


def _one_bin(found: tuple[Array, Any], x: Array, backward: Any) -> tuple[Array, Any]:
    """Of global pooling, in which a block shares a bin, the y and what `adaptive_backward` takes."""
    y, saved = found
    return y.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]), (backward, saved)


def adaptive_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """As ops/adaptive_pool.py."""
    backward, inner = saved
    return (backward(b, inner, dy, slots)[0],)


def _countable(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether the cells of x, and those of y, are counted in 32 bits."""
    x, sizes = arrays[0], arrays[0].shape[1:-1]
    around = options.get("padding", ((0, 0),) * len(sizes))
    most = prod(size + sum(more) for size, more in zip(sizes, around, strict=True))
    cells = x.shape[0] * max(most, prod(options.get("output_size", ())))
    return same_floats(arrays, options) and len(sizes) in (1, 2, 3) and prod(sizes) > 0 and cells < 2**32


kernel(max_pool, max_pool_forward, max_pool_backward, _countable)
kernel(avg_pool, avg_pool_forward, avg_pool_backward, _countable)
kernel(adaptive_avg_pool, adaptive_avg_pool_forward, adaptive_backward, _countable)
kernel(adaptive_max_pool, adaptive_max_pool_forward, adaptive_backward, _countable)
