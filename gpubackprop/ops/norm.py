"""Normalisation: by the statistics of the batch, of the past, or of each sample.

Ioffe and Szegedy 2015 (batch norm); Ba, Kiros and Hinton 2016 (layer norm). Letters: M values per channel, C channels.
"""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.errors import ShapeError
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
    mean = _channel_sum(b, x) / count
    y = x - mean
    var = _channel_sum(b, y, y) / count  # two passes: E[x²] − E[x]² would cancel
    rstd = 1.0 / b.xp.sqrt(var + eps)
    y *= rstd if weight is None else rstd * weight
    if bias is not None:
        y += bias
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
    centred = x - mean
    dbias = _channel_sum(b, dy)
    dweight = _channel_sum(b, dy, centred) * rstd
    dx = None
    if slots[0].wanted:
        scale = rstd if weight is None else rstd * weight
        centred *= rstd * scale * dweight / -count
        dx = dy * scale
        dx += centred
        dx -= scale * dbias / count
    return dx, dweight, dbias


def batch_norm_inference_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    """x (N, ..., C), the others (C,) -> y (N, ..., C) = (x − mean) / √(var + eps) weight + bias."""
    rstd = 1.0 / b.xp.sqrt(var + eps)
    y = x - mean
    y *= rstd if weight is None else rstd * weight
    if bias is not None:
        y += bias
    return y, (x, weight, mean, rstd)


def batch_norm_inference_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., C) -> dx, dweight (C,), dbias (C,); mean and var are constants."""
    x, weight, mean, rstd = saved
    dx = dy * (rstd if weight is None else rstd * weight) if slots[0].wanted else None
    dweight = _channel_sum(b, dy, x - mean) * rstd if slots[1].wanted else None
    dbias = _channel_sum(b, dy) if slots[2].wanted else None
    return dx, dweight, dbias, None, None


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


def layer_norm_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[Array, Any]:
    """x (N, ..., *S), weight and bias (*S) or None -> y (N, ..., *S), normalised over S, the last `axes` axes."""
    shape = x.shape[x.ndim - axes :]
    flat = x.reshape(-1, prod(shape))  # (M, I)
    y = flat - flat.mean(axis=1, keepdims=True)
    rstd = 1.0 / b.xp.sqrt((y * y).mean(axis=1, keepdims=True) + eps)
    y *= rstd
    normal = y
    if weight is not None:
        y = y * weight.reshape(-1)
    if bias is not None:
        y = y + bias.reshape(-1)
    return y.reshape(x.shape), (normal, weight, rstd, shape)


def layer_norm_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., *S) -> dx, dweight (*S), dbias (*S).

    With x̂ the normalised x and dx̂ = dy weight: dx = rstd (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)), means over S.
    """
    normal, weight, rstd, shape = saved
    flat = dy.reshape(normal.shape)
    dx = None
    if slots[0].wanted:
        dnormal = flat if weight is None else flat * weight.reshape(-1)
        dx = dnormal - dnormal.mean(axis=1, keepdims=True)
        dx -= normal * (dnormal * normal).mean(axis=1, keepdims=True)
        dx *= rstd
        dx = dx.reshape(dy.shape)
    dweight = (flat * normal).sum(axis=0).reshape(shape) if slots[1].wanted else None
    dbias = flat.sum(axis=0).reshape(shape) if slots[2].wanted else None
    return dx, dweight, dbias


def _channel_sum(b: Backend, x: Array, factor: Array | None = None) -> Array:
    """Sum of x, or of x · factor, both (N, ..., C), over all axes but the last: (C,)."""
    product = x if factor is None else x * factor
    # By sample first: sums of sums lose fewer digits than one long float32 sum.
    return product.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1]).sum(axis=1).sum(axis=0)


batch_norm = Op(batch_norm_forward, batch_norm_backward)
batch_norm_inference = Op(batch_norm_inference_forward, batch_norm_inference_backward)
layer_norm = Op(layer_norm_forward, layer_norm_backward)
