"""Fully connected layers and activations as one op: a kernel does both while values are in the cache."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.activation import gelu, relu, sigmoid, silu, tanh
from gpubackprop.ops.linear import linear
from gpubackprop.tape import FREE, SKIP, Op, Slots

ACTIVATIONS = {op.name: op for op in (relu, gelu, tanh, sigmoid, silu)}


def linear_activation_forward(
    b: Backend, x: Array, weight: Array, bias: Array | None, *, activation: str, **options: Any
) -> tuple[Array, Any]:
    """x (..., I), weight (O, I), bias (O,) or None -> y (..., O) = f(x weightᵀ + bias).

    f is the op of ACTIVATIONS that is called `activation`, with its options.
    """
    z, saved = linear.forward(b, x, weight, bias)
    y, kept = ACTIVATIONS[activation].forward(b, z, **options)
    return y, (saved, activation, kept)


def linear_activation_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (..., O) -> dx (..., I), dweight (O, I), dbias (O,)."""
    saved, activation, kept = saved
    (dz,) = ACTIVATIONS[activation].backward(b, kept, dy, [FREE])
    return linear.backward(b, saved, dz, slots)  # type: ignore[no-any-return]  # as linear_backward


linear_activation = Op(linear_activation_forward, linear_activation_backward)


def linear_gelu_linear_forward(
    b: Backend, x: Array, weight: Array, bias: Array | None, weight2: Array, bias2: Array | None
) -> tuple[Array, Any]:
    """x (..., I), weight (H, I), bias (H,), weight2 (O, H), bias2 (O,) -> y (..., O); GELU in its tanh form between."""
    h, first = linear_activation.forward(b, x, weight, bias, activation="gelu", approximate="tanh")
    y, second = linear.forward(b, h, weight2, bias2)
    return y, (first, second)


def linear_gelu_linear_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (..., O) -> dx (..., I), dweight (H, I), dbias (H,), dweight2 (O, H), dbias2 (O,)."""
    first, second = saved
    below = any(slot.wanted for slot in slots[:3])
    dh, *rest = linear.backward(b, second, dy, [FREE if below else SKIP, *slots[3:]])
    return (*(linear_activation.backward(b, first, dh, slots[:3]) if below else (None,) * 3), *rest)


linear_gelu_linear = Op(linear_gelu_linear_forward, linear_gelu_linear_backward)
