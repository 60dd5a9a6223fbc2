"""Losses of classes: a block of rows of logits at a time, of which only the row's largest and sum are kept.

The backward pass takes the exponentials again, which costs less than keeping the probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.constants import none_of
from gpubackprop.kernels.cpu.elementary import exp
from gpubackprop.kernels.cpu.jit import inline, parallel, prange, serial, single
from gpubackprop.kernels.cpu.kernel import kernel, rows_of, rule
from gpubackprop.kernels.cpu.softmax import BLOCK, COST, block_rows, exponentials, shift
from gpubackprop.kernels.cpu.totals import add_up, counts, positions_fit
from gpubackprop.ops.class_loss import nll
from gpubackprop.ops.loss import cross_entropy
from gpubackprop.ops.totals import only_classes
from gpubackprop.tape import Slots


@inline
def _position(i, target, class_weight, count, ignored, classes):
    """Of a position its class, its count, and both times the class's weight; NaN for a class that there is not.

    Class 0 stands in for an ignored one, counted 0 times, so that its NaN shows as in the reference.
    """
    c, each = np.int64(target[i]), class_weight.dtype.type(1)
    if count.size:
        each = count[i]
    if c == ignored:
        c, each = np.int64(0), class_weight.dtype.type(0)
    if c < 0 or c >= classes:
        c, each = np.int64(0), class_weight.dtype.type(np.nan)
    return c, each, each * class_weight[c] if class_weight.size else each


@inline
def _mass(class_weight, classes):
    """The sum of the classes' weights."""
    total = class_weight.dtype.type(0)
    for j in range(class_weight.size):
        total += class_weight[j]
    return total if class_weight.size else class_weight.dtype.type(classes)


@serial
def _losses(logits, target, class_weight, count, ignored, smoothing, peaks, totals, scratch, sums):
    # (R, V), (R,), (V,) or (0,), (R,) or (0,), and, written, (R,), (R,), (R, V); (2,) added to
    classes = logits.shape[1]
    one = logits.dtype.type(1)
    loss = weight = 0.0  # float64
    shift(logits, peaks, scratch)
    for i in range(logits.shape[0]):
        row = scratch[i]
        c, each, weighted = _position(i, target, class_weight, count, ignored, classes)
        loss -= row[c] * weighted * (one - smoothing)
        weight += weighted
        if smoothing > 0:
            total = logits.dtype.type(0)
            if class_weight.size:
                for j in range(classes):
                    total += row[j] * class_weight[j]
            else:
                for j in range(classes):
                    total += row[j]
            loss -= total * each * smoothing / logits.dtype.type(classes)
    exponentials(scratch, totals)
    mass = _mass(class_weight, classes) * smoothing / logits.dtype.type(classes)
    for i in range(logits.shape[0]):
        _, each, weighted = _position(i, target, class_weight, count, ignored, classes)
        loss += np.log(totals[i]) * (weighted * (one - smoothing) + each * mass)
    sums[0] += loss
    sums[1] += weight


@serial
def _slopes(logits, target, class_weight, count, ignored, smoothing, peaks, totals, dy, dx):
    # as _losses; dy (1,), and (R, V), written
    classes = logits.shape[1]
    one = logits.dtype.type(1)
    for i in range(logits.shape[0]):
        row, out, peak = logits[i], dx[i], peaks[i]
        for j in range(classes):
            out[j] = row[j] - peak
    flat = dx.reshape(-1)
    for k in range(flat.size):
        flat[k] = exp(flat[k])
    for i in range(logits.shape[0]):
        out = dx[i]
        c, each, weighted = _position(i, target, class_weight, count, ignored, classes)
        hit = weighted * (one - smoothing) * dy[0]
        spread = each * smoothing * dy[0] / logits.dtype.type(classes)
        if smoothing > 0:
            factor = (hit + spread * _mass(class_weight, classes)) / totals[i]
            if class_weight.size:
                for j in range(classes):
                    out[j] = out[j] * factor - spread * class_weight[j]
            else:
                for j in range(classes):
                    out[j] = out[j] * factor - spread
        else:
            factor = hit / totals[i]
            for j in range(classes):
                out[j] *= factor
        out[c] -= hit


