"""Batch norm with what follows it in residual networks: the shortcut's addition, and ReLU (He et al. 2015).

Written with the plain ops; what it is for is that a kernel can do it in one pass over the values.
"""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.activation import relu_backward, relu_forward
from gpubackprop.ops.norm import batch_norm_backward, batch_norm_forward
from gpubackprop.tape import FREE, Op, Slots


def batch_norm_relu_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """x (N, ..., C), weight and bias (C,) or None -> y (N, ..., C) = relu(batch_norm(x)), mean and variance (C,)."""
    (normal, mean, var), saved = batch_norm_forward(b, x, weight, bias, eps=eps)
    y, kept = relu_forward(b, normal)
    return (y, mean, var), (saved, kept)


def batch_norm_relu_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., C) -> dx, dweight (C,), dbias (C,)."""
    (norm, kept), (dy, *statistics) = saved, dys
    return batch_norm_backward(b, norm, (*relu_backward(b, kept, dy, (FREE,)), *statistics), slots)


def batch_norm_add_relu_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, shortcut: Array, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """x and shortcut (N, ..., C) -> y (N, ..., C) = relu(batch_norm(x) + shortcut), mean and variance (C,)."""
    (normal, mean, var), saved = batch_norm_forward(b, x, weight, bias, eps=eps)
    y, kept = relu_forward(b, normal + shortcut)
    return (y, mean, var), (saved, kept)


def batch_norm_add_relu_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., C) -> dx, dweight (C,), dbias (C,), dshortcut (N, ..., C)."""
    (norm, kept), (dy, *statistics) = saved, dys
    (dsum,) = relu_backward(b, kept, dy, (FREE,))
    return *batch_norm_backward(b, norm, (dsum, *statistics), slots[:3]), dsum if slots[3].wanted else None


batch_norm_relu = Op(batch_norm_relu_forward, batch_norm_relu_backward)
batch_norm_add_relu = Op(batch_norm_add_relu_forward, batch_norm_add_relu_backward)
