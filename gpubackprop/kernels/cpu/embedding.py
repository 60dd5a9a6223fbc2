"""Embeddings: rows copied, and gradients added where they came from, each thread in columns of its own.

So no two threads add to one number, and each number's sum has one order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.glue import LINE
from gpubackprop.kernels.cpu.jit import parallel, prange, serial, single
from gpubackprop.kernels.cpu.kernel import kernel, same_floats
from gpubackprop.ops.embedding import embedding
from gpubackprop.tape import Slots

NUMBER = 0.1  # nanoseconds that one number takes one thread, about


@serial
def _copy(a, target):
    for j in range(target.size):
        target[j] = a[j]


@serial
def _add(a, target):
    for j in range(target.size):
        target[j] += a[j]


@parallel
def _gather(x, weight, y, wrong, threads):  # (M,), (V, D), (M, D), (threads,)
    share = -(-x.size // threads)
    wrong[:] = False
    for t in prange(threads):
        for i in range(t * share, min((t + 1) * share, x.size)):
            if 0 <= x[i] < weight.shape[0]:
                _copy(weight[x[i]], y[i])
            else:
                wrong[t] = True


@single
def _check(wrong):  # apart: a loop that threads share cannot raise
    for t in range(wrong.size):
        if wrong[t]:
            raise IndexError("a number is no row of the embedding's table")


@parallel
def _scatter(x, dy, padding, dweight, threads):  # (M,), (M, D), row number or -1, (V, D)
    width = -(-dweight.shape[1] // (threads * LINE)) * LINE
    for t in prange(threads):
        low, high = t * width, min(dweight.shape[1], (t + 1) * width)
        if low < high:
            dweight[:, low:high] = 0
            for i in range(x.size):
                if x[i] != padding:
                    _add(dy[i, low:high], dweight[x[i], low:high])


def embedding_forward(b: CpuBackend, x: Array, weight: Array, *, padding_idx: int | None = None) -> tuple[Array, Any]:
    """As ops/embedding.py. Raises IndexError for a number that names no row."""
    y = b.empty((*x.shape, weight.shape[1]), weight.dtype)
    places = x.reshape(-1)
    wrong = b.empty((b.threads,), bool)
    b.launch(_gather, places, weight, y.reshape(places.size, -1), wrong, cost=NUMBER * y.size)
    b.launch(_check, wrong)
    return y, (places, weight, padding_idx)


def embedding_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/embedding.py."""
    x, weight, padding_idx = saved
    if not slots[1].wanted:
        return None, None
    dweight = b.out(slots[1], weight)
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]
    b.launch(_scatter, x, dy.reshape(x.size, -1), padding, dweight, cost=NUMBER * (dy.size + weight.size))
    return None, dweight


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whole numbers, and rows of one size."""
    x, weight = arrays
    return same_floats(arrays, options) and x.dtype == np.int64 and x.size > 0 and weight.shape[1] > 0


kernel(embedding, embedding_forward, embedding_backward, _fits)
