"""Gradient clipping, and the norm that it needs: as optim/clip.py, in one pass to sum and one to scale."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.glue import STREAM, part
from gpubackprop.kernels.cpu.jit import inline, parallel, prange, serial, single
from gpubackprop.kernels.cpu.kernel import rule
from gpubackprop.optim import clip

CHUNK = 8192  # numbers of one sum: the same whatever the number of threads, and few enough for float32


@serial
def _squares(x):
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i] * x[i]
    return total


@serial
def _scale(x, factor):
    for i in range(x.size):
        x[i] *= factor


@serial
def _limit(x, limit):
    for i in range(x.size):
        # Written so that a NaN fails both comparisons and stays.
        small = -limit if x[i] < -limit else x[i]
        x[i] = limit if small > limit else small


@inline
def _root(sums):  # (chunks,)
    total = 0.0
    for i in range(sums.size):
        total += sums[i]
    return np.sqrt(total)


@parallel
def _sum_squares(x, sums, threads):  # (P,), (chunks,) float64
    width = -(-sums.size // threads)
    for t in prange(threads):
        for c in range(t * width, min(sums.size, (t + 1) * width)):
            sums[c] = _squares(x[c * CHUNK : (c + 1) * CHUNK])


@parallel
def _clip_norm(x, sums, length, max_norm, threads):  # (P,), (chunks,), (1,), a number
    for t in prange(threads):
        norm = _root(sums)  # each thread for itself: cheaper than to wait for one another
        if t == 0:
            length[0] = norm
        factor = max_norm / (norm + 1e-6)
        if not factor >= 1:  # so that a NaN gets through
            low, high = part(x.size, threads, t)
            _scale(x[low:high], x.dtype.type(factor))


@parallel
def _clip_value(x, limit, threads):  # (P,), a number of its dtype
    for t in prange(threads):
        low, high = part(x.size, threads, t)
        _limit(x[low:high], limit)


@single
def _norm(sums, length):  # (chunks,), (1,)
    length[0] = _root(sums)


def _summed(b: CpuBackend, array: Array) -> Array:
    sums = b.empty((-(-array.size // CHUNK),), np.float64)
    b.launch(_sum_squares, array, sums, cost=STREAM * array.size)
    return sums


def norm(b: CpuBackend, array: Array) -> Array:
    """As optim/clip.py."""
    length = b.empty((), array.dtype)
    b.launch(_norm, _summed(b, b.contiguous(array)), length.reshape(1))
    return length


def clip_norm(b: CpuBackend, grad: Array, max_norm: float) -> Array:
    """As optim/clip.py."""
    length = b.empty((), grad.dtype)
    sums = _summed(b, grad)
    b.launch(_clip_norm, grad, sums, length.reshape(1), float(max_norm), cost=2 * STREAM * grad.size)
    return length


def clip_value(b: CpuBackend, grad: Array, limit: float) -> None:
    """As optim/clip.py."""
    b.launch(_clip_value, grad, grad.dtype.type(limit), cost=2 * STREAM * grad.size)


rule(clip.norm, norm)
rule(clip.clip_norm, clip_norm)
rule(clip.clip_value, clip_value)
