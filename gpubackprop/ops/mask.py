"""Masks (N, T) of real positions, True, and padding: what they let through, and where they are behind a window.

Behind a layer that changes T a position is real where the sequence alone, cut off behind its last real position, would
have had it. That is exact where real positions stand first, as they do in all our data.
"""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def fill_forward(b: Backend, x: Array, mask: Array, *, value: float = 0.0) -> tuple[Array, Any]:
    """x (N, T, ...), mask (N, T) -> y: x at real positions, `value` at padding."""
    real = mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    return b.xp.where(real, x, value).astype(x.dtype), real


def fill_backward(b: Backend, real: Array, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, T, ...) -> dx: dy at real positions, 0 at padding."""
    return b.xp.where(real, dy, 0).astype(dy.dtype), None


def window_mask(
    b: Backend,
    mask: Array,
    count: int,
    kernel: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int = 1,
    ceil_mode: bool = False,
) -> Array:
    """mask (N, T) -> (N, count), behind windows as in ops/conv.py and ops/pool.py."""
    start = b.xp.arange(count) * stride
    needed = start + dilation * (kernel - 1) - sum(padding)  # the last position that a sequence must have
    if ceil_mode:
        needed = b.xp.maximum(needed - (stride - 1), start - padding[0])
    return mask.take(b.xp.maximum(needed, 0), axis=1)


def transposed_mask(
    b: Backend,
    mask: Array,
    count: int,
    kernel: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int = 1,
    output_padding: int = 0,
) -> Array:
    """mask (N, T) -> (N, count), behind a transposed convolution."""
    beyond = dilation * (kernel - 1) + output_padding - sum(padding)  # cells behind the last position's own
    needed = -((beyond - b.xp.arange(count)) // stride)
    return mask.take(b.xp.clip(needed, 0, mask.shape[1] - 1), axis=1)


fill = Op(fill_forward, fill_backward)
