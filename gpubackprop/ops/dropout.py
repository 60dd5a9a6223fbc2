"""Dropout, whose mask is a function of the sample and the step, not of the batch or the device."""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.backend.philox import random_bits
from gpubackprop.tape import Op, Slots


def dropout_forward(
    b: Backend,
    x: Array,
    samples: Array,
    step: int | Array,
    *,
    p: float,
    seed: int,
    stream: int,
    over: int = 0,
    alike: bool = False,
) -> tuple[Array, Any]:
    """x (N, ...), samples (N,) integers, step a number or 0-d array -> y (N, ...) = x mask / (1 - p).

    Each element is zeroed with probability p; Srivastava et al. 2014, scaled in training as PyTorch does. The first
    `over` axes of a sample share one decision: H, W of images drop whole channels (Tompson et al. 2015), all axes whole
    samples (stochastic depth). `alike`: all samples of a step share theirs.
    """
    shared = (1,) * over + x.shape[1 + over :]
    mask = dropout_mask(b, (x.shape[0], *shared), samples, step, p=p, seed=seed, stream=stream, alike=alike)
    return _apply(mask, x, p), (mask, p)


def dropout_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dx = dy mask / (1 - p)."""
    mask, p = saved
    return _apply(mask, dy, p), None, None


def dropout_mask(
    b: Backend,
    shape: tuple[int, ...],
    samples: Array,
    step: int | Array,
    *,
    p: float,
    seed: int,
    stream: int,
    alike: bool = False,
) -> Array:
    """The boolean mask (N, ...) of what is kept."""
    bits = random_bits(b.xp, seed, stream, step, samples * (not alike), prod(shape[1:]))
    return (bits >= min(round(p * 2**32), 2**32 - 1)).reshape(shape)


def _apply(mask: Array, x: Array, p: float) -> Array:
    y = mask.astype(x.dtype)
    y *= 1 / (1 - p) if p < 1 else 0.0
    return y * x


dropout = Op(dropout_forward, dropout_backward)
