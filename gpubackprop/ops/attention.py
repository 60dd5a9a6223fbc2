"""Attention, and the reshaping around it: h heads, T queries, S keys, D the size of a head, E = h D."""

from __future__ import annotations

from math import sqrt
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.dropout import dropout_mask
from gpubackprop.tape import Op, Slots


def scaled_dot_product_attention_forward(
    b: Backend,
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
    """q (N, h, T, D), k (N, h, S, D), v (N, h, S, V) -> y (N, h, T, V) = softmax(scale q kᵀ) v; Vaswani et al. 2017.

    key_mask (N, S) boolean: False where a key is not to be seen. causal: the last query sees all keys, each query
    before it one less: query t sees the keys up to t + S - T. A query that sees no key gets 0. scale: 1/√D by default.
    dropout zeroes each weight with that probability: samples (N,) integers and step as in `dropout`.
    """
    scale = 1 / sqrt(q.shape[-1]) if scale is None else scale
    scaled = q * scale
    p = b.matmul(scaled, k.swapaxes(-1, -2))  # (N, h, T, S)
    if (hidden := _hidden(b, p, key_mask, causal)) is not None:
        p += hidden
    p -= b.xp.maximum(p.max(axis=-1, keepdims=True), b.xp.finfo(p.dtype).min)  # -inf - -inf would be NaN
    b.xp.exp(p, out=p)
    p /= b.xp.maximum(p.sum(axis=-1, keepdims=True), 1)  # at least 1, the largest one's, where any key is seen
    kept, weights = None, p
    if dropout:
        kept = dropout_mask(b, p.shape, samples, step, p=dropout, seed=seed, stream=stream).astype(p.dtype)
        kept *= 1 / (1 - dropout) if dropout < 1 else 0.0
        weights = p * kept
    n, h, t, _ = q.shape
    # Heads side by side in memory, so that merging them costs nothing.
    y = b.xp.empty((n, t, h, v.shape[-1]), p.dtype).transpose(0, 2, 1, 3)
    b.matmul(weights, v, out=y)
    return y, (scaled, k, v, y, p, weights, kept, scale)


def scaled_dot_product_attention_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, h, T, V) -> dq, dk, dv of their shapes.

    With s = scale q kᵀ, p = softmax(s): ds = p (dp - Σ p dp), and Σ p dp over S is Σ y dy over V (Dao et al. 2022).
    """
    scaled, k, v, y, p, weights, kept, scale = saved
    dq = dk = dv = None
    if slots[0].wanted or slots[1].wanted:
        ds = b.matmul(dy, v.swapaxes(-1, -2))
        if kept is not None:
            ds *= kept
        ds -= (y * dy).sum(axis=-1, keepdims=True)
        ds *= p
        if slots[0].wanted:
            dq = b.matmul(ds, k)
            dq *= scale
        if slots[1].wanted:
            dk = b.matmul(ds.swapaxes(-1, -2), scaled)
    if slots[2].wanted:
        dv = b.matmul(weights.swapaxes(-1, -2), dy)
    return dq, dk, dv, None, None, None


def _hidden(b: Backend, scores: Array, key_mask: Array | None, causal: bool) -> Array | None:
    """What is added to the scores (N, h, T, S): -inf where a key is not to be seen, 0 elsewhere; None: nothing."""
    t, s = scores.shape[-2:]
    seen = None
    if causal and t > 1:
        seen = b.xp.tri(t, s, s - t, dtype=bool)
    if key_mask is not None:
        real = key_mask[:, None, None, :]
        seen = real if seen is None else seen & real
    return None if seen is None else b.xp.where(seen, scores.dtype.type(0), scores.dtype.type(-b.xp.inf))


def split_heads_forward(b: Backend, x: Array, *, num_heads: int, parts: int = 1) -> tuple[Any, Any]:
    """x (N, T, parts E) -> for each part y (N, h, T, D), a view; one array where there is one part."""
    n, t, width = x.shape
    heads = x.reshape(n, t, parts, num_heads, width // (parts * num_heads))
    ys = tuple(heads[:, :, i].transpose(0, 2, 1, 3) for i in range(parts))
    return (ys if parts > 1 else ys[0]), (n, t, parts, num_heads, heads.shape[-1])


def split_heads_backward(b: Backend, saved: Any, dy: Any, slots: Slots) -> tuple[Array]:
    """dy (N, h, T, D) of each part -> dx (N, T, parts E)."""
    n, t, parts, num_heads, size = saved
    dys = dy if parts > 1 else (dy,)
    dtype = next(d.dtype for d in dys if d is not None)
    dx = b.xp.empty((n, t, parts, num_heads, size), dtype)
    for i, d in enumerate(dys):
        dx[:, :, i] = 0 if d is None else d.transpose(0, 2, 1, 3)
    return (dx.reshape(n, t, parts * num_heads * size),)


def merge_heads_forward(b: Backend, x: Array) -> tuple[Array, Any]:
    """x (N, h, T, D) -> y (N, T, E)."""
    n, h, t, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(n, t, h * d), x.shape


def merge_heads_backward(b: Backend, shape: tuple[int, ...], dy: Array, slots: Slots) -> tuple[Array]:
    """dy (N, T, E) -> dx (N, h, T, D), a view."""
    n, h, t, d = shape
    return (dy.reshape(n, t, h, d).transpose(0, 2, 1, 3),)


def self_attention_forward(
    b: Backend,
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
    """qkv (N, T, 3E), the queries, keys and values of all heads side by side -> y (N, T, E).

    The three ops above as one, so that a kernel need not part the heads and join them; options as there.
    """
    (q, k, v), split = split_heads_forward(b, qkv, num_heads=num_heads, parts=3)
    options: dict[str, Any] = {"causal": causal, "dropout": dropout, "seed": seed, "stream": stream}
    heads, saved = scaled_dot_product_attention_forward(b, q, k, v, key_mask, samples, step, **options)
    y, merged = merge_heads_forward(b, heads)
    return y, (split, saved, merged)


def self_attention_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, T, E) -> dqkv (N, T, 3E)."""
    if not slots[0].wanted:
        return None, None, None, None
    split, inner, merged = saved
    (dheads,) = merge_heads_backward(b, merged, dy, slots)
    dqkv = scaled_dot_product_attention_backward(b, inner, dheads, (slots[0],) * 3)[:3]
    return *split_heads_backward(b, split, dqkv, slots), None, None, None


