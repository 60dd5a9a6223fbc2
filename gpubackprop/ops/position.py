"""Where a token stands: positions added to a sequence (N, T, E), and rotations of queries and keys."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def learned_position_forward(b: Backend, x: Array, weight: Array, *, offset: int = 0) -> tuple[Array, Any]:
    """x (N, T, E), weight (M, E) -> y (N, T, E) = x + weight[offset : offset + T]."""
    t = x.shape[1]
    return x + weight[offset : offset + t], (weight.shape, offset)


def learned_position_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, Array | None]:
    """dx = dy; dweight is the sum of dy over the batch, and 0 at positions that no token has."""
    shape, offset = saved
    if not slots[1].wanted:
        return dy, None
    dweight = b.xp.empty(shape, dy.dtype) if slots[1].out is None else slots[1].out
    stop = offset + dy.shape[1]
    dweight[:offset] = 0
    dweight[offset:stop] = dy.sum(axis=0)
    dweight[stop:] = 0
    return dy, dweight


def sinusoidal_position_forward(b: Backend, x: Array, *, offset: int = 0, base: float = 1e4) -> tuple[Array, Any]:
    """x (N, T, E) -> y (N, T, E) = x + table, sin in the even and cos in the odd columns; Vaswani et al. 2017."""
    t, width = x.shape[1:]
    angles = _angles(b, t, width, offset, base)
    table = b.xp.empty((t, width), x.dtype)
    table[:, 0::2] = b.xp.sin(angles)
    table[:, 1::2] = b.xp.cos(angles[:, : width // 2])
    return x + table, None


def sinusoidal_position_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dx = dy."""
    return (dy,)


def rotary_forward(
    b: Backend, x: Array, *, offset: int = 0, base: float = 1e4, pairs: Literal["halves", "neighbours"] = "halves"
) -> tuple[Array, Any]:
    """x (N, h, T, D), D even -> y (N, h, T, D): pair i of position t turned by the angle t base^(-2i/D).

    The pairs are (i, i + D/2) with `halves`, as GPT-NeoX's and Hugging Face's LLaMA have them, or (2i, 2i + 1) with
    `neighbours`, as in the paper and Meta's LLaMA; Su et al. 2021.
    """
    t, d = x.shape[-2:]
    angles = _angles(b, t, d, offset, base)
    cos, sin = b.xp.cos(angles).astype(x.dtype), b.xp.sin(angles).astype(x.dtype)
    return _turned(b, x, cos, sin, pairs), (cos, sin, pairs)


def rotary_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dx is dy turned back, by minus the angle."""
    cos, sin, pairs = saved
    return (_turned(b, dy, cos, -sin, pairs),)


def _turned(b: Backend, x: Array, cos: Array, sin: Array, pairs: str) -> Array:
    half = x.shape[-1] // 2
    one, two = (slice(half), slice(half, None)) if pairs == "halves" else (slice(0, None, 2), slice(1, None, 2))
    first, second = x[..., one], x[..., two]
    y = b.xp.empty(x.shape, x.dtype)
    y[..., one] = first * cos - second * sin
    y[..., two] = second * cos + first * sin
    return y


def _angles(b: Backend, length: int, width: int, offset: int, base: float) -> Array:
    """t base^(-2i/width) for t from `offset`: (length, ⌈width/2⌉), in float64, for t may be large."""
    float64: npt.DTypeLike = b.xp.float64
    frequencies = base ** (b.xp.arange(0, width, 2, dtype=float64) * (-1.0 / width))
    return b.xp.arange(offset, offset + length, dtype=float64)[:, None] * frequencies


learned_position = Op(learned_position_forward, learned_position_backward)
sinusoidal_position = Op(sinusoidal_position_forward, sinusoidal_position_backward)
rotary = Op(rotary_forward, rotary_backward)
