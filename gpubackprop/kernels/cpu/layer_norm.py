"""Layer and RMS norm, alone or of a residual's sum: each row is read once and stays in the cache meanwhile.

RMS norm is layer norm that takes the mean to be 0. Letters: M rows, I values of each.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.constants import none_of, ones_unless, zeros_unless
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel
from gpubackprop.kernels.cpu.lanes import add
from gpubackprop.ops.add_norm import add_layer_norm, add_rms_norm
from gpubackprop.ops.sample_norm import layer_norm, rms_norm
from gpubackprop.tape import Slots

PASS = 0.3  # nanoseconds that one value takes one thread, forward


# Rows are looked at in place: a slice of each would cost as much as a short row's arithmetic.


@serial
def _rows(low, high, x, r, weight, bias, eps, centred, s, y, mean, rstd):
    one, zero, width = x.dtype.type(1), x.dtype.type(0), x.shape[1]
    count = x.dtype.type(width)
    for i in range(low, high):
        total = zero
        if r.size:
            for j in range(width):
                s[i, j] = x[i, j] + r[i, j]
        if centred:  # a sum in a loop that also writes has another order where the arrays lie close together
            for j in range(width):
                total += s[i, j]
        centre, squares = total / count if centred else zero, zero
        for j in range(width):
            squares += (s[i, j] - centre) * (s[i, j] - centre)
        scale = one / np.sqrt(squares / count + eps)
        for j in range(width):
            y[i, j] = (s[i, j] - centre) * scale * weight[j] + bias[j]
        mean[i], rstd[i] = centre, scale


@parallel
def _forward(x, r, weight, bias, eps, centred, s, y, mean, rstd, threads):
    # x, s and y (M, I), r (M, I) or (0, I), weight and bias (I,), mean and rstd (M,); s is x where there is no r
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        high = min(x.shape[0], (t + 1) * share)
        _rows(t * share, high, x, r, weight, bias, eps, centred, s, y, mean, rstd)


@serial
def _row_gradients(low, high, dy, ds, s, mean, rstd, weight, centred, dx, dweight, dbias):
    one, zero, width = dy.dtype.type(1), dy.dtype.type(0), dy.shape[1]
    part = one / dy.dtype.type(width)
    for i in range(low, high):
        centre, scale, total, product = mean[i], rstd[i], zero, zero
        for j in range(width):  # the sums of dx̂ and of dx̂ x̂
            g, normal = dy[i, j], (s[i, j] - centre) * scale
            total += g * weight[j]
            product += g * weight[j] * normal
            dweight[j] += g * normal
            dbias[j] += g
        total, product = total * part if centred else zero, product * part * scale
        if ds.size:
            for j in range(width):
                dx[i, j] = ds[i, j] + scale * (dy[i, j] * weight[j] - total - (s[i, j] - centre) * product)
        else:
            for j in range(width):
                dx[i, j] = scale * (dy[i, j] * weight[j] - total - (s[i, j] - centre) * product)


@parallel
def _backward(dy, ds, s, mean, rstd, weight, centred, partial, dx, dweight, dbias, threads):
    # dy, s and dx (M, I), ds (M, I) or (0, I), mean and rstd (M,), weight, dweight, dbias (I,), partial (threads, 2, I)
    share = -(-dy.shape[0] // threads)
    for t in prange(threads):
        partial[t] = 0
        high = min(dy.shape[0], (t + 1) * share)
        _row_gradients(t * share, high, dy, ds, s, mean, rstd, weight, centred, dx, partial[t, 0], partial[t, 1])
    dweight[:] = 0
    dbias[:] = 0
    for t in range(threads):
        add(partial[t, 0], dweight)
        add(partial[t, 1], dbias)


def _norm(
    b: CpuBackend,
    x: Array,
    r: Array | None,
    weight: Array | None,
    bias: Array | None,
    axes: int,
    eps: float | None,
    centred: bool,
) -> tuple[tuple[Array, Array], Any]:
    """s, which is x itself where there is no r, and y."""
    width, kind = prod(x.shape[x.ndim - axes :]), x.dtype
    shape = prod(x.shape[: x.ndim - axes]), width
    s, y = x if r is None else b.empty(x.shape, kind), b.empty(x.shape, kind)
    mean, rstd = b.empty(shape[:1], kind), b.empty(shape[:1], kind)
    weight = ones_unless(weight, width, kind)
    small = kind.type(np.finfo(kind).eps if eps is None else eps)
    b.launch(
        *(_forward, x.reshape(shape), none_of(kind).reshape(0, width) if r is None else r.reshape(shape)),
        *(weight, zeros_unless(bias, width, kind), small, centred, s.reshape(shape), y.reshape(shape), mean, rstd),
        cost=PASS * x.size,
    )
    return (s, y), (s, mean, rstd, weight, x.shape[x.ndim - axes :], centred)


def _gradients(b: CpuBackend, saved: Any, dy: Array, ds: Array | None, slots: Slots) -> tuple[Any, list[Array | None]]:
    """dx, which is None where the first slot does not want it, and the gradients of the other slots' arrays."""
    s, mean, rstd, weight, over, centred = saved
    shape, kind = (mean.size, weight.size), s.dtype
    dx = b.empty(s.shape, kind)
    affine = [b.out(slot, weight.reshape(over)) if slot.wanted else b.empty(over, kind) for slot in slots[1:]]
    affine += [b.empty(over, kind) for _ in range(2 - len(affine))]
    partial = b.empty((b.threads, 2, weight.size), kind)
    b.launch(
        *(_backward, dy.reshape(shape), none_of(kind).reshape(0, weight.size) if ds is None else ds.reshape(shape)),
        *(s.reshape(shape), mean, rstd, weight, centred, partial, dx.reshape(shape)),
        *(affine[0].reshape(-1), affine[1].reshape(-1)),
        cost=2 * PASS * s.size,
    )
    wanted = [each if slot.wanted else None for each, slot in zip(affine, slots[1:], strict=False)]
    return dx if slots[0].wanted else None, wanted