def cross_projection_forward(
    b: Backend, x: Array, memory: Array, bias: Array | None, *weights: Array
) -> tuple[tuple[Array, ...], Any]:
    """Queries from x (N, T, E), keys and values from memory (N, S, M) -> q (N, T, E), k and v (N, S, E).

    weights: one (3E, M) where M = E, its thirds being those of q, k and v; or three, (E, E), (E, M) and (E, M).
    bias (3E,) or None.
    """
    width = x.shape[-1]
    thirds = [weights[0][i * width : (i + 1) * width] for i in range(3)] if len(weights) == 1 else list(weights)
    ys = tuple(b.matmul(source, w.T) for source, w in zip((x, memory, memory), thirds, strict=True))
    if bias is not None:
        for i, y in enumerate(ys):
            y += bias[i * width : (i + 1) * width]
    return ys, (x, memory, thirds)


def cross_projection_backward(b: Backend, saved: Any, dy: Any, slots: Slots) -> tuple[Array | None, ...]:
    """dq (N, T, E), dk and dv (N, S, E), None where nothing came back -> the gradients of all inputs."""
    x, memory, thirds = saved
    width = x.shape[-1]
    sources = (x, memory, memory)
    dys = [b.xp.zeros((*s.shape[:-1], width), x.dtype) if d is None else d for d, s in zip(dy, sources, strict=True)]
    flat = [d.reshape(-1, width) for d in dys]
    dx = b.matmul(dys[0], thirds[0]) if slots[0].wanted else None
    dmemory = None
    if slots[1].wanted:
        dmemory = b.matmul(dys[1], thirds[1])
        dmemory += b.matmul(dys[2], thirds[2])
    dbias = b.xp.concatenate([d.sum(axis=0) for d in flat]) if slots[2].wanted else None
    if len(slots) == 6:
        dweights = [
            b.matmul(d.T, s.reshape(-1, s.shape[-1]), out=slot.out) if slot.wanted else None
            for d, s, slot in zip(flat, sources, slots[3:], strict=True)
        ]
        return dx, dmemory, dbias, *dweights
    if not slots[3].wanted:
        return dx, dmemory, dbias, None
    packed = b.xp.empty((3 * width, width), x.dtype) if slots[3].out is None else slots[3].out
    for i, (d, s) in enumerate(zip(flat, sources, strict=True)):
        b.matmul(d.T, s.reshape(-1, width), out=packed[i * width : (i + 1) * width])
    return dx, dmemory, dbias, packed


scaled_dot_product_attention = Op(scaled_dot_product_attention_forward, scaled_dot_product_attention_backward)
split_heads = Op(split_heads_forward, split_heads_backward)
merge_heads = Op(merge_heads_forward, merge_heads_backward)
self_attention = Op(self_attention_forward, self_attention_backward)
cross_projection = Op(cross_projection_forward, cross_projection_backward)
