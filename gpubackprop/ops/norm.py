"""Normalisation by the statistics of the batch, or of the past (Ioffe and Szegedy 2015).

Letters: M values per channel, C channels. Norms by the statistics of each sample are in sample_norm.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.errors import ShapeError
from gpubackprop.ops.channels import across, channel_sum, rows_of
from gpubackprop.ops.sample_norm import group_norm_backward, group_norm_forward
from gpubackprop.ops.slices import at_once, slices
from gpubackprop.tape import Op, Slots


def batch_norm_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """x (N, ..., C), weight and bias (C,) or None -> y (N, ..., C), mean (C,), variance (C,) of the batch, biased.

    Mean and variance are what the running statistics are fed with; no gradient comes back through them. Raises
    ShapeError for a batch with a single value per channel: its variance says nothing.
    """
    count = prod(x.shape[:-1])
    if count == 1:
        raise ShapeError(
            f"batch norm in training needs more than one value per channel, got a batch of shape {x.shape}; "
            "use larger batches, or drop_last for a last batch of one sample"
        )
    rows = rows_of(x)
    mean = channel_sum(b, rows, x.shape[-1]) / count
    centre = across(b, mean, rows)
    squares = b.xp.zeros(mean.shape, x.dtype)
    for piece, scratch in _pieces(b, rows):
        b.xp.subtract(rows[piece], centre, out=scratch)
        scratch *= scratch
        squares += channel_sum(b, scratch, x.shape[-1])
    var = squares / count  # two passes: E[x²] − E[x]² would cancel
    rstd = 1.0 / b.xp.sqrt(var + eps)
    y = _normalised(b, rows, mean, rstd, weight, bias).reshape(x.shape)
    return (y, mean, var), (x, weight, mean, rstd)


def batch_norm_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., C) -> dx, dweight (C,), dbias (C,).

    With x̂ = (x − mean) rstd: dx = weight rstd (dy − mean(dy) − x̂ mean(dy x̂)).
    """
    dy, dmean, dvar = dys
    if dmean is not None or dvar is not None:
        raise NotImplementedError("the batch's mean and variance are for running statistics: they carry no gradient")
    x, weight, mean, rstd = saved
    count = prod(x.shape[:-1])
    rows, dy_rows = rows_of(x), rows_of(dy)
    dbias, dweight = _gradient_sums(b, rows, dy_rows, mean, rstd)
    affine = dweight if slots[1].wanted else None, dbias if slots[2].wanted else None
    if not slots[0].wanted:
        return None, *affine
    scale = rstd if weight is None else rstd * weight
    centre, scale_dy = across(b, mean, rows), across(b, scale, rows)
    scale_x = across(b, rstd * scale * dweight / -count, rows)
    shift = across(b, scale * dbias / -count, rows)
    dx = b.xp.empty(rows.shape, dy.dtype)
    for piece, scratch in _pieces(b, rows):
        b.xp.subtract(rows[piece], centre, out=scratch)
        scratch *= scale_x
        scratch += shift
        part = b.xp.multiply(dy_rows[piece], scale_dy, out=dx[piece])
        part += scratch
    return dx.reshape(x.shape), *affine


def masked_batch_norm_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, mask: Array, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    """x (N, T, ..., C), weight and bias (C,) or None, mask (N, T) -> y (N, T, ..., C): statistics are over the
    positions that the mask keeps, y is 0 at the others.

    Instance norm of a single sample that holds all positions of the batch.
    """
    kept = _wide(b, mask, x).reshape(1, -1)
    flat = x.reshape(1, kept.shape[1], x.shape[-1])
    y, saved = group_norm_forward(b, flat, weight, bias, kept, groups=x.shape[-1], eps=eps)
    return y.reshape(x.shape), saved


def masked_batch_norm_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, T, ..., C) -> dx, dweight (C,), dbias (C,): group norm's."""
    dx, *rest = group_norm_backward(b, saved, dy.reshape(1, -1, dy.shape[-1]), slots)
    return None if dx is None else dx.reshape(dy.shape), *rest


def batch_norm_inference_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    """x (N, ..., C), the others (C,) -> y (N, ..., C) = (x − mean) / √(var + eps) weight + bias."""
    rstd = 1.0 / b.xp.sqrt(var + eps)
    return _normalised(b, rows_of(x), mean, rstd, weight, bias).reshape(x.shape), (x, weight, mean, rstd)


