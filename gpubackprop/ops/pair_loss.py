"""Losses of distances between the vectors of a pair or a triplet, as (sum, weight) pairs: see ops/loss.py."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.totals import element_weights, totals
from gpubackprop.tape import Op, Slots

NEVER = -1e30  # the logit of what is no candidate
EPS = 1e-12  # of PyTorch's cosine_embedding_loss and normalize


def cosine_embedding_forward(
    b: Backend, x: Array, target: Array, weight: Array | None, mask: Array | None, *, margin: float = 0.0
) -> tuple[tuple[Array, Array], Any]:
    """x (..., 2, D), target (...) 1 or -1 -> sum of 1 - cos where 1, max(0, cos - margin) where -1, and weight."""
    xp = b.xp
    count = element_weights(xp, x.shape[:-2], x.dtype, weight, mask)
    squares = (x * x).sum(axis=-1) + EPS  # (..., 2)
    root = xp.sqrt(squares[..., 0] * squares[..., 1])
    cosine = (x[..., 0, :] * x[..., 1, :]).sum(axis=-1) / root
    alike, different = target > 0, target < 0
    losses = alike * (1 - cosine) + different * xp.maximum(cosine - margin, 0)
    slope = (different & (cosine > margin)).astype(x.dtype) - alike
    return totals(xp, losses * count, count), (x, squares, root, cosine, slope * count)


def cosine_embedding_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dcos/da = c / (|a| |c|) - a cos / |a|², and the same with a and c exchanged."""
    x, squares, root, cosine, slope = saved
    slope = (slope * dy[0])[..., None, None]
    dx = b.xp.flip(x, axis=-2) / root[..., None, None]
    dx -= x * (cosine[..., None] / squares)[..., None]
    return dx * slope, None, None, None


def contrastive_forward(
    b: Backend, x: Array, target: Array, weight: Array | None, mask: Array | None, *, margin: float = 1.0
) -> tuple[tuple[Array, Array], Any]:
    """x (..., 2, D), target (...) 0 alike, 1 different -> sum of (1 - t) d²/2 + t max(0, margin - d)²/2, weight.

    d is the Euclidean distance; Hadsell, Chopra and LeCun 2006.
    """
    count = element_weights(b.xp, x.shape[:-2], x.dtype, weight, mask)
    target = target.astype(x.dtype)
    error = x[..., 0, :] - x[..., 1, :]
    distance = b.xp.sqrt((error * error).sum(axis=-1))
    missing = b.xp.maximum(margin - distance, 0)
    losses = 0.5 * ((1 - target) * distance * distance + target * missing * missing)
    return totals(b.xp, losses * count, count), (error, distance, missing, target, count)


def contrastive_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """da = (1 - t) (a - c) - t max(0, margin - d) (a - c) / d, dc = -da."""
    error, distance, missing, target, count = saved
    away = target * missing / b.xp.where(distance > 0, distance, 1)
    da = error * ((1 - target - away) * (count * dy[0]))[..., None]
    return b.xp.stack([da, -da], axis=-2), None, None, None


