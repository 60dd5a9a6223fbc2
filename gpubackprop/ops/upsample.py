"""A finer or coarser grid: nearest or linear interpolation, and the exchange of channels for pixels.

Letters: N batch, S the sizes of x along the axes that are scaled ((T,), (H, W) or (D, H, W)), P those of y, C channels,
r the factor of pixel shuffling.
"""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.axes import along_axes
from gpubackprop.ops.conv import Sizes
from gpubackprop.tape import Op, Slots


def upsample_nearest_forward(b: Backend, x: Array, *, size: Sizes, scales: tuple[float, ...]) -> tuple[Array, Any]:
    """x (N, *S, C) -> y (N, *size, C), y[i] = x[⌊i · scale⌋] along each axis, `scales` input cells per output cell."""
    y, indices = x, []
    for axis, (cells, scale) in enumerate(zip(size, scales, strict=True), start=1):
        exact = b.xp.arange(cells, dtype=b.xp.float32) * b.xp.float32(scale)  # in float32 as PyTorch, to fall alike
        indices.append(b.xp.minimum(b.xp.floor(exact).astype(b.xp.int64), x.shape[axis] - 1))
        y = y.take(indices[-1], axis=axis)
    return y, (x.shape, indices)


def upsample_nearest_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, *size, C) -> dx (N, *S, C): each cell receives from all its copies."""
    shape, indices = saved
    spread = [
        (b.xp.arange(cells)[:, None] == index).astype(dy.dtype)  # (S_i, P_i)
        for cells, index in zip(shape[1:-1], indices, strict=True)
    ]
    return (along_axes(b, spread, dy),)


def upsample_linear_forward(
    b: Backend, x: Array, *, size: Sizes, scales: tuple[float, ...], align_corners: bool
) -> tuple[Array, Any]:
    """x (N, *S, C) -> y (N, *size, C), between the two nearest cells along each axis: (bi-, tri-)linear.

    `align_corners` lays the outermost centres on each other, else the outermost edges are; `scales` is then not used.
    """
    matrices = [
        _between(b, size_in, size_out, scale, align_corners).astype(x.dtype)
        for size_in, size_out, scale in zip(x.shape[1:-1], size, scales, strict=True)
    ]
    return along_axes(b, matrices, x), matrices


def upsample_linear_backward(b: Backend, matrices: list[Array], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, *size, C) -> dx (N, *S, C), by the transposed matrices."""
    return (along_axes(b, [matrix.T for matrix in matrices], dy),)


def _between(b: Backend, size_in: int, size_out: int, scale: float, align_corners: bool) -> Array:
    """(size_out, size_in), float64: row i holds the shares 1 − f and f of the two cells around output cell i."""
    i = b.xp.arange(size_out, dtype=b.xp.float64)
    exact = i * ((size_in - 1) / max(size_out - 1, 1)) if align_corners else (i + 0.5) * scale - 0.5
    exact = b.xp.clip(exact, 0, size_in - 1)
    return b.xp.maximum(1 - abs(exact[:, None] - b.xp.arange(size_in)), 0)


def pixel_shuffle_forward(b: Backend, x: Array, *, factor: int) -> tuple[Array, Any]:
    """x (N, H, W, C·r²) -> y (N, H·r, W·r, C): channel c·r² + i·r + j is pixel (i, j) of each r x r block.

    Shi et al. 2016.
    """
    return _shuffled(x, factor), factor


def pixel_shuffle_backward(b: Backend, factor: int, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, H·r, W·r, C) -> dx (N, H, W, C·r²)."""
    return (_unshuffled(dy, factor),)


def pixel_unshuffle_forward(b: Backend, x: Array, *, factor: int) -> tuple[Array, Any]:
    """x (N, H·r, W·r, C) -> y (N, H, W, C·r²), the inverse of pixel_shuffle."""
    return _unshuffled(x, factor), factor


def pixel_unshuffle_backward(b: Backend, factor: int, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, H, W, C·r²) -> dx (N, H·r, W·r, C)."""
    return (_shuffled(dy, factor),)


def _shuffled(x: Array, r: int) -> Array:
    n, h, w, c = x.shape
    blocks = x.reshape(n, h, w, c // r**2, r, r).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, h * r, w * r, c // r**2)


def _unshuffled(x: Array, r: int) -> Array:
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // r, r, w // r, r, c).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, h // r, w // r, c * r**2)


upsample_nearest = Op(upsample_nearest_forward, upsample_nearest_backward)
upsample_linear = Op(upsample_linear_forward, upsample_linear_backward)
pixel_shuffle = Op(pixel_shuffle_forward, pixel_shuffle_backward)
pixel_unshuffle = Op(pixel_unshuffle_forward, pixel_unshuffle_backward)
