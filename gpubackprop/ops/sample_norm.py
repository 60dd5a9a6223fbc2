"""Normalisation by the statistics of each sample: layer, RMS, group and instance norm.

Ba, Kiros and Hinton 2016 (layer norm); Zhang and Sennrich 2019 (RMS norm); Wu and He 2018 (group norm); Ulyanov,
Vedaldi and Lempitsky 2016 (instance norm). Letters: S the normalised axes, G groups, C channels, K = C / G of a group.
"""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def layer_norm_forward(
    b: Backend, x: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[Array, Any]:
    """x (N, ..., *S), weight and bias (*S) or None -> y (N, ..., *S), normalised over S, the last `axes` axes."""
    shape = x.shape[x.ndim - axes :]
    flat = x.reshape(-1, prod(shape))  # (M, I)
    normal = flat - flat.mean(axis=1, keepdims=True)
    rstd = 1.0 / b.xp.sqrt((normal * normal).mean(axis=1, keepdims=True) + eps)
    normal *= rstd
    return _affine(normal, weight, bias).reshape(x.shape), (normal, weight, rstd, shape)


def layer_norm_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., *S) -> dx, dweight (*S), dbias (*S).

    With x̂ the normalised x and dx̂ = dy weight: dx = rstd (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂)), means over S.
    """
    normal, weight, rstd, shape = saved
    flat = dy.reshape(normal.shape)
    dx = None
    if slots[0].wanted:
        dnormal = _affine(flat, weight, None)
        dx = dnormal - dnormal.mean(axis=1, keepdims=True)
        dx -= normal * (dnormal * normal).mean(axis=1, keepdims=True)
        dx *= rstd
        dx = dx.reshape(dy.shape)
    dweight = (flat * normal).sum(axis=0).reshape(shape) if slots[1].wanted else None
    dbias = flat.sum(axis=0).reshape(shape) if slots[2].wanted else None
    return dx, dweight, dbias


def rms_norm_forward(
    b: Backend, x: Array, weight: Array | None, *, axes: int = 1, eps: float | None = None
) -> tuple[Array, Any]:
    """x (N, ..., *S), weight (*S) or None -> y (N, ..., *S) = x / √(mean(x²) + eps) weight, the mean over S.

    S are the last `axes` axes. eps None: the dtype's rounding error, as PyTorch's.
    """
    shape = x.shape[x.ndim - axes :]
    flat = x.reshape(-1, prod(shape))  # (M, I)
    small = float(b.xp.finfo(x.dtype).eps) if eps is None else eps
    rstd = 1.0 / b.xp.sqrt((flat * flat).mean(axis=1, keepdims=True) + small)
    normal = flat * rstd
    return _affine(normal, weight, None).reshape(x.shape), (normal, weight, rstd, shape)


def rms_norm_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., *S) -> dx, dweight (*S); with dx̂ = dy weight: dx = rstd (dx̂ − x̂ mean(dx̂ x̂)), the mean over S."""
    normal, weight, rstd, shape = saved
    flat = dy.reshape(normal.shape)
    dx = None
    if slots[0].wanted:
        dnormal = _affine(flat, weight, None)
        dx = dnormal - normal * (dnormal * normal).mean(axis=1, keepdims=True)
        dx *= rstd
        dx = dx.reshape(dy.shape)
    dweight = (flat * normal).sum(axis=0).reshape(shape) if slots[1].wanted else None
    return dx, dweight


