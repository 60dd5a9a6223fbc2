"""Connectionist temporal classification, in log space; Graves et al. 2006.

A sample's target of L labels becomes K = 2 L + 1 symbols, with a blank before, between and after them. An alignment is
a path through them: at each time it stays, goes on by one, or by two where that skips a blank between two different
labels. alpha sums the probabilities of all paths up to (t, k), beta of those from there on.
"""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.activation import log_softmax_forward
from gpubackprop.ops.totals import element_weights, totals
from gpubackprop.tape import Op, Slots

NEVER = -1e30  # the logarithm of probability 0: finite, since differences of infinities are no numbers


def ctc_forward(
    b: Backend,
    logits: Array,
    target: Array,
    lengths: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[tuple[Array, Array], Any]:
    """logits (N, T, V), target (N, S) integers, negative behind the last label, lengths (N,) of the logits or None: T.

    -> the sum of w_n loss_n / L_n and of w_n, where loss_n is -log of the probability of the target, infinite where it
    does not fit into the time, 0 then by zero_infinity. weight and mask are (N,). An empty target is divided by 1.
    """
    xp, (samples, time, _) = b.xp, logits.shape
    log_p, _ = log_softmax_forward(b, logits)
    labels, skips, count = _symbols(xp, target, blank)
    emissions = xp.take_along_axis(log_p, xp.broadcast_to(labels[:, None], (samples, time, labels.shape[1])), axis=2)
    alpha = _sums(xp, emissions, skips)
    lengths = xp.full(samples, time) if lengths is None else lengths.astype(xp.int64)
    # Read where the sample ends: in its last label, or in the blank behind it.
    at = xp.maximum(lengths - 1, 0)[:, None, None]
    final = xp.take_along_axis(alpha, xp.broadcast_to(at, (samples, 1, alpha.shape[2])), axis=1)[:, 0]
    last = 2 * count[:, None]
    in_blank = xp.take_along_axis(final, last, axis=1)[:, 0]
    in_label = xp.take_along_axis(final, xp.maximum(last - 1, 0), axis=1)[:, 0]
    total = _log_add(xp, in_blank, xp.where(count > 0, in_label, NEVER))
    total = xp.where(lengths > 0, total, xp.where(count > 0, NEVER, 0)).astype(logits.dtype)

    possible = total > NEVER / 2
    given = xp.broadcast_to(element_weights(xp, (samples,), logits.dtype, weight, mask), (samples,))
    losses = xp.where(possible, -total, 0 if zero_infinity else xp.inf)
    share = given / xp.maximum(count, 1).astype(logits.dtype)
    sums = totals(xp, xp.where(given > 0, losses, 0) * share, given)
    return sums, (log_p, labels, skips, emissions, alpha, total, lengths, last, share * possible)


def ctc_backward(b: Backend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """dlogits = softmax - the probability of being at each class at that time, given the target; times w d sum / L."""
    log_p, labels, skips, emissions, alpha, total, lengths, last, share = saved
    xp, (_, time, classes) = b.xp, log_p.shape
    symbols = xp.arange(labels.shape[1])
    ends = (symbols == last) | (symbols == last - 1)  # (N, K)
    beta = _sums_back(xp, emissions, skips, ends, lengths)
    inside = (xp.arange(time) < lengths[:, None])[:, :, None]  # (N, T, 1)
    here = xp.exp(xp.where(inside, xp.minimum(alpha + beta - total[:, None, None], 0), NEVER))  # (N, T, K)
    one_hot = (labels[:, :, None] == xp.arange(classes)).astype(log_p.dtype)
    dlogits = xp.exp(log_p) * inside
    dlogits -= b.matmul(here, one_hot)
    dlogits *= (share * dy[0])[:, None, None]
    return dlogits, None, None, None, None


def _symbols(xp: Any, target: Array, blank: int) -> tuple[Array, Array, Array]:
    """target (N, S) -> symbols (N, K), whether a path may skip what stands before each (N, K), labels each has (N,)."""
    target = target.astype(xp.int64)
    samples, width = target.shape
    real = target >= 0
    labels = xp.full((samples, 2 * width + 1), blank, xp.int64)
    labels[:, 1::2] = xp.where(real, target, blank)
    before = xp.concatenate([xp.full((samples, min(2, 2 * width + 1)), blank, xp.int64), labels[:, :-2]], axis=1)
    return labels, (labels != blank) & (labels != before), real.sum(axis=1)


def _sums(xp: Any, emissions: Array, skips: Array) -> Array:
    """alpha (N, T, K): log of the sum over all paths that end in symbol k at time t, its own emission included."""
    start = xp.arange(emissions.shape[2]) < 2
    row = xp.where(start, emissions[:, 0], NEVER)
    alpha = xp.empty_like(emissions)
    alpha[:, 0] = row
    for t in range(1, emissions.shape[1]):
        row = _log_add(xp, row, _shift(xp, row, 1), xp.where(skips, _shift(xp, row, 2), NEVER)) + emissions[:, t]
        alpha[:, t] = row
    return alpha


def _sums_back(xp: Any, emissions: Array, skips: Array, ends: Array, lengths: Array) -> Array:
    """beta (N, T, K): log of the sum over all paths from (t, k) to an end, its own emission not included."""
    end = xp.where(ends, 0, NEVER).astype(emissions.dtype)
    row, beta = end, xp.empty_like(emissions)
    beta[:, -1] = end
    for t in range(emissions.shape[1] - 2, -1, -1):
        ahead = row + emissions[:, t + 1]
        skipped = _shift(xp, xp.where(skips, ahead, NEVER), -2)
        row = _log_add(xp, ahead, _shift(xp, ahead, -1), skipped)
        row = xp.where((lengths - 1 == t)[:, None], end, row)
        beta[:, t] = row
    return beta


def _shift(xp: Any, row: Array, by: int) -> Array:
    """row (N, K) moved along K, NEVER coming in."""
    edge = xp.full((row.shape[0], min(abs(by), row.shape[1])), NEVER, row.dtype)
    return xp.concatenate([edge, row[:, :-by]] if by > 0 else [row[:, -by:], edge], axis=1)


def _log_add(xp: Any, *logs: Array) -> Array:
    """log Σ exp, elementwise."""
    top = logs[0]
    for each in logs[1:]:
        top = xp.maximum(top, each)
    return top + xp.log(sum(xp.exp(each - top) for each in logs))


ctc = Op(ctc_forward, ctc_backward)
