"""Depthwise convolution: every channel has kernels of its own, so a shifted multiply-add per cell, and no GEMM.

Letters as in ops/conv.py; M kernels per channel, O = C·M; output channel c·M + m is the m-th of channel c, as PyTorch
counts with groups = C.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.channels import channel_sum, rows_of
from gpubackprop.ops.conv import Padding, Sizes, cells_under, output_size
from gpubackprop.ops.slices import at_once, slices
from gpubackprop.tape import Op, Slots


def depthwise_conv_forward(
    b: Backend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
) -> tuple[Array, Any]:
    """x (N, *S, C), weight (*K, 1, O), bias (O,) or None -> y (N, *P, O); padding with zeros."""
    kernel, group_out = weight.shape[:-2], weight.shape[-1] // x.shape[-1]
    out = tuple(map(output_size, x.shape[1:-1], kernel, stride, padding, dilation))
    y = b.xp.empty((x.shape[0], *out, weight.shape[-1]), x.dtype)
    taps = [(cells_under(cell, out, stride, dilation), (*cell, 0)) for cell in product(*map(range, kernel))]
    for samples in _few(b, x, y):
        padded = _padded(b, x[samples], padding)
        total, term = (b.xp.empty((len(padded), *out, x.shape[-1]), x.dtype) for _ in range(2))
        for m in range(group_out):
            each = slice(m, None, group_out)  # the m-th output of every channel
            total[...] = 0 if bias is None else bias[each]
            for under, cell in taps:
                b.xp.multiply(padded[under], weight[cell][each], out=term)
                total += term
            y[samples][..., each] = total
    return y, (x, weight, padding, taps)


def depthwise_conv_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, ...]:
    """dy (N, *P, O) -> dx (N, *S, C): dy times the cell's weight goes to the cell; dweight: the sum of cell · dy."""
    x, weight, padding, taps = saved
    channels, group_out = x.shape[-1], weight.shape[-1] // x.shape[-1]
    dx = b.xp.empty(x.shape, dy.dtype) if slots[0].wanted else None
    dweight = b.xp.zeros(weight.shape, dy.dtype) if slots[1].wanted else None
    for samples in _few(b, x, dy):
        padded = _padded(b, x[samples], padding)
        total, term = b.xp.zeros(padded.shape, dy.dtype), b.xp.empty((*dy[samples].shape[:-1], channels), dy.dtype)
        for m in range(group_out):
            each = slice(m, None, group_out)
            part = dy[samples][..., each].copy()  # short gaps between the values cost more than the copy
            for under, cell in taps:
                if dx is not None:
                    b.xp.multiply(part, weight[cell][each], out=term)
                    total[under] += term
                if dweight is not None:
                    b.xp.multiply(padded[under], part, out=term)
                    dweight[cell][each] += channel_sum(b, rows_of(term), channels)
        if dx is not None:
            dx[samples] = total[_inner(x.shape, padding)]
    dbias = channel_sum(b, rows_of(dy), dy.shape[-1]) if slots[2].wanted else None
    return dx, dweight, dbias


def _few(b: Backend, x: Array, y: Array) -> Any:
    """Slices of samples whose x and y stay in the cache from cell to cell."""
    return slices(len(x), at_once(b, len(x), 2 * (prod(x.shape[1:]) + prod(y.shape[1:])) * x.dtype.itemsize))


def _padded(b: Backend, x: Array, padding: Padding) -> Array:
    """x (N, *S, C) with zeros around it; x itself where nothing is to be added."""
    if not any(map(any, padding)):
        return x
    sizes = (before + size + after for size, (before, after) in zip(x.shape[1:-1], padding, strict=True))
    padded = b.xp.zeros((x.shape[0], *sizes, x.shape[-1]), x.dtype)
    padded[_inner(x.shape, padding)] = x
    return padded


def _inner(shape: Sizes, padding: Padding) -> tuple[slice, ...]:
    """The index of x (N, *S, C) in its padded form."""
    along = (slice(before, before + size) for size, (before, _) in zip(shape[1:-1], padding, strict=True))
    return (slice(None), *along)


depthwise_conv = Op(depthwise_conv_forward, depthwise_conv_backward)
