"""The affine map of a fully connected layer."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def linear_forward(b: Backend, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    """x (..., I), weight (O, I), bias (O,) or None -> y (..., O) = x weightᵀ + bias."""
    y = b.matmul(x.reshape(-1, x.shape[-1]), weight.T).reshape(
        *x.shape[:-1], weight.shape[0]
    )  # one GEMM, not one a sample
    if bias is not None:
        y += bias
    return y, (x, weight)


def linear_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, ...]:
    """dy (..., O) -> dx (..., I) = dy weight, dweight (O, I) = dyᵀ x, dbias (O,) = sum of dy."""
    x, weight = saved
    x2, dy2 = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, I), (N, O)
    dx = b.matmul(dy2, weight).reshape(x.shape) if slots[0].wanted else None
    dweight = b.matmul(dy2.T, x2, out=slots[1].out) if slots[1].wanted else None
    dbias = dy2.sum(axis=0) if slots[2].wanted else None
    return dx, dweight, dbias


linear = Op(linear_forward, linear_backward)
