"""Ops that move, join or reshape values without changing them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def add_forward(b: Backend, x: Array, other: Array) -> tuple[Array, Any]:
    """x and other of the same shape -> their sum."""
    return x + other, None


def add_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, Array]:
    """dy -> dy for both."""
    return dy, dy


def concat_forward(b: Backend, *xs: Array) -> tuple[Array, Any]:
    """xs (..., C_i) -> y (..., sum of C_i)."""
    widths = [x.shape[-1] for x in xs]
    y = b.xp.empty((*xs[0].shape[:-1], sum(widths)), np.result_type(*(x.dtype for x in xs)))
    for part, x in zip(concat_backward(b, widths, y, ()), xs, strict=True):  # CuPy's concatenate: see backend/strict.py
        part[...] = x
    return y, widths


def concat_backward(b: Backend, widths: list[int], dy: Array, slots: Slots) -> tuple[Array, ...]:
    """dy (..., sum of C_i) -> its slices (..., C_i)."""
    stops = [sum(widths[: i + 1]) for i in range(len(widths))]
    return tuple(dy[..., stop - width : stop] for stop, width in zip(stops, widths, strict=True))


def reshape_forward(b: Backend, x: Array, *, shape: tuple[int, ...]) -> tuple[Array, Any]:
    """x (N, ...) -> y (N, *shape), elements in the same order."""
    return x.reshape(x.shape[0], *shape), x.shape


def reshape_backward(b: Backend, shape: tuple[int, ...], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, ...) -> dx of x's shape."""
    return (dy.reshape(shape),)


def merge_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (N, K, ...) -> y (N·K, ...): the items of all samples as samples."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), x.shape


def merge_backward(b: Backend, shape: tuple[int, ...], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N·K, ...) -> dx (N, K, ...)."""
    return (dy.reshape(shape),)


def divide_forward(b: Backend, x: Array, *, items: int) -> tuple[Array, Any]:
    """x (N·K, ...) -> y (N, K, ...), K being `items`."""
    return x.reshape(x.shape[0] // items, items, *x.shape[1:]), x.shape


def divide_backward(b: Backend, shape: tuple[int, ...], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, K, ...) -> dx (N·K, ...)."""
    return (dy.reshape(shape),)


def flatten_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, C·H·W), channels first as PyTorch counts, volumes likewise; else (N, ...) -> (N, I)."""
    first = b.xp.moveaxis(x, -1, 1) if x.ndim in (4, 5) else x
    return first.reshape(x.shape[0], prod(x.shape[1:])), x.shape


def flatten_backward(b: Backend, shape: tuple[int, ...], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, I) -> dx of x's shape."""
    if len(shape) not in (4, 5):
        return (dy.reshape(shape),)
    n, *sizes, c = shape
    return (b.xp.moveaxis(dy.reshape(n, c, *sizes), 1, -1),)


def pad_channels_forward(b: Backend, x: Array, *, out_channels: int, stride: int) -> tuple[Array, Any]:
    """x (N, H, W, C) -> y (N, ⌈H/s⌉, ⌈W/s⌉, out_channels): every s-th pixel, zero channels on both sides.

    He et al. 2015, option A. An odd number of zero channels puts the larger half behind.
    """
    before = (out_channels - x.shape[-1]) // 2
    inner = x[:, ::stride, ::stride]
    y = b.xp.zeros((*inner.shape[:-1], out_channels), x.dtype)
    y[..., before : before + x.shape[-1]] = inner
    return y, (x.shape, before, stride)


def pad_channels_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, H', W', out_channels) -> dx (N, H, W, C)."""
    shape, before, stride = saved
    dx = b.xp.zeros(shape, dy.dtype)
    dx[:, ::stride, ::stride] = dy[..., before : before + shape[-1]]
    return (dx,)


add = Op(add_forward, add_backward)
concat = Op(concat_forward, concat_backward)
reshape = Op(reshape_forward, reshape_backward)
merge = Op(merge_forward, merge_backward)
divide = Op(divide_forward, divide_backward)
flatten = Op(flatten_forward, flatten_backward)
pad_channels = Op(pad_channels_forward, pad_channels_backward)
