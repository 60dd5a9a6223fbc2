"""More losses of classes, as (sum, weight) pairs: see ops/loss.py."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.activation import logistic
from gpubackprop.ops.totals import class_positions, element_weights, totals
from gpubackprop.tape import Op, Slots


def nll_forward(
    b: Backend,
    x: Array,
    target: Array,
    class_weight: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    ignore_index: int = -100,
) -> tuple[tuple[Array, Array], Any]:
    """Log-probabilities x (..., V), target (...) integers, class_weight (V,) -> sum of -w_t x_t, weight Σ w_t."""
    rows, count = class_positions(b.xp, target, ignore_index, x.dtype, weight, mask)
    if class_weight is not None:
        count = count * class_weight[rows[1]]
    losses = -x.reshape(-1, x.shape[-1])[rows] * count
    return totals(b.xp, losses, count), (rows, count, x.shape)


def nll_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx = -w_t d sum at the target, else 0."""
    rows, count, shape = saved
    dx = b.xp.zeros((rows[0].size, shape[-1]), count.dtype)
    dx[rows] = -count * dy[0]
    return dx.reshape(shape), None, None, None, None


def kl_div_forward(
    b: Backend, x: Array, target: Array, weight: Array | None, mask: Array | None, *, log_target: bool = False
) -> tuple[tuple[Array, Array], Any]:
    """Log-probabilities x (..., V), target of x's shape: probabilities or, by log_target, their logarithms.

    -> the sum over positions of w Σ_c t_c (log t_c - x_c), and of w: weight and mask belong to positions (...).
    """
    xp = b.xp
    count = element_weights(xp, x.shape[:-1], x.dtype, weight, mask)
    target = target.astype(x.dtype)
    share = xp.exp(target) if log_target else target
    logarithm = target if log_target else xp.log(xp.where(target > 0, target, 1))  # 0 log 0 = 0
    losses = (share * (logarithm - x)).sum(axis=-1) * count
    return totals(xp, losses, count), (share, count)


def kl_div_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx = -t w d sum."""
    share, count = saved
    return share * (count * -dy[0])[..., None], None, None, None


def focal_forward(
    b: Backend,
    logits: Array,
    target: Array,
    alpha: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    gamma: float = 2.0,
    ignore_index: int = -100,
) -> tuple[tuple[Array, Array], Any]:
    """logits (..., V), target (...) integers, alpha (V,) -> sum of -α_t (1 - p_t)^γ log p_t, weight; Lin et al. 2017.

    alpha does not enter the weight: the mean is over positions.
    """
    xp, classes = b.xp, logits.shape[-1]
    rows, count = class_positions(xp, target, ignore_index, logits.dtype, weight, mask)
    shifted = (logits - logits.max(axis=-1, keepdims=True)).reshape(-1, classes)  # (M, V)
    p = xp.exp(shifted)
    total = p.sum(axis=-1, keepdims=True)
    p /= total
    log_p = shifted[rows] - xp.log(total[:, 0])  # of the targets, (M,)
    rest = -xp.expm1(log_p)  # 1 - p_t
    hard = rest**gamma
    scale = count if alpha is None else count * alpha[rows[1]]
    return totals(xp, -log_p * hard * scale, count), (p, rows, log_p, rest, hard, scale, gamma, logits.shape)


def focal_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dlogits = α_t (γ p_t (1 - p_t)^(γ-1) log p_t - (1 - p_t)^γ) (onehot(t) - p) w d sum."""
    p, rows, log_p, rest, hard, scale, gamma, shape = saved
    # (1 - p)^(γ-1) log p as (1 - p)^γ times a quotient that stays finite where p comes to 1.
    quotient = log_p / b.xp.maximum(rest, b.xp.finfo(rest.dtype).tiny)
    slope = (gamma * p[rows] * quotient - 1) * hard * (scale * dy[0])  # by log p_t, (M,)
    dlogits = p * -slope[:, None]
    dlogits[rows] += slope
    return dlogits.reshape(shape), None, None, None, None


def binary_focal_forward(
    b: Backend,
    x: Array,
    target: Array,
    weight: Array | None,
    mask: Array | None,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> tuple[tuple[Array, Array], Any]:
    """logits x (N, ...), target 0 or 1 of x's shape -> sum of -α_t (1 - p_t)^γ log p_t, weight; Lin et al. 2017.

    α_t is alpha for positives and 1 - alpha for negatives; None: 1 for both.
    """
    xp = b.xp
    count = element_weights(xp, x.shape, x.dtype, weight, mask)
    positive = (target > 0.5).astype(x.dtype)
    sign = 2 * positive - 1
    z = x * sign  # the logit of being right
    rest = logistic(xp, -z)  # 1 - p_t
    scale = count if alpha is None else (positive * (2 * alpha - 1) + (1 - alpha)) * count
    surprise = xp.log1p(xp.exp(-xp.abs(z))) - xp.minimum(z, 0)  # -log p_t
    return totals(xp, rest**gamma * surprise * scale, count), (rest, surprise, sign, scale, gamma)


def binary_focal_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """With z = ±x: dz = α_t (1 - p)^γ (γ p log p - (1 - p)) w d sum."""
    rest, surprise, sign, scale, gamma = saved
    dx = rest**gamma
    dx *= -gamma * (1 - rest) * surprise - rest
    dx *= sign * (scale * dy[0])
    return dx, None, None, None


def hinge_forward(
    b: Backend,
    x: Array,
    target: Array,
    class_weight: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    p: int = 1,
    margin: float = 1.0,
    ignore_index: int = -100,
) -> tuple[tuple[Array, Array], Any]:
    """x (..., V), target (...) integers, class_weight (V,) -> sum, weight.

    Each loss is w_t/V Σ over the other classes of max(0, margin - x_t + x_c)^p.

    The multi-class hinge of Weston and Watkins 1999. class_weight does not enter the weight, as in PyTorch.
    """
    xp, classes = b.xp, x.shape[-1]
    rows, count = class_positions(xp, target, ignore_index, x.dtype, weight, mask)
    flat = x.reshape(-1, classes)
    over = xp.maximum(flat - flat[rows][:, None] + margin, 0)  # (M, V)
    over[rows] = 0
    scale = (count if class_weight is None else count * class_weight[rows[1]]) / classes
    losses = (over if p == 1 else over * over).sum(axis=-1) * scale
    return totals(xp, losses, count), (over, rows, scale, p, x.shape)


def hinge_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dx_c = w_t/V p max(0, …)^(p-1) d sum for the other classes; dx_t takes their sum away."""
    over, rows, scale, p, shape = saved
    dx = (over > 0).astype(over.dtype) if p == 1 else 2 * over
    dx *= (scale * dy[0])[:, None]
    dx[rows] = -dx.sum(axis=-1)
    return dx.reshape(shape), None, None, None, None


nll = Op(nll_forward, nll_backward)
kl_div = Op(kl_div_forward, kl_div_backward)
focal = Op(focal_forward, focal_backward)
binary_focal = Op(binary_focal_forward, binary_focal_backward)
hinge = Op(hinge_forward, hinge_backward)
