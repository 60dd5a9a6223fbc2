"""Products of tensors."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def scale_forward(b: Backend, x: Array, s: Array) -> tuple[Array, Any]:
    """x (N, ..., C), s (N, C) -> y = x s, the same factor at all positions of a sample."""
    across = s.reshape(s.shape[0], *(1,) * (x.ndim - 2), s.shape[-1])
    return x * across, (x, across, s.shape)


def scale_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., C) -> dx = dy s, ds (N, C) = sum of dy x over the positions."""
    x, across, shape = saved
    dx = dy * across if slots[0].wanted else None
    ds = (dy * x).sum(axis=tuple(range(1, x.ndim - 1))).reshape(shape) if slots[1].wanted else None
    return dx, ds


scale = Op(scale_forward, scale_backward)