def layer_norm_forward(
    b: CpuBackend, x: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[Array, Any]:
    """As ops/sample_norm.py."""
    (_, y), saved = _norm(b, x, None, weight, bias, axes, eps, True)
    return y, saved


def rms_norm_forward(
    b: CpuBackend, x: Array, weight: Array | None, *, axes: int = 1, eps: float | None = None
) -> tuple[Array, Any]:
    """As ops/sample_norm.py."""
    (_, y), saved = _norm(b, x, None, weight, None, axes, eps, False)
    return y, saved


def norm_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As layer_norm_backward and rms_norm_backward in ops/sample_norm.py."""
    dx, affine = _gradients(b, saved, dy, None, slots)
    return dx, *affine


def add_layer_norm_forward(
    b: CpuBackend, x: Array, r: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[tuple[Array, Array], Any]:
    """As ops/add_norm.py."""
    return _norm(b, x, r, weight, bias, axes, eps, True)


def add_rms_norm_forward(
    b: CpuBackend, x: Array, r: Array, weight: Array | None, *, axes: int = 1, eps: float | None = None
) -> tuple[tuple[Array, Array], Any]:
    """As ops/add_norm.py."""
    return _norm(b, x, r, weight, None, axes, eps, False)


def add_norm_backward(b: CpuBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As add_layer_norm_backward and add_rms_norm_backward in ops/add_norm.py."""
    ds, dy = dys
    if dy is None:
        dy = zeros_unless(None, ds.size, ds.dtype).reshape(ds.shape)
    sum_slot = slots[0] if slots[0].wanted else slots[1]
    dx, affine = _gradients(b, saved, dy, ds, [sum_slot, *slots[2:]])
    return dx if slots[0].wanted else None, dx if slots[1].wanted else None, *affine


kernel(layer_norm, layer_norm_forward, norm_backward)
kernel(rms_norm, rms_norm_forward, norm_backward)
kernel(add_layer_norm, add_layer_norm_forward, add_norm_backward)
kernel(add_rms_norm, add_rms_norm_forward, add_norm_backward)
