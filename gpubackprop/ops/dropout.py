"""Dropout, whose mask is a function of the sample and the step, not of the batch or the device."""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.backend.philox import random_bits
from gpubackprop.tape import Op, Slots


def dropout_forward(
    b: Backend, x: Array, samples: Array, step: int | Array, *, p: float, seed: int, stream: int
) -> tuple[Array, Any]:
    """x (N, ...), samples (N,) integers, step a number or 0-d array -> y (N, ...) = x mask / (1 - p).

    Each element is zeroed with probability p; Srivastava et al. 2014, scaled in training as PyTorch does.
    """
    mask = dropout_mask(b, x.shape, samples, step, p=p, seed=seed, stream=stream)
    return _apply(mask, x, p), (mask, p)


def dropout_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dx = dy mask / (1 - p)."""
    mask, p = saved
    return _apply(mask, dy, p), None, None


def dropout_mask(
    b: Backend, shape: tuple[int, ...], samples: Array, step: int | Array, *, p: float, seed: int, stream: int
) -> Array:
    """The boolean mask (N, ...) of what is kept."""
    bits = random_bits(b.xp, seed, stream, step, samples, prod(shape[1:]))
    return (bits >= min(round(p * 2**32), 2**32 - 1)).reshape(shape)


def _apply(mask: Array, x: Array, p: float) -> Array:
    y = mask.astype(x.dtype)
    y *= 1 / (1 - p) if p < 1 else 0.0
    y *= x
    return y


dropout = Op(dropout_forward, dropout_backward)