def group_norm_forward(
    b: Backend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mask: Array | None,
    *,
    groups: int,
    eps: float = 1e-5,
) -> tuple[Array, Any]:
    """x (N, ..., C), weight and bias (C,) or None -> y (N, ..., C), normalised over a group's channels and positions.

    mask (N, T) or None: the positions along the first axes of `...` that count; y is 0 at the others. As many groups as
    channels: instance norm.
    """
    channels = x.shape[-1]
    grouped = x.reshape(x.shape[0], prod(x.shape[1:-1]), groups, channels // groups)  # (N, P, G, K)
    share, kept = _shares(b, grouped, x.shape, mask)
    normal = grouped - (grouped * share).sum(axis=(1, 3), keepdims=True)
    rstd = 1.0 / b.xp.sqrt((normal * normal * share).sum(axis=(1, 3), keepdims=True) + eps)
    normal *= rstd
    if kept is not None:
        normal *= kept
    y = _affine(normal.reshape(x.shape), weight, bias)
    if kept is not None and bias is not None:
        y = (y.reshape(grouped.shape) * kept).reshape(x.shape)
    return y, (normal, weight, rstd, share, kept)


def group_norm_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., C) -> dx, dweight (C,), dbias (C,).

    As layer norm's, with means over the group and the positions that count.
    """
    normal, weight, rstd, share, kept = saved
    if kept is not None:
        dy = (dy.reshape(normal.shape) * kept).reshape(dy.shape)
    dx = None
    if slots[0].wanted:
        dnormal = _affine(dy, weight, None).reshape(normal.shape)
        mean = (dnormal * share).sum(axis=(1, 3), keepdims=True)
        dx = dnormal - (mean if kept is None else mean * kept)
        dx -= normal * (dnormal * normal * share).sum(axis=(1, 3), keepdims=True)
        dx *= rstd
        dx = dx.reshape(dy.shape)
    flat = dy.reshape(-1, dy.shape[-1])
    dweight = (flat * normal.reshape(flat.shape)).sum(axis=0) if slots[1].wanted else None
    dbias = flat.sum(axis=0) if slots[2].wanted else None
    return dx, dweight, dbias, None


def update_instance_statistics(
    b: Backend, running_mean: Array, running_var: Array, x: Array, mask: Array | None, momentum: float
) -> None:
    """Move the running statistics (C,) towards the mean over samples of those of x (N, ..., C), in place.

    The variance is unbiased, as PyTorch's. An effect: the tape calls it once the step is known to count.
    """
    x = b.cast(x, running_mean.dtype)
    grouped = x.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1], 1)
    share, kept = _shares(b, grouped, x.shape, mask)
    mean = (grouped * share).sum(axis=1, keepdims=True)
    var = ((grouped - mean) ** 2 * share).sum(axis=1, keepdims=True)
    if kept is None:
        var = var * (grouped.shape[1] / (grouped.shape[1] - 1))
    else:
        count = kept.sum(axis=1, keepdims=True)
        var = var * (count / b.xp.maximum(count - 1, 1))
    running_mean += momentum * (mean.mean(axis=0).reshape(-1) - running_mean)
    running_var += momentum * (var.mean(axis=0).reshape(-1) - running_var)


def _affine(x: Array, weight: Array | None, bias: Array | None) -> Array:
    """x (..., I) weight + bias, both of I numbers or None."""
    if weight is not None:
        x = x * weight.reshape(-1)
    return x if bias is None else x + bias.reshape(-1)


def _shares(b: Backend, grouped: Array, shape: tuple[int, ...], mask: Array | None) -> tuple[Any, Array | None]:
    """grouped (N, P, G, K) -> (what an element counts in a mean over P and K, the mask (N, P, 1, 1) or None)."""
    samples, positions, _, width = grouped.shape
    if mask is None:
        return 1.0 / max(positions * width, 1), None
    wide = mask.reshape(*mask.shape, *(1,) * (len(shape) - 1 - mask.ndim))
    kept = b.xp.broadcast_to(wide, shape[:-1]).reshape(samples, positions, 1, 1).astype(grouped.dtype)
    return kept / b.xp.maximum(kept.sum(axis=1, keepdims=True) * width, 1), kept


layer_norm = Op(layer_norm_forward, layer_norm_backward)
rms_norm = Op(rms_norm_forward, rms_norm_backward)
group_norm = Op(group_norm_forward, group_norm_backward)