def triplet_forward(
    b: Backend,
    x: Array,
    weight: Array | None,
    mask: Array | None,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> tuple[tuple[Array, Array], Any]:
    """x (..., 3, D): anchor a, positive c, negative n -> sum of max(0, margin + d(a, c) - d(a, n)), weight.

    d(u, v) = ‖u - v + eps‖_p. swap: the smaller of d(a, n) and d(c, n), Balntas et al. 2016.
    """
    xp = b.xp
    count = element_weights(xp, x.shape[:-2], x.dtype, weight, mask)
    anchor, positive, negative = x[..., 0, :], x[..., 1, :], x[..., 2, :]
    errors = [anchor - positive + eps, anchor - negative + eps, positive - negative + eps]
    near, far, other = distances = [_norm(xp, error, p) for error in errors]
    swapped = (other < far) if swap else xp.zeros(far.shape, bool)
    losses = xp.maximum(margin + near - xp.where(swapped, other, far), 0)
    return totals(xp, losses * count, count), (errors, distances, swapped, (losses > 0) * count, p)


def triplet_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """Where the loss is above 0: the slope of d(a, c) less that of d(a, n), or of d(c, n) where swapped."""
    errors, distances, swapped, active, p = saved
    active = active * dy[0]
    scales = active, active * ~swapped, active * swapped
    near, far, other = (
        _norm_slope(b.xp, error, distance, p) * scale[..., None]
        for error, distance, scale in zip(errors, distances, scales, strict=True)
    )
    return b.xp.stack([near - far, -near - other, far + other], axis=-2), None, None


def info_nce_forward(
    b: Backend, x: Array, weight: Array | None, mask: Array | None, *, temperature: float = 0.5
) -> tuple[tuple[Array, Array], Any]:
    """x (N, 2, D), two views of each sample -> sum over the 2N views of the cross entropy of finding the partner.

    The logits of a view are its cosines with all other views, over the temperature: NT-Xent, Chen et al. 2020. Samples
    of weight 0 are no candidates either.
    """
    xp, samples = b.xp, x.shape[0]
    views = x.swapaxes(0, 1).reshape(2 * samples, x.shape[-1])
    count = xp.broadcast_to(element_weights(xp, (samples,), x.dtype, weight, mask), (2, samples)).reshape(-1)
    norm = xp.maximum(xp.sqrt((views * views).sum(axis=-1, keepdims=True)), EPS)
    z = views / norm
    logits = b.matmul(z, z.T)
    logits /= temperature
    # Finite, so that a view whose candidates are all left out gives numbers, of weight 0.
    logits = xp.where(xp.eye(2 * samples, dtype=bool) | (count == 0), NEVER, logits).astype(x.dtype)
    every = xp.arange(2 * samples)
    rows = every, xp.roll(every, samples)
    lowest = xp.full((2 * samples, 1), NEVER, x.dtype)  # an empty batch has no largest logit
    logits -= xp.concatenate([logits, lowest], axis=1).max(axis=-1, keepdims=True)
    share = xp.exp(logits)
    total = share.sum(axis=-1, keepdims=True)
    share /= total
    losses = (xp.log(total[:, 0]) - logits[rows]) * (count != 0)
    return totals(xp, losses * count, count), (z, norm, share, rows, count, temperature)


def info_nce_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """With g = (softmax - onehot(partner)) w / temperature: dz = (g + gᵀ) z, dx = (dz - z (z · dz)) / ‖x‖."""
    z, norm, share, rows, count, temperature = saved
    scale = count * (dy[0] / temperature)
    g = share * scale[:, None]
    g[rows] -= scale
    dz = b.matmul(g + g.T, z)
    dz -= z * (z * dz).sum(axis=-1, keepdims=True)
    dz /= norm
    return dz.reshape(2, len(z) // 2, z.shape[-1]).swapaxes(0, 1), None, None


def _norm(xp: Any, error: Array, p: float) -> Array:
    """error (..., D) -> ‖error‖_p (...)."""
    if p == 2:
        return xp.sqrt((error * error).sum(axis=-1))
    size = xp.abs(error)
    return size.sum(axis=-1) if p == 1 else (size**p).sum(axis=-1) ** (1 / p)


def _norm_slope(xp: Any, error: Array, norm: Array, p: float) -> Array:
    """d‖error‖_p / d error (..., D); 0 where the norm is 0."""
    if p == 1:
        return xp.sign(error)
    share = error / xp.where(norm > 0, norm, 1)[..., None]
    return share if p == 2 else xp.sign(share) * xp.abs(share) ** (p - 1)


cosine_embedding = Op(cosine_embedding_forward, cosine_embedding_backward)
contrastive = Op(contrastive_forward, contrastive_backward)
triplet = Op(triplet_forward, triplet_backward)
info_nce = Op(info_nce_forward, info_nce_backward)