@parallel
def _cross_entropy(
    logits, target, class_weight, count, ignored, smoothing, peaks, totals, scratch, partial, total, weight, threads
):  # (M, V), (M,), (V,) or (0,), (M,) or (0,), (M,), (M,), (threads, ·), (threads, 2), (1,), (1,)
    width, block = -(-logits.shape[0] // threads), scratch.shape[1] // logits.shape[1]
    for t in prange(threads):
        sums = partial[t]
        sums[:] = 0
        end = min(logits.shape[0], (t + 1) * width)
        for low in range(t * width, end, block):
            high = min(low + block, end)
            _losses(
                logits[low:high],
                target[low:high],
                class_weight,
                count[low:high],
                ignored,
                smoothing,
                peaks[low:high],
                totals[low:high],
                scratch[t, : (high - low) * logits.shape[1]].reshape((high - low, logits.shape[1])),
                sums,
            )
    add_up(partial, threads, total, weight)


@parallel
def _cross_entropy_backward(
    logits, target, class_weight, count, ignored, smoothing, peaks, totals, dy, dx, block, threads
):
    width = -(-logits.shape[0] // threads)
    for t in prange(threads):
        end = min(logits.shape[0], (t + 1) * width)
        for low in range(t * width, end, block):
            high = min(low + block, end)
            _slopes(
                logits[low:high],
                target[low:high],
                class_weight,
                count[low:high],
                ignored,
                smoothing,
                peaks[low:high],
                totals[low:high],
                dy,
                dx[low:high],
            )


def _flat(b: CpuBackend, x: Array, target: Array, class_weight: Any, weight: Any, mask: Any) -> tuple[Array, ...]:
    """What all loops take: logits (M, V), target (M,), class_weight (V,) or (0,), count (M,) or (0,)."""
    class_weight = none_of(x.dtype) if class_weight is None else class_weight
    return rows_of(x), target.reshape(-1), class_weight, counts(b, target.size, x.dtype, weight, mask)


def cross_entropy_forward(
    b: CpuBackend,
    logits: Array,
    target: Array,
    class_weight: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[tuple[Array, Array], Any]:
    """As ops/loss.py."""
    dtype = logits.dtype
    flat = _flat(b, logits, target, class_weight, weight, mask)
    peaks, totals = b.empty((target.size,), dtype), b.empty((target.size,), dtype)
    total, count = b.empty((), dtype), b.empty((), dtype)
    shared = (*flat, ignore_index, dtype.type(label_smoothing), peaks, totals)
    scratch = b.empty((b.threads, max(BLOCK, logits.shape[-1])), dtype)
    partial = b.empty((b.threads, 2), np.float64)
    arrays = (scratch, partial, total.reshape(1), count.reshape(1))
    b.launch(_cross_entropy, *shared, *arrays, cost=COST * logits.size)
    return (total, count), (shared, logits.shape)


def cross_entropy_backward(b: CpuBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """As ops/loss.py."""
    shared, shape = saved
    dx = b.empty(shape, shared[0].dtype)
    arrays = (dy[0].reshape(1), rows_of(dx), block_rows(shape[-1]))
    b.launch(_cross_entropy_backward, *shared, *arrays, cost=COST * dx.size)
    return dx, None, None, None, None


@parallel
def _nll(x, target, class_weight, count, ignored, partial, total, weight, threads):
    width = -(-x.shape[0] // threads)
    for t in prange(threads):
        own, own_target, own_count = (
            x[t * width : (t + 1) * width],
            target[t * width : (t + 1) * width],
            count[t * width : (t + 1) * width],
        )
        _picked(own, own_target, class_weight, own_count, ignored, partial[t])
    add_up(partial, threads, total, weight)


@serial
def _picked(x, target, class_weight, count, ignored, sums):
    loss = weight = 0.0
    for i in range(x.shape[0]):
        c, _, weighted = _position(i, target, class_weight, count, ignored, x.shape[1])
        loss -= x[i, c] * weighted
        weight += weighted
    sums[0] = loss
    sums[1] = weight


@parallel
def _nll_backward(target, class_weight, count, ignored, dy, dx, threads):
    width = -(-dx.shape[0] // threads)
    for t in prange(threads):
        for i in range(t * width, min(dx.shape[0], (t + 1) * width)):
            c, _, weighted = _position(i, target, class_weight, count, ignored, dx.shape[1])
            row = dx[i]
            row[:] = 0
            row[c] = -weighted * dy[0]


def nll_forward(
    b: CpuBackend,
    x: Array,
    target: Array,
    class_weight: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    ignore_index: int = -100,
) -> tuple[tuple[Array, Array], Any]:
    """As ops/class_loss.py."""
    rows, *rest = _flat(b, x, target, class_weight, weight, mask)
    total, count, partial = b.empty((), x.dtype), b.empty((), x.dtype), b.empty((b.threads, 2), np.float64)
    arrays = (partial, total.reshape(1), count.reshape(1))
    b.launch(_nll, rows, *rest, ignore_index, *arrays, cost=5.0 * target.size)
    return (total, count), (rest, ignore_index, x.shape, x.dtype)


def nll_backward(b: CpuBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """As ops/class_loss.py."""
    rest, ignore_index, shape, dtype = saved
    dx = b.empty(shape, dtype)
    b.launch(_nll_backward, *rest, ignore_index, dy[0].reshape(1), rows_of(dx), cost=0.1 * dx.size)
    return dx, None, None, None, None


@single
def _only_classes(target, classes, ignored):  # (M,)
    for i in range(target.size):
        if (target[i] < 0 or target[i] >= classes) and target[i] != ignored:
            raise IndexError("a target is none of the classes")


def check_classes(b: CpuBackend, target: Array, classes: int, ignore_index: int) -> None:
    """As ops/totals.py; in a replayed step too, which begins anew without it then."""
    b.launch(_only_classes, b.contiguous(target).reshape(-1), classes, ignore_index)


rule(only_classes, check_classes)
kernel(nll, nll_forward, nll_backward, positions_fit)
kernel(cross_entropy, cross_entropy_forward, cross_entropy_backward, positions_fit)
