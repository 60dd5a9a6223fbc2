"""Softmax over the last axis, and what the losses of classes share with it.

Exponentials run over whole blocks of rows, because a loop over one short row would end before it has filled a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.elementary import exp, of_rank, rank
from gpubackprop.kernels.cpu.jit import inline, parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rows_of, same_floats
from gpubackprop.ops.activation import log_softmax, softmax
from gpubackprop.tape import Op, Slots

BLOCK = 2048  # numbers that stay in the first cache from pass to pass
COST = 0.7  # nanoseconds for an element


def block_rows(columns: int) -> int:
    """How many rows are worked on at a time."""
    return max(1, BLOCK // max(1, columns))


@inline
def largest(row):
    """The largest of a row, a NaN if there is one."""
    top = rank(row[0])
    for j in range(row.size):
        each = rank(row[j])
        top = each if each > top else top
    return of_rank(top)


@serial
def shift(x, peaks, y):  # (R, V), (R,), (R, V)
    """y = x - the largest of the row, which goes to peaks."""
    for i in range(x.shape[0]):
        row, out = x[i], y[i]
        peak = largest(row)
        peaks[i] = peak
        for j in range(row.size):
            out[j] = row[j] - peak


@serial
def exponentials(y, totals):  # (R, V), (R,)
    """y = exp(y) in place, with the sums of its rows."""
    flat = y.reshape(-1)
    for k in range(flat.size):
        flat[k] = exp(flat[k])
    for i in range(y.shape[0]):
        out, total = y[i], y.dtype.type(0)
        for j in range(out.size):
            total += out[j]
        totals[i] = total


@serial
def _softmax_rows(x, y, peaks, totals):  # (R, V), (R, V), (R,), (R,)
    shift(x, peaks, y)
    exponentials(y, totals)
    for i in range(x.shape[0]):
        out, factor = y[i], y.dtype.type(1) / totals[i]
        for j in range(out.size):
            out[j] *= factor


@serial
def _log_softmax_rows(x, y, peaks, totals):
    shift(x, peaks, y)
    exponentials(y, totals)
    # The differences a second time, in two loops: in one, peak and logarithm would be added first, and that rounds.
    shift(x, peaks, y)
    for i in range(x.shape[0]):
        out, logarithm = y[i], np.log(totals[i])
        for j in range(out.size):
            out[j] -= logarithm


@serial
def _softmax_slopes(y, dy, dx):  # (R, V) all three
    for i in range(y.shape[0]):
        own, own_dy, out = y[i], dy[i], dx[i]
        total = y.dtype.type(0)
        for j in range(own.size):
            total += own[j] * own_dy[j]
        for j in range(own.size):
            out[j] = own[j] * (own_dy[j] - total)


@serial
def _log_softmax_slopes(y, dy, dx):
    for i in range(y.shape[0]):
        own, own_dy, out = y[i], dy[i], dx[i]
        total = y.dtype.type(0)
        for j in range(own.size):
            total += own_dy[j]
        for j in range(own.size):
            out[j] = own_dy[j] - exp(own[j]) * total


@parallel
def _softmax(x, y, scratch, logarithm, threads):  # (M, V), (M, V), (threads, 2, R)
    width, block = -(-x.shape[0] // threads), scratch.shape[2]
    for t in prange(threads):
        own, out = x[t * width : (t + 1) * width], y[t * width : (t + 1) * width]
        peaks, totals = scratch[t]
        for i in range(0, own.shape[0], block):
            if logarithm:
                _log_softmax_rows(own[i : i + block], out[i : i + block], peaks, totals)
            else:
                _softmax_rows(own[i : i + block], out[i : i + block], peaks, totals)


@parallel
def _softmax_backward(y, dy, dx, logarithm, threads):  # (M, V) all three
    width = -(-y.shape[0] // threads)
    for t in prange(threads):
        low, high = t * width, (t + 1) * width
        if logarithm:
            _log_softmax_slopes(y[low:high], dy[low:high], dx[low:high])
        else:
            _softmax_slopes(y[low:high], dy[low:high], dx[low:high])


def _last(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    x = arrays[0]
    return same_floats(arrays, options) and x.shape[-1] > 0 and options.get("axis", -1) in (-1, x.ndim - 1)


def _enter(op: Op, logarithm: bool) -> None:
    def forward(b: CpuBackend, x: Array, *, axis: int = -1) -> tuple[Array, Any]:
        y = b.empty(x.shape, x.dtype)
        scratch = b.empty((b.threads, 2, block_rows(x.shape[-1])), x.dtype)
        b.launch(_softmax, rows_of(x), rows_of(y), scratch, logarithm, cost=COST * x.size)
        return y, y

    def backward(b: CpuBackend, y: Array, dy: Array, slots: Slots) -> tuple[Array]:
        dx = b.empty(y.shape, y.dtype)
        b.launch(_softmax_backward, rows_of(y), rows_of(dy), rows_of(dx), logarithm, cost=COST * y.size)
        return (dx,)

    kernel(op, forward, backward, _last)


_enter(softmax, False)
_enter(log_softmax, True)