def batch_norm_inference_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., C) -> dx, dweight (C,), dbias (C,); mean and var are constants."""
    x, weight, mean, rstd = saved
    dx = dy * (rstd if weight is None else rstd * weight) if slots[0].wanted else None
    if not (slots[1].wanted or slots[2].wanted):
        return dx, None, None, None, None
    dbias, dweight = _gradient_sums(b, rows_of(x), rows_of(dy), mean, rstd)
    return dx, dweight if slots[1].wanted else None, dbias if slots[2].wanted else None, None, None


def update_statistics(
    b: Backend,
    running_mean: Array,
    running_var: Array,
    tracked: Array,
    mean: Array,
    var: Array,
    count: int,
    momentum: float | None,
) -> None:
    """Move the running statistics (C,) towards the batch's, in place, and count the batch in `tracked` ().

    running = (1 − momentum) running + momentum new, the variance unbiased by count / (count − 1), as PyTorch; momentum
    None: the mean over all batches so far. An effect: the tape calls it once the step is known to count.
    """
    tracked += 1
    # On the device: reading the counter would wait for it.
    share = momentum if momentum is not None else (1.0 / tracked).astype(mean.dtype)
    running_mean += share * (mean - running_mean)
    running_var += share * (var * (count / (count - 1)) - running_var)


def update_masked_statistics(
    b: Backend,
    running_mean: Array,
    running_var: Array,
    tracked: Array,
    x: Array,
    mask: Array,
    momentum: float | None,
) -> None:
    """`update_statistics` by x (N, T, ..., C) where mask (N, T) keeps it; less than two positions change nothing."""
    x = b.cast(x, running_mean.dtype)
    kept = _wide(b, mask, x)[..., None]
    over, count = tuple(range(x.ndim - 1)), kept.sum().astype(x.dtype)
    some = count > 1  # one value has no variance
    mean = b.xp.where(kept, x, 0).sum(axis=over) / b.xp.maximum(count, 1)
    error = b.xp.where(kept, x - mean, 0)
    var = (error * error).sum(axis=over) / b.xp.maximum(count - 1, 1)
    tracked += some
    share = momentum if momentum is not None else (1.0 / b.xp.maximum(tracked, 1)).astype(x.dtype)
    running_mean += some * share * (mean - running_mean)
    running_var += some * share * (var - running_var)


def _wide(b: Backend, mask: Array, x: Array) -> Array:
    """mask (N, T) for all positions of x (N, T, ..., C): (N, T, ...)."""
    return b.xp.broadcast_to(mask.reshape(*mask.shape, *(1,) * (x.ndim - 1 - mask.ndim)), x.shape[:-1])


def _normalised(b: Backend, rows: Array, mean: Array, rstd: Array, weight: Array | None, bias: Array | None) -> Array:
    """rows (M, K), the others (C,) -> (rows − mean) rstd weight + bias, (M, K)."""
    centre, scale = across(b, mean, rows), across(b, rstd if weight is None else rstd * weight, rows)
    shift = None if bias is None else across(b, bias, rows)
    y = b.xp.empty(rows.shape, rows.dtype)
    for piece, _ in _pieces(b, rows):
        part = b.xp.subtract(rows[piece], centre, out=y[piece])
        part *= scale
        if shift is not None:
            part += shift
    return y


def _gradient_sums(b: Backend, rows: Array, dy: Array, mean: Array, rstd: Array) -> tuple[Array, Array]:
    """rows and dy (M, K), mean and rstd (C,) -> sum of dy and of dy x̂, (C,) each."""
    channels, centre = mean.shape[0], across(b, mean, rows)
    total, product = b.xp.zeros(mean.shape, dy.dtype), b.xp.zeros(mean.shape, dy.dtype)
    for piece, scratch in _pieces(b, rows):
        b.xp.subtract(rows[piece], centre, out=scratch)
        scratch *= dy[piece]
        product += channel_sum(b, scratch, channels)
        total += channel_sum(b, dy[piece], channels)
    product *= rstd
    return total, product


def _pieces(b: Backend, rows: Array) -> Iterator[tuple[slice, Array]]:
    """Slices of the rows, each with scratch memory of its shape, used again for the next."""
    m, k = rows.shape
    step = at_once(b, m, k * rows.dtype.itemsize)
    scratch = b.xp.empty((step, k), rows.dtype)
    return ((piece, scratch[: piece.stop - piece.start]) for piece in slices(m, step))


batch_norm = Op(batch_norm_forward, batch_norm_backward)
masked_batch_norm = Op(masked_batch_norm_forward, masked_batch_norm_backward)
batch_norm_inference = Op(batch_norm_inference_forward, batch_norm_inference_backward)
