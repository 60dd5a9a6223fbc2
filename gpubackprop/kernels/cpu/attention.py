"""Attention: one thread does a head of a sample, some queries at a time, so that their scores stay in its cache.

The scores are never stored: the backward pass multiplies q kᵀ again and takes from the forward pass only the largest
score of each query and the sum of the exponentials (Dao et al. 2022). Under a causal mask the products stop at the last
key that any of the block's queries sees.

All of q, k, v, y and their gradients are (rows, parts, heads, D): queries, keys and values that one projection made lie
side by side, (N T, 3, h, D), and are read and written there; those that come apart are (N h T, 1, 1, D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.blas import gemm
from gpubackprop.kernels.cpu.elementary import exp, larger
from gpubackprop.kernels.cpu.jit import inline, parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, same_floats
from gpubackprop.ops.attention import scaled_dot_product_attention, self_attention
from gpubackprop.tape import Slots

BLOCK = 64  # queries
FLOP = 0.014  # nanoseconds that a multiply-add takes one thread, about


@inline
def _rows(x, part, pair, heads, length):  # (rows, parts, heads or 1, D) -> (length, D) of a pair of sample and head
    start = (pair // heads * (heads // x.shape[2]) + pair % heads // x.shape[2]) * length
    return x[start : start + length, min(part, x.shape[1] - 1), pair % x.shape[2]]


@inline
def _row(x, part, pair, heads, length, i):  # row i of _rows, known to be contiguous
    start = (pair // heads * (heads // x.shape[2]) + pair % heads // x.shape[2]) * length
    return x[start + i, min(part, x.shape[1] - 1), pair % x.shape[2]]


@inline
def _limit(i, queries, keys, causal):  # how many keys query i sees
    return min(keys, max(i + 1 + keys - queries, 0)) if causal else keys


@serial
def _hide(scores, seen):  # a NaN stays one
    for j in range(scores.size):
        scores[j] = scores[j] if seen[j] else scores[j] + scores.dtype.type(-np.inf)


@serial
def _largest(scores):
    largest = scores[0]
    for j in range(scores.size):
        largest = larger(largest, scores[j])
    return largest


@serial
def _exponentials(scores, largest, scale):  # in place; their sum
    total = scores.dtype.type(0)
    for j in range(scores.size):
        scores[j] = exp((scores[j] - largest) * scale)
        total += scores[j]
    return total


@serial
def _clear(a):
    for j in range(a.size):
        a[j] = 0


@serial
def _clear_hidden(a, seen):
    for j in range(a.size):
        a[j] = a[j] if seen[j] else a[j] * a.dtype.type(0)


@serial
def _sum(a):
    total = a.dtype.type(0)
    for j in range(a.size):
        total += a[j]
    return total


@serial
def _multiply(a, factor):
    for j in range(a.size):
        a[j] *= factor


@serial
def _product_sum(a, c):
    total = a.dtype.type(0)
    for j in range(a.size):
        total += a[j] * c[j]
    return total


@serial
def _score_gradients(p, dp, largest, share, delta, scale):  # scores become weights, dp becomes ds
    for j in range(p.size):
        p[j] = exp((p[j] - largest) * scale) * share
        dp[j] = p[j] * (dp[j] - delta) * scale


@parallel
def _forward(q, k, v, seen, y, stats, scratch, heads, queries, keys, causal, scale, threads):
    pairs = stats.shape[0]
    share = -(-pairs // threads)
    for t in prange(threads):
        for pair in range(t * share, min(pairs, (t + 1) * share)):
            qs, ks = _rows(q, 0, pair, heads, queries), _rows(k, 1, pair, heads, keys)
            vs, ys = _rows(v, 2, pair, heads, keys), _rows(y, 0, pair, heads, queries)
            for low in range(0, queries, BLOCK):
                high = min(low + BLOCK, queries)
                wide = _limit(high - 1, queries, keys, causal)
                scores = scratch[t, 0, : high - low, :wide]
                if wide:
                    gemm(qs[low:high], False, ks[:wide], True, scores, False)
                for i in range(low, high):
                    limit = _limit(i, queries, keys, causal)
                    row = scratch[t, 0, i - low, :limit]
                    _clear(scratch[t, 0, i - low, limit:wide])
                    if not limit:
                        stats[pair, i, 0] = 0
                        stats[pair, i, 1] = 0 * _sum(_row(q, 0, pair, heads, queries, i))  # but for a NaN, 0
                    else:
                        hidden = seen[pair // heads, :limit]
                        if seen.size:
                            _hide(row, hidden)
                        largest = _largest(row)
                        largest = largest if largest != -np.inf else q.dtype.type(0)  # all are hidden
                        total = _exponentials(row, largest, scale)
                        if seen.size:
                            _clear_hidden(row, hidden)
                            total = _sum(row)
                        stats[pair, i, 0] = largest
                        stats[pair, i, 1] = 0 if total == 0 else 1 / total
                if wide:
                    gemm(scores, False, vs[:wide], False, ys[low:high], False)
                for i in range(low, high):
                    row = _row(y, 0, pair, heads, queries, i)
                    if not wide:
                        row[:] = 1
                    _multiply(row, stats[pair, i, 1])


@parallel
def _backward(q, k, v, seen, y, stats, dy, dq, dk, dv, scratch, heads, queries, keys, causal, scale, threads):
    pairs = stats.shape[0]
    share = -(-pairs // threads)
    for t in prange(threads):
        for pair in range(t * share, min(pairs, (t + 1) * share)):
            qs, ks = _rows(q, 0, pair, heads, queries), _rows(k, 1, pair, heads, keys)
            vs, dys = _rows(v, 2, pair, heads, keys), _rows(dy, 0, pair, heads, queries)
            dqs, dks = _rows(dq, 0, pair, heads, queries), _rows(dk, 1, pair, heads, keys)
            dvs = _rows(dv, 2, pair, heads, keys)
            # The last block sees all keys: it writes all of dk and dv, the others add.
            for high in range(queries, 0, -BLOCK):
                low = max(high - BLOCK, 0)
                wide = _limit(high - 1, queries, keys, causal)
                if not wide:
                    for i in range(low, high):
                        _clear(_row(dq, 0, pair, heads, queries, i))
                    continue
                p, ds = scratch[t, 0, : high - low, :wide], scratch[t, 1, : high - low, :wide]
                gemm(qs[low:high], False, ks[:wide], True, p, False)
                gemm(dys[low:high], False, vs[:wide], True, ds, False)
                for i in range(low, high):
                    limit = _limit(i, queries, keys, causal)
                    weights, slopes = scratch[t, 0, i - low, :limit], scratch[t, 1, i - low, :limit]
                    delta = _product_sum(_row(y, 0, pair, heads, queries, i), _row(dy, 0, pair, heads, queries, i))
                    if seen.size:
                        _hide(weights, seen[pair // heads, :limit])
                    _score_gradients(weights, slopes, stats[pair, i, 0], stats[pair, i, 1], delta, scale)
                    if seen.size:
                        _clear_hidden(weights, seen[pair // heads, :limit])
                        _clear_hidden(slopes, seen[pair // heads, :limit])
                    _clear(scratch[t, 0, i - low, limit:wide])
                    _clear(scratch[t, 1, i - low, limit:wide])
                more = high < queries
                gemm(p, True, dys[low:high], False, dvs[:wide], more)
                gemm(ds, True, qs[low:high], False, dks[:wide], more)
                gemm(ds, False, ks[:wide], False, dqs[low:high], False)


def _attend(
    b: CpuBackend, q: Array, k: Array, v: Array, mask: Array | None, y: Array, sizes: tuple[int, ...], scale: float
) -> Any:
    """Launch `_forward` on arrays (rows, parts, heads, D); sizes: N, h, T, S, causal. Gives what `_gradients` needs."""
    n, heads, queries, keys, causal = sizes
    seen = b.empty((n, 0), bool) if mask is None else mask
    stats = b.empty((n * heads, queries, 2), q.dtype)
    scratch = b.empty((b.threads, 1, min(queries, BLOCK), keys), q.dtype)
    args = (heads, queries, keys, causal, q.dtype.type(scale))
    cost = FLOP * n * heads * queries * keys * (q.shape[3] + v.shape[3])
    b.launch(_forward, q, k, v, seen, y, stats, scratch, *args, cost=cost)
    return (q, k, v, seen, y, stats), args, cost


def _gradients(b: CpuBackend, saved: Any, dy: Array, dq: Array, dk: Array, dv: Array) -> None:
    arrays, args, cost = saved
    queries, keys = args[1:3]
    scratch = b.empty((b.threads, 2, min(queries, BLOCK), keys), dy.dtype)
    b.launch(_backward, *arrays, dy, dq, dk, dv, scratch, *args, cost=2.5 * cost)


def scaled_dot_product_attention_forward(
    b: CpuBackend,
    q: Array,
    k: Array,
    v: Array,
    key_mask: Array | None = None,
    samples: Array | None = None,
    step: int | Array = 0,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    stream: int = 0,
) -> tuple[Array, Any]:
    """As ops/attention.py, without dropout."""
    n, h, t, d = q.shape
    # Heads side by side in memory, so that merging them costs nothing.
    y = b.empty((n, t, h, v.shape[3]), q.dtype)
    sizes = (n, h, t, k.shape[2], int(causal))
    flat = [a.reshape(-1, 1, 1, a.shape[3]) for a in (q, k, v)]
    side_by_side = y.reshape(n * t, 1, h, v.shape[3])
    saved = _attend(b, *flat, key_mask, side_by_side, sizes, 1 / sqrt(d) if scale is None else scale)
    return y.transpose(0, 2, 1, 3), (saved, q.shape, k.shape, v.shape)


def scaled_dot_product_attention_backward(
    b: CpuBackend, saved: Any, dy: Array, slots: Slots
) -> tuple[Array | None, ...]:
    """As ops/attention.py."""
    inner, *shapes = saved
    grads = [b.empty(shape, dy.dtype) for shape in shapes]
    _gradients(b, inner, *(a.reshape(-1, 1, 1, a.shape[3]) for a in (dy, *grads)))
    return *(g if slot.wanted else None for g, slot in zip(grads, slots, strict=False)), None, None, None


def self_attention_forward(
    b: CpuBackend,
    qkv: Array,
    key_mask: Array | None = None,
    samples: Array | None = None,
    step: int | Array = 0,
    *,
    num_heads: int,
    causal: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    stream: int = 0,
) -> tuple[Array, Any]:
    """As ops/attention.py, without dropout."""
    n, t, width = qkv.shape
    size = width // (3 * num_heads)
    parts = qkv.reshape(n * t, 3, num_heads, size)
    y = b.empty((n, t, width // 3), qkv.dtype)
    heads = y.reshape(n * t, 1, num_heads, size)
    saved = _attend(b, parts, parts, parts, key_mask, heads, (n, num_heads, t, t, int(causal)), 1 / sqrt(size))
    return y, (saved, qkv.shape)


def self_attention_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/attention.py."""
    inner, shape = saved
    if not slots[0].wanted:
        return None, None, None, None
    y = inner[0][4]
    dqkv = b.empty(shape, dy.dtype)
    parts = dqkv.reshape(y.shape[0], 3, *y.shape[2:])
    _gradients(b, inner, dy.reshape(y.shape), parts, parts, parts)
    return dqkv, None, None, None


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Not with dropout, nor where there is nothing to attend to."""
    empty = any(0 in a.shape[1:] for a in arrays[:3] if a is not None)
    return same_floats(arrays, options) and not options.get("dropout") and not empty


kernel(scaled_dot_product_attention, scaled_dot_product_attention_forward, scaled_dot_product_attention_backward, _fits)
kernel(self_attention, self_attention_forward, self_attention_backward, _fits)
