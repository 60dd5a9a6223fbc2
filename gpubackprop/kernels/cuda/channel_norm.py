"""Norms whose statistics are taken down columns: batch norm, alone or with what follows it, group and instance norm.

Forward: the moments of strips of rows, then the statistics from these, then y. Backward: two sums over strips, then
these added up, then dx. x is read twice in either, which is as little as it can be.

x is looked at as (N, P, C): N samples of P positions, C channels in G groups. Batch norm is group norm of one sample
whose groups are channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, REAL, Source
from gpubackprop.kernels.cuda.grid import THREADS, over_channels, row_threads
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.ops.batch_norm_act import batch_norm_add_relu, batch_norm_relu
from gpubackprop.ops.norm import batch_norm, batch_norm_inference, masked_batch_norm
from gpubackprop.ops.sample_norm import group_norm
from gpubackprop.tape import SKIP, Slots

NAMES = MOMENTS, STATISTICS, INVERSE_ROOT, NORMALISE, PRODUCTS, ADD_STRIPS, INPUT_GRADIENT = tuple(
    f"{name}<{{real}}>"
    for name in ("moments", "statistics", "inverse_root", "normalise", "products", "add_strips", "input_gradient")
)
SOURCE = Source("channel_norm.cu", NAMES)


class Norm(NamedTuple):
    """What is normalised, and how."""

    samples: int
    positions: int
    channels: int
    groups: int
    weight: Array  # (C,) or NULL, as the next two
    bias: Array
    mask: Array  # for N times P rows in turn, each value for `again` of them
    again: int
    eps: float
    relu: bool


class Statistics(NamedTuple):
    """Of each sample's groups, (N, G) each: mean, var (biased), rstd, and how many values they are of."""

    mean: Array
    var: Array
    rstd: Array
    total: Array


def batch(x: Array, weight: Array | None, bias: Array | None, eps: float, relu: bool = False) -> Norm:
    """Batch norm of x (N, ..., C)."""
    weight, bias = (NULL if each is None else each for each in (weight, bias))
    return Norm(1, prod(x.shape[:-1]), x.shape[-1], x.shape[-1], weight, bias, NULL, 1, eps, relu)


def masked(norm: Norm, x: Array, mask: Array | None) -> Norm:
    """The same with the mask (N, T) of x (N, T, ..., C), or none."""
    return norm if mask is None else norm._replace(mask=mask, again=max(prod(x.shape[mask.ndim : -1]), 1))


def by_sample(norm: Norm, x: Array, groups: int) -> Norm:
    """The same for each sample of x (N, ..., C) by itself."""
    return norm._replace(samples=x.shape[0], positions=prod(x.shape[1:-1]), groups=groups)


