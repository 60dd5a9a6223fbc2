"""A value times a gate: the gate is a function of the value itself, or of the other half of the features."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.activation import logistic
from gpubackprop.tape import Op, Slots


def hardswish_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (...) -> y (...) = x (x + 3) / 6, the gate clipped to [0, 1]; Howard et al. 2019."""
    y = b.xp.clip(x, -3, 3)
    y += 3
    y /= 6
    y *= x
    return y, x


def hardswish_backward(b: Backend, x: Array, dy: Array, slots: Slots) -> tuple[Array]:
    """dx = (x / 3 + 1/2) dy where |x| ≤ 3, dy above and 0 below."""
    inside = b.xp.abs(x) <= 3
    dx = x * inside  # x itself may be infinite, and infinity times 0 is no number
    dx = b.xp.where(inside, dx / 3 + 0.5, 0)
    dx += x > 3
    dx *= dy
    return (dx,)


def mish_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (...) -> y (...) = x tanh(log(1 + eˣ)); Misra 2019.

    The gate is n / (n + 2) with n = e²ˣ + 2 eˣ; for x > 0 both are divided by e²ˣ, so that nothing overflows.
    """
    e = b.xp.exp(-b.xp.abs(x))
    top = b.xp.where(x > 0, 1 + 2 * e, e * (e + 2))
    gate = top / (top + 2 * b.xp.where(x > 0, e * e, 1))
    return x * gate, (x, gate)


def mish_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dx = (gate + x σ(x) (1 - gate²)) dy."""
    x, gate = saved
    dx = 1 - gate * gate
    dx *= x
    dx *= logistic(b.xp, x)
    dx += gate
    dx *= dy
    return (dx,)


def glu_forward(b: Backend, x: Array, *, axis: int = -1) -> tuple[Array, Any]:
    """x (..., 2D, ...) = [a, c] along an axis -> y (..., D, ...) = a σ(c); Dauphin et al. 2017."""
    a, c = b.xp.split(x, 2, axis)
    gate = logistic(b.xp, c)
    return a * gate, (a, gate, axis)


def glu_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """da = σ(c) dy; dc = a σ(c) (1 - σ(c)) dy."""
    a, gate, axis = saved
    da = dy * gate
    return (b.xp.concatenate([da, da * a * (1 - gate)], axis=axis),)


def swiglu_forward(b: Backend, x: Array, *, axis: int = -1) -> tuple[Array, Any]:
    """x (..., 2D, ...) = [a, c] along an axis -> y (..., D, ...) = a σ(a) c; Shazeer 2020."""
    a, c = b.xp.split(x, 2, axis)
    s = logistic(b.xp, a)
    return a * s * c, (a, c, s, axis)


def swiglu_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """da = σ (1 + a (1 - σ)) c dy; dc = a σ dy."""
    a, c, s, axis = saved
    ds = dy * s
    return (b.xp.concatenate([ds * c * (1 + a * (1 - s)), ds * a], axis=axis),)


hardswish = Op(hardswish_forward, hardswish_backward)
mish = Op(mish_forward, mish_backward)
glu = Op(glu_forward, glu_backward)
swiglu = Op(swiglu_forward, swiglu_backward)
