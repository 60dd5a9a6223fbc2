"""Losses as sums: every op gives (sum, weight), both of shape (), and the mean is sum / weight.

Sums add up over micro-batches and ranks, means do not. Weights have no gradient, nor do targets. `weight` and `mask`
belong to the samples or to positions in them, (N,) up to the loss's own shape: a masked or weightless element counts
neither in the sum nor in the weight.
"""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.activation import logistic
from gpubackprop.ops.totals import class_positions, element_weights, totals
from gpubackprop.tape import Op, Slots


def cross_entropy_forward(
    b: Backend,
    logits: Array,
    target: Array,
    class_weight: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[tuple[Array, Array], Any]:
    """logits (..., V), target (...) integers, class_weight (V,), weight and mask (N, ...) or None -> sum, weight.

    With smoothing ε each loss is (1 - ε) w_t (-log p_t) + ε/V Σ_c w_c (-log p_c), its weight w_t, as PyTorch does.
    """
    xp, classes = b.xp, logits.shape[-1]
    # (M,): from here on all positions stand in one axis.
    rows, flat = class_positions(xp, target, ignore_index, logits.dtype, weight, mask)
    shifted = (logits - logits.max(axis=-1, keepdims=True)).reshape(-1, classes)  # (M, V)
    p = xp.exp(shifted)
    total = p.sum(axis=-1, keepdims=True)
    p /= total
    log_total = xp.log(total[:, 0])
    true_weight = flat if class_weight is None else flat * class_weight[rows[1]]
    losses = (log_total - shifted[rows]) * true_weight * (1 - label_smoothing)
    if label_smoothing:
        per_class = shifted if class_weight is None else shifted * class_weight
        mass = classes if class_weight is None else class_weight.sum()
        losses += (log_total * mass - per_class.sum(axis=-1)) * flat * (label_smoothing / classes)
    saved = (p, rows, true_weight, flat, class_weight, label_smoothing, logits.shape)
    return totals(xp, losses, true_weight), saved


def cross_entropy_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dlogits = (1 - ε) w_t (p - onehot(t)) + ε/V (p Σ_c w_c - w), times d sum."""
    p, rows, true_weight, flat, class_weight, smoothing, shape = saved
    hit = true_weight * ((1 - smoothing) * dy[0])  # (M,)
    if not smoothing:
        dlogits = p * hit[:, None]
    else:
        spread = flat * (dy[0] * (smoothing / p.shape[-1]))
        mass = p.shape[-1] if class_weight is None else class_weight.sum()
        dlogits = p * (hit + spread * mass)[:, None]
        dlogits -= spread[:, None] if class_weight is None else spread[:, None] * class_weight
    dlogits[rows] -= hit  # every row once, so no index is repeated
    return dlogits.reshape(shape), None, None, None, None


def bce_with_logits_forward(
    b: Backend, x: Array, target: Array, pos_weight: Array | None, weight: Array | None, mask: Array | None
) -> tuple[tuple[Array, Array], Any]:
    """logits x (N, ...), target in [0, 1] of x's shape, pos_weight broadcast to it -> sum, weight.

    Each loss is -(pos_weight · t log σ(x) + (1 - t) log(1 - σ(x))), without overflow for large |x|.
    """
    xp = b.xp
    count = element_weights(xp, x.shape, x.dtype, weight, mask)
    target = target.astype(x.dtype)
    positive = 1.0 if pos_weight is None else target * (pos_weight - 1) + 1  # the weight of log(1 + e⁻ˣ)
    losses = xp.log1p(xp.exp(-xp.abs(x)))
    losses -= xp.minimum(x, 0)
    losses *= positive
    losses += (1 - target) * x
    losses *= count
    return totals(xp, losses, count), (x, target, positive, count)


def bce_with_logits_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx = ((1 - t) - (1 + (pos_weight - 1) t) σ(-x)) w d sum."""
    x, target, positive, count = saved
    dx = logistic(b.xp, -x)
    dx *= positive
    b.xp.subtract(1 - target, dx, out=dx)
    dx *= count * dy[0]
    return dx, None, None, None, None


def mse_forward(
    b: Backend, x: Array, target: Array, weight: Array | None, mask: Array | None
) -> tuple[tuple[Array, Array], Any]:
    """x (N, ...), target of x's shape -> sum of w (x - target)², weight."""
    count = element_weights(b.xp, x.shape, x.dtype, weight, mask)
    error = x - target.astype(x.dtype)
    return totals(b.xp, error * error * count, count), (error, count)


def mse_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx = 2 (x - target) w d sum."""
    error, count = saved
    return error * (count * (2 * dy[0])), None, None, None


def l1_forward(
    b: Backend, x: Array, target: Array, weight: Array | None, mask: Array | None
) -> tuple[tuple[Array, Array], Any]:
    """x (N, ...), target of x's shape -> sum of w |x - target|, weight."""
    count = element_weights(b.xp, x.shape, x.dtype, weight, mask)
    error = x - target.astype(x.dtype)
    return totals(b.xp, b.xp.abs(error) * count, count), (error, count)


def l1_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx = sign(x - target) w d sum; 0 where they are equal."""
    error, count = saved
    return b.xp.sign(error) * (count * dy[0]), None, None, None


def huber_forward(
    b: Backend, x: Array, target: Array, weight: Array | None, mask: Array | None, *, delta: float = 1.0
) -> tuple[tuple[Array, Array], Any]:
    """x (N, ...), target of x's shape -> sum of w ρ(x - target), weight; Huber 1964.

    ρ(e) = e²/2 where |e| ≤ delta, else delta (|e| - delta/2).
    """
    count = element_weights(b.xp, x.shape, x.dtype, weight, mask)
    error = x - target.astype(x.dtype)
    distance = b.xp.abs(error)
    inner = b.xp.minimum(distance, delta)
    return totals(b.xp, inner * (distance - 0.5 * inner) * count, count), (error, count, delta)


def huber_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx = the error clipped to ±delta, times w d sum."""
    error, count, delta = saved
    dx = b.xp.clip(error, -delta, delta)
    dx *= count * dy[0]
    return dx, None, None, None


def smooth_l1_forward(
    b: Backend, x: Array, target: Array, weight: Array | None, mask: Array | None, *, beta: float = 1.0
) -> tuple[tuple[Array, Array], Any]:
    """x (N, ...), target of x's shape -> sum of w ρ(x - target), weight; Girshick 2015.

    ρ(e) = e² / (2 beta) where |e| < beta, else |e| - beta / 2: huber's over beta, and |e| for beta 0.
    """
    count = element_weights(b.xp, x.shape, x.dtype, weight, mask)
    error = x - target.astype(x.dtype)
    losses = b.xp.abs(error)
    if beta:
        inner = b.xp.minimum(losses, beta)
        losses = inner * (losses - 0.5 * inner) / beta
    return totals(b.xp, losses * count, count), (error, count, beta)


def smooth_l1_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx = (x - target) / beta clipped to ±1, times w d sum."""
    error, count, beta = saved
    dx = b.xp.clip(error / beta, -1, 1) if beta else b.xp.sign(error)
    dx *= count * dy[0]
    return dx, None, None, None


def with_auxiliary_forward(
    b: Backend, total: Array, weight: Array, auxiliary: Array, *, samples: int
) -> tuple[Array, Any]:
    """total, weight (both of a loss) and auxiliary, all of shape () -> total + weight · auxiliary / samples.

    So that total / weight, the mean, grows by the mean of the auxiliary loss over the samples.
    """
    share = weight * (1 / max(samples, 1))
    return b.xp.asarray(total + share * auxiliary), share  # arrays, where NumPy gives scalars


def with_auxiliary_backward(b: Backend, share: Array, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dtotal = dy, dauxiliary = dy · weight / samples."""
    return dy, None, dy * share


with_auxiliary = Op(with_auxiliary_forward, with_auxiliary_backward)
cross_entropy = Op(cross_entropy_forward, cross_entropy_backward)
bce_with_logits = Op(bce_with_logits_forward, bce_with_logits_backward)
mse = Op(mse_forward, mse_backward)
l1 = Op(l1_forward, l1_backward)
huber = Op(huber_forward, huber_backward)
smooth_l1 = Op(smooth_l1_forward, smooth_l1_backward)