def statistics(b: CudaBackend, x: Array, norm: Norm) -> Statistics:
    """Of x, as `norm` takes it."""
    wide, channels, groups = computed(x.dtype), np.int64(norm.channels), np.int32(norm.groups)
    strips, *size = over_channels(norm.samples, norm.positions, norm.channels, x.itemsize)
    partial, counts = b.empty((norm.samples, strips, 2, norm.channels), wide), b.empty((norm.samples, strips), wide)
    shape = np.int32(strips), np.int64(norm.positions), channels, np.int64(norm.again)
    b.launch(SOURCE, MOMENTS, x.dtype, *size, x, norm.mask, partial, counts, *shape)
    found = Statistics(*(b.empty((norm.samples, norm.groups), wide) for _ in range(4)))
    b.launch(
        *(SOURCE, STATISTICS, x.dtype),
        *((norm.samples * norm.groups,), row_threads(strips * norm.channels // norm.groups, partial.itemsize)),
        *(partial, counts, *found, wide.type(norm.eps), np.int32(strips), channels, groups),
    )
    return found


def _normalise(b: CudaBackend, x: Array, shortcut: Array, norm: Norm, mean: Array, rstd: Array) -> Array:
    y = b.empty(x.shape, x.dtype)
    b.launch(
        *(SOURCE, NORMALISE, x.dtype),
        *_rows(x, norm, x, norm.weight, norm.bias, shortcut, norm.mask, mean, rstd, y, np.int32(norm.relu)),
    )
    return y


def _rows(x: Array, norm: Norm, *arrays: Any) -> tuple[Any, ...]:
    """Grid, block and arguments of a kernel that goes over all rows."""
    strips, *size = over_channels(norm.samples, norm.positions, norm.channels, x.itemsize)
    shape = np.int32(strips), np.int64(norm.positions), np.int64(norm.channels)
    return *size, *arrays, *shape, np.int32(norm.groups), np.int64(norm.again)


def _sums(
    b: CudaBackend, x: Array, dy: Array, y: Array, norm: Norm, found: Statistics, slots: Slots
) -> tuple[Array, Array | None, Array | None, Array]:
    """Means (N, G, 2) of dy weight and dy weight x̂; dweight, dbias; and dy where y is positive, if there is a y."""
    kind = x.dtype
    dsum = NULL if y is NULL else b.empty(x.shape, kind)
    strips = over_channels(norm.samples, norm.positions, norm.channels, x.itemsize)[0]
    partial = b.empty((norm.samples, strips, 2, norm.channels), computed(kind))
    given = x, dy, y, norm.weight, norm.bias, norm.mask, found.mean, found.rstd, dsum, partial, np.int32(norm.relu)
    b.launch(SOURCE, PRODUCTS, kind, *_rows(x, norm, *given))
    means = b.empty((norm.samples, norm.groups, 2), computed(kind)) if slots[0].wanted else NULL
    affine = [b.out(slot, (norm.channels,), kind) if slot.wanted else None for slot in slots[1:3]]
    outputs = [NULL if each is None else each for each in affine]

    def add(samples: int, strips: int, groups: int, *to: Any) -> None:
        size = (samples * groups,), row_threads(strips * norm.channels // groups, partial.itemsize)
        shape = np.int32(strips), np.int64(norm.channels), np.int32(groups)
        b.launch(SOURCE, ADD_STRIPS, kind, *size, partial, norm.weight, found.total, *to, *shape)

    if norm.samples == 1 and norm.groups == norm.channels:
        add(1, strips, norm.groups, means, *outputs)
    else:
        if means is not NULL:
            add(norm.samples, strips, norm.groups, means, NULL, NULL)
        if any(each is not None for each in affine):  # all strips of all samples
            add(1, norm.samples * strips, norm.channels, NULL, *outputs)
    return means, *affine, dsum


def _input_gradient(
    b: CudaBackend, x: Array, dy: Array, norm: Norm, found: Statistics, means: Array, out: Any
) -> Array:
    dx = b.out(out, dy.shape, dy.dtype)
    given = x, dy, norm.weight, norm.bias, norm.mask, found.mean, found.rstd, means, dx, np.int32(norm.relu)
    b.launch(SOURCE, INPUT_GRADIENT, dy.dtype, *_rows(dy, norm, *given))
    return dx


def _gradients(
    b: CudaBackend, x: Array, dy: Array, y: Array, norm: Norm, found: Statistics, slots: Slots
) -> tuple[Array | None, Array | None, Array | None, Array]:
    """dx, dweight, dbias, and dy where y is positive."""
    means, dweight, dbias, dsum = _sums(b, x, dy, y, norm, found, slots)
    if not slots[0].wanted:
        return None, dweight, dbias, dsum
    if dsum is not NULL:
        dy, norm = dsum, norm._replace(relu=False)
    return _input_gradient(b, x, dy, norm, found, means, slots[0]), dweight, dbias, dsum


def _by_batch(
    b: CudaBackend, x: Array, shortcut: Array, norm: Norm, keep_y: bool
) -> tuple[tuple[Array, Array, Array], Any]:
    found = statistics(b, x, norm)
    y = _normalise(b, x, shortcut, norm, found.mean, found.rstd)
    return (y, found.mean.reshape(-1), found.var.reshape(-1)), (x, y if keep_y else NULL, norm, found)


def batch_norm_forward(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/norm.py; mean and variance in float32 for shorter numbers."""
    return _by_batch(b, x, NULL, batch(x, weight, bias, eps), False)


def batch_norm_relu_forward(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/batch_norm_act.py."""
    return _by_batch(b, x, NULL, batch(x, weight, bias, eps, True), False)


def batch_norm_add_relu_forward(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, shortcut: Array, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/batch_norm_act.py."""
    return _by_batch(b, x, shortcut, batch(x, weight, bias, eps, True), True)


def batch_norm_backward(b: CudaBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/norm.py and ops/batch_norm_act.py."""
    dy, dmean, dvar = dys
    if dmean is not None or dvar is not None:
        raise NotImplementedError("the batch's mean and variance are for running statistics: they carry no gradient")
    x, y, norm, found = saved
    *grads, dsum = _gradients(b, x, dy, y, norm, found, slots)
    return tuple(grads) if len(slots) == 3 else (*grads, dsum if slots[3].wanted else None)


def masked_batch_norm_forward(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, mask: Array, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    """As ops/norm.py."""
    (y, *_), saved = _by_batch(b, x, NULL, masked(batch(x, weight, bias, eps), x, mask), False)
    return y, saved


def group_norm_forward(
    b: CudaBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mask: Array | None,
    *,
    groups: int,
    eps: float = 1e-5,
) -> tuple[Array, Any]:
    """As ops/sample_norm.py."""
    norm = by_sample(masked(batch(x, weight, bias, eps), x, mask), x, groups)
    (y, *_), saved = _by_batch(b, x, NULL, norm, False)
    return y, saved


def masked_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As masked_batch_norm_backward in ops/norm.py, and group_norm_backward in ops/sample_norm.py."""
    x, y, norm, found = saved
    dx, dweight, dbias, _ = _gradients(b, x, dy, y, norm, found, slots)
    return dx, dweight, dbias, None


def batch_norm_inference_forward(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    """As ops/norm.py."""
    wide, norm = computed(x.dtype), batch(x, weight, bias, eps)
    mean, var = (each if each.dtype == wide else each.astype(wide) for each in (mean, var))
    rstd = b.empty(var.shape, wide)
    size = (-(-var.size // THREADS),), (THREADS,)
    b.launch(SOURCE, INVERSE_ROOT, x.dtype, *size, var, rstd, wide.type(eps), np.int64(var.size))
    return _normalise(b, x, NULL, norm, mean, rstd), (x, norm, Statistics(mean, var, rstd, NULL))


def batch_norm_inference_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/norm.py."""
    x, norm, found = saved
    dx = _input_gradient(b, NULL, dy, norm, found, NULL, slots[0]) if slots[0].wanted else None
    dweight = dbias = None
    if slots[1].wanted or slots[2].wanted:
        _, dweight, dbias, _ = _sums(b, x, dy, NULL, norm, found, [SKIP, *slots[1:]])
    return dx, dweight, dbias, None, None


def _of_batch(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    return same_floats(arrays, options) and prod(arrays[0].shape[:-1]) > 1  # the reference tells what is wrong


def _maskable(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    x, mask = arrays[0], arrays[3]
    return same_floats(arrays, options) and (
        mask is None or (mask.dtype.name == "bool" and mask.shape == x.shape[: mask.ndim] != x.shape)
    )


def _of_the_past(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    return same_floats(arrays[:3], options) and all(each.dtype.name in REAL for each in arrays[3:])


kernel(batch_norm, batch_norm_forward, batch_norm_backward, _of_batch)
kernel(batch_norm_relu, batch_norm_relu_forward, batch_norm_backward, _of_batch)
kernel(batch_norm_add_relu, batch_norm_add_relu_forward, batch_norm_backward, _of_batch)
kernel(masked_batch_norm, masked_batch_norm_forward, masked_backward, _maskable)
kernel(batch_norm_inference, batch_norm_inference_forward, batch_norm_inference_backward, _of_the_past)
kernel(group_norm, group_norm_forward, masked_backward, _maskable)
