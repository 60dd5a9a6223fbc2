"""Rows of ops/attention.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.attention import (
    cross_projection,
    merge_heads,
    scaled_dot_product_attention,
    self_attention,
    split_heads,
)
from gpubackprop.ops.dropout import dropout_mask
from tests.ops.specs import OpSpec


def _qkv(n, h, t, s, d, v=None, lengths=None):
    """q, k, v, the key mask of sequences of these lengths or None, samples, step."""

    def inputs(rng):
        q, k, values = (rng.normal(size=(n, h, *size)) for size in ((t, d), (s, d), (s, v or d)))
        mask = None if lengths is None else np.arange(s) < np.array(lengths)[:, None]
        return q, k, values, mask, np.arange(10, 10 + n), np.array(3)

    return inputs


def sdpa(q, k, v, key_mask, samples, step, *, causal=False, scale=None, dropout=0.0, seed=0, stream=0):
    """PyTorch's, with one boolean mask for both kinds; where there is dropout, spelt out with our random numbers."""
    import torch

    t, s = q.shape[-2], k.shape[-2]
    seen = torch.ones(q.shape[0], 1, t, s, dtype=torch.bool)
    if causal:
        seen = seen.tril(s - t)
    if key_mask is not None:
        seen = seen & key_mask[:, None, None, :]
    if not dropout:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~seen, float("-inf"))
    shape = (q.shape[0], q.shape[1], t, s)
    kept = dropout_mask(NumpyBackend(), shape, samples.numpy(), int(step), p=dropout, seed=seed, stream=stream)
    return (scores.softmax(-1) * torch.tensor(kept) / (1 - dropout)) @ v


def _attention(name, inputs, **options):
    batched = (0, 1, 2, 3, 4)
    return OpSpec(f"attention{name}", scaled_dot_product_attention, inputs, sdpa, options, batched=batched)


def _packed(n, h, t, d, lengths=None):
    def inputs(rng):
        mask = None if lengths is None else np.arange(t) < np.array(lengths)[:, None]
        return rng.normal(size=(n, t, 3 * h * d)), mask, np.arange(10, 10 + n), np.array(3)

    return inputs


def _self_attention(qkv, key_mask, samples, step, *, num_heads, **options):
    q, k, v = _split_heads(qkv, num_heads=num_heads, parts=3)
    return _merge_heads(sdpa(q, k, v, key_mask, samples, step, **options))


def _self_row(name, inputs, **options):
    return OpSpec(f"self_attention{name}", self_attention, inputs, _self_attention, options, batched=(0, 1, 2))


def _split_heads(x, *, num_heads, parts=1):
    pieces = [p.unflatten(-1, (num_heads, -1)).transpose(1, 2) for p in x.chunk(parts, dim=-1)]
    return tuple(pieces) if parts > 1 else pieces[0]


def _merge_heads(x):
    return x.transpose(1, 2).flatten(2)


def _cross_projection(x, memory, bias, *weights):
    import torch.nn.functional as F

    thirds = weights[0].chunk(3) if len(weights) == 1 else weights
    biases = bias.chunk(3) if bias is not None else (None,) * 3
    return tuple(F.linear(s, w, b) for s, w, b in zip((x, memory, memory), thirds, biases, strict=True))


def _normal(*shapes):
    return lambda rng: tuple(None if shape is None else rng.normal(size=shape) for shape in shapes)


ROWS = [
    _attention("", _qkv(2, 3, 4, 4, 5)),
    _attention(", more keys, wider values, scale", _qkv(2, 2, 3, 5, 4, v=6), scale=0.3),
    _attention(", causal", _qkv(2, 3, 6, 6, 4), causal=True),
    _attention(", causal, more keys", _qkv(2, 2, 3, 7, 4), causal=True),
    _attention(", causal, fewer keys", _qkv(2, 2, 5, 3, 4), causal=True),
    _attention(", one query", _qkv(3, 2, 1, 5, 4), causal=True),
    _attention(", unequal lengths", _qkv(3, 2, 4, 6, 5, lengths=(6, 1, 4))),
    _attention(", unequal lengths and one empty, causal", _qkv(3, 2, 5, 5, 4, lengths=(5, 2, 0)), causal=True),
    _attention(", dropout", _qkv(3, 2, 4, 6, 5, lengths=(6, 1, 4)), dropout=0.4, seed=2**40, stream=7),
    _attention(", dropout, causal", _qkv(2, 2, 5, 5, 3), dropout=0.25, causal=True, seed=1, stream=2),
    _self_row("", _packed(2, 3, 4, 5), num_heads=3),
    _self_row(", causal", _packed(2, 2, 7, 3), num_heads=2, causal=True),
    _self_row(", unequal lengths", _packed(3, 2, 5, 4, lengths=(5, 1, 3)), num_heads=2),
    _self_row(", one head, dropout", _packed(2, 1, 5, 4), num_heads=1, dropout=0.25, causal=True, seed=1, stream=2),
    OpSpec("split_heads", split_heads, _normal((2, 3, 12)), _split_heads, {"num_heads": 4}),
    OpSpec("split_heads, q k v", split_heads, _normal((2, 3, 24)), _split_heads, {"num_heads": 2, "parts": 3}, 3),
    OpSpec("split_heads, v alone used", split_heads, _normal((2, 3, 12)), _split_heads, {"num_heads": 2, "parts": 3}),
    OpSpec("merge_heads", merge_heads, _normal((2, 3, 4, 5)), _merge_heads),
    OpSpec(
        "cross_projection",
        cross_projection,
        _normal((2, 3, 4), (2, 5, 4), (12,), (12, 4)),
        _cross_projection,
        outputs=3,
        batched=(0, 1),
    ),
    OpSpec(
        "cross_projection, queries alone used",
        cross_projection,
        _normal((2, 3, 4), (2, 5, 4), (12,), (12, 4)),
        _cross_projection,
        batched=(0, 1),
    ),
    OpSpec(
        "cross_projection, a wider memory, no bias",
        cross_projection,
        _normal((2, 3, 4), (2, 5, 6), None, (4, 4), (4, 6), (4, 6)),
        _cross_projection,
        outputs=3,
        batched=(0, 1),
    ),
]
