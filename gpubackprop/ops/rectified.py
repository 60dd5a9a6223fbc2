"""Relatives of relu: with a learned slope, self-normalising, and pieces of straight lines."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots

SELU_ALPHA = 1.6732632423543772  # Klambauer et al. 2017, appendix 1: mean 0 and variance 1 are a fixed point
SELU_SCALE = 1.0507009873554805


def prelu_forward(b: Backend, x: Array, weight: Array) -> tuple[Array, Any]:
    """x (..., C), weight (1,) or (C,) -> y (..., C) = x where x > 0, else weight · x; He et al. 2015."""
    y = b.xp.minimum(x, 0)
    y *= weight
    y += b.xp.maximum(x, 0)
    return y, (x, weight)


def prelu_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, Array | None]:
    """dx = dy where x > 0, else weight · dy; dweight = Σ min(x, 0) dy."""
    x, weight = saved
    dx = dweight = None
    if slots[0].wanted:
        dx = (x <= 0).astype(dy.dtype)
        dx *= weight
        dx += x > 0
        dx *= dy
    if slots[1].wanted:
        per_element = b.xp.minimum(x, 0)
        per_element *= dy
        over = tuple(range(x.ndim if weight.shape[0] == 1 else x.ndim - 1))
        dweight = per_element.sum(axis=over).reshape(weight.shape)
    return dx, dweight


def selu_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (...) -> y (...) = λ x where x > 0, else λ α (eˣ - 1); Klambauer et al. 2017."""
    y = b.xp.expm1(b.xp.minimum(x, 0))
    y *= SELU_ALPHA
    y += b.xp.maximum(x, 0)
    y *= SELU_SCALE
    return y, y


def selu_backward(b: Backend, y: Array, dy: Array, slots: Slots) -> tuple[Array]:
    """dx = λ dy where y > 0, else (y + λ α) dy."""
    positive = y > 0
    dx = b.xp.minimum(y, 0)
    dx += SELU_SCALE * SELU_ALPHA
    dx *= ~positive
    dx += positive * dy.dtype.type(SELU_SCALE)
    dx *= dy
    return (dx,)


def hardtanh_forward(b: Backend, x: Array, *, low: float = -1.0, high: float = 1.0) -> tuple[Array, Any]:
    """x (...) -> y (...) = x clipped to [low, high]; relu6 is [0, 6]."""
    return b.xp.clip(x, low, high), (x, low, high)


def hardtanh_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dx = dy between the bounds, else 0; 0 on them."""
    x, low, high = saved
    return (dy * ((x > low) & (x < high)),)


def hardsigmoid_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (...) -> y (...) = x / 6 + 1/2, clipped to [0, 1]."""
    y = b.xp.clip(x, -3, 3)
    y += 3
    y /= 6
    return y, x


def hardsigmoid_backward(b: Backend, x: Array, dy: Array, slots: Slots) -> tuple[Array]:
    """dx = dy / 6 where |x| < 3, else 0."""
    dx = dy * (b.xp.abs(x) < 3)
    dx /= 6
    return (dx,)


prelu = Op(prelu_forward, prelu_backward)
selu = Op(selu_forward, selu_backward)
hardtanh = Op(hardtanh_forward, hardtanh_backward)
hardsigmoid = Op(hardsigmoid_forward, hardsigmoid_backward)
