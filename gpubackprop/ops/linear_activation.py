"""A fully connected layer and the activation behind it, as one op: a kernel does both while values are in the cache."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.activation import gelu, relu, sigmoid, silu, tanh
from gpubackprop.ops.linear import linear
from gpubackprop.tape import FREE, Op, Slots

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
