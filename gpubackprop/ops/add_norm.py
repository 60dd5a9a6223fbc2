"""A residual's addition and the norm of the sum, as transformers have them one after the other.

Written with the plain ops; what it is for is that a kernel can do it in one pass over the values.
"""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.sample_norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from gpubackprop.tape import FREE, SKIP, Op, Slots


def add_layer_norm_forward(
    b: Backend, x: Array, r: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[tuple[Array, Array], Any]:
    """x and r (N, ..., *S), weight and bias (*S) or None -> s = x + r and y = layer_norm(s), (N, ..., *S) both."""
    s = x + r
    y, saved = layer_norm_forward(b, s, weight, bias, axes=axes, eps=eps)
    return (s, y), saved


def add_layer_norm_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """ds and dy (N, ..., *S), either None where nothing came back -> dx, dr (the same), dweight (*S), dbias (*S)."""
    ds, dy = dys
    dx, *affine = layer_norm_backward(b, saved, b.xp.zeros_like(ds) if dy is None else dy, _norm_slots(slots))
    return *_sums(dx, ds, slots), *affine


def add_rms_norm_forward(
    b: Backend, x: Array, r: Array, weight: Array | None, *, axes: int = 1, eps: float | None = None
) -> tuple[tuple[Array, Array], Any]:
    """x and r (N, ..., *S), weight (*S) or None -> s = x + r and y = rms_norm(s), (N, ..., *S) both."""
    s = x + r
    y, saved = rms_norm_forward(b, s, weight, axes=axes, eps=eps)
    return (s, y), saved


def add_rms_norm_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """ds and dy (N, ..., *S), either None where nothing came back -> dx, dr (the same), dweight (*S)."""
    ds, dy = dys
    dx, *affine = rms_norm_backward(b, saved, b.xp.zeros_like(ds) if dy is None else dy, _norm_slots(slots))
    return *_sums(dx, ds, slots), *affine


def _norm_slots(slots: Slots) -> Slots:
    """Of x, r, weight, ... -> of s, weight, ..."""
    return [FREE if slots[0].wanted or slots[1].wanted else SKIP, *slots[2:]]


def _sums(dx: Array | None, ds: Array | None, slots: Slots) -> tuple[Array | None, Array | None]:
    """The gradient of s, through the norm and past it, for x and for r."""
    total = dx if dx is None or ds is None else dx + ds
    return total if slots[0].wanted else None, total if slots[1].wanted else None


add_layer_norm = Op(add_layer_norm_forward, add_layer_norm_backward)
add_rms_norm = Op(add_rms_norm_forward, add_rms_norm_backward)
