"""Attention by cuDNN, as Dao et al. 2022 do it: the T by S weights are never in memory. float16 and bfloat16 alone.

Letters as in ops/attention.py. Queries, keys and values are read where the projection wrote them, side by side, and
their gradients are written so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.cudnn import Graph, Operand, operand, pair
from gpubackprop.ops.attention import scaled_dot_product_attention, self_attention
from gpubackprop.tape import Slots


def sdpa(library: Any, g: Any, q: Any, k: Any, v: Any, *, scale: float, causal: bool) -> tuple[Any, Any]:
    """y, and the logarithms of the softmaxes' denominators"""
    y, stats = g.sdpa(q=q, k=k, v=v, attn_scale=scale, generate_stats=True, **_seen(library, q, k, causal))
    return y, stats


def sdpa_backward(
    library: Any, g: Any, q: Any, k: Any, v: Any, y: Any, dy: Any, stats: Any, *, scale: float, causal: bool
) -> tuple[Any, Any, Any]:
    """dq, dk, dv"""
    seen = _seen(library, q, k, causal)
    dq, dk, dv = g.sdpa_backward(
        q=q, k=k, v=v, o=y, dO=dy, stats=stats, attn_scale=scale, use_deterministic_algorithm=True, **seen
    )
    return dq, dk, dv


def _seen(library: Any, q: Any, k: Any, causal: bool) -> dict[str, Any]:
    """The last query sees all keys, each before it one less."""
    if not causal:
        return {}
    corners = library.diagonal_alignment
    return {
        "diagonal_alignment": corners.TOP_LEFT if q.get_dim()[2] == k.get_dim()[2] else corners.BOTTOM_RIGHT,
        "diagonal_band_right_bound": 0,
    }


def _passes(qkv: Sequence[Operand], dy: Operand | None, scale: float | None, causal: bool) -> tuple[Graph, Graph]:
    """Both passes; y (N, h, T, V) lies with the heads side by side, and dy too unless it is given."""
    (n, h, t, d), v = qkv[0].sizes, qkv[2].sizes[3]
    y = Operand((n, h, t, v), (t * h * v, v, h * v, 1), qkv[0].dtype)
    stats = Operand((n, h, t, 1), (h * t, t, 1, 1), "float32")
    settings = ("scale", 1 / sqrt(d) if scale is None else scale), ("causal", causal and t > 1)
    return (
        Graph(sdpa, tuple(qkv), (y, stats), settings),
        Graph(sdpa_backward, (*qkv, y, dy or y, stats), tuple(qkv), settings),
    )


def _packed(qkv: Array, heads: int) -> list[Operand]:
    """q, k, v (N, h, T, D) within qkv (N, T, 3E)."""
    n, t, width = qkv.shape
    part = operand((n, t, 3, heads, width // (3 * heads)), (0, 3, 1, 4), qkv.dtype)
    return [part] * 3


def _parts(qkv: Array) -> list[Array]:
    """qkv (N, T, 3E) -> where q, k and v begin."""
    width = qkv.shape[-1] // 3
    return [qkv[..., i * width :] for i in range(3)]


def self_attention_forward(
    b: CudaBackend, qkv: Array, *rest: Any, num_heads: int, causal: bool = False, **options: Any
) -> tuple[Array, Any]:
    """As ops/attention.py."""
    n, t, width = qkv.shape
    forward, backward = _passes(_packed(qkv, num_heads), None, None, causal)
    y, stats = b.empty((n, t, width // 3), qkv.dtype), b.empty((n, num_heads, t, 1), np.dtype(np.float32))
    b.compute(forward, *_parts(qkv), y, stats)
    return y, (qkv, y, stats, backward)


def self_attention_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/attention.py."""
    if not slots[0].wanted:
        return None, None, None, None
    qkv, y, stats, backward = saved
    dqkv = b.out(slots[0], qkv.shape, qkv.dtype)
    b.compute(backward, *_parts(qkv), y, dy, stats, *_parts(dqkv))
    return dqkv, None, None, None


def attention_forward(
    b: CudaBackend, q: Array, k: Array, v: Array, *rest: Any, causal: bool = False, scale: float | None = None, **_: Any
) -> tuple[Array, Any]:
    """As ops/attention.py: heads side by side in memory, so that merging them costs nothing."""
    n, h, t, _width = q.shape
    forward, backward = _passes(*_separate(q, k, v), scale, causal)
    y, stats = b.empty((n, t, h, v.shape[-1]), q.dtype), b.empty((n, h, t, 1), np.dtype(np.float32))
    b.compute(forward, q, k, v, y, stats)
    return y.transpose(0, 2, 1, 3), (q, k, v, y, stats, backward)


def attention_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/attention.py."""
    *inputs, y, stats, backward = saved
    if not any(slot.wanted for slot in slots[:3]):
        return (None,) * 6
    grads = [b.out(slot, x.shape, x.dtype) for slot, x in zip(slots, inputs, strict=False)]
    b.compute(backward, *inputs, y, dy, stats, *grads)
    return *(g if slot.wanted else None for slot, g in zip(slots, grads, strict=False)), None, None, None


def _separate(q: Array, k: Array, v: Array) -> tuple[list[Operand], Operand]:
    """q, k, v and dy (N, h, T, ...), each contiguous."""
    dy = operand((*q.shape[:3], v.shape[3]), range(4), q.dtype)
    return [operand(a.shape, range(4), a.dtype) for a in (q, k, v)], dy


def _plain(arrays: Sequence[Any], options: Mapping[str, Any], mask: int) -> bool:
    """Neither dropout nor a mask, and numbers of the lengths that cuDNN multiplies."""
    return not options.get("dropout") and arrays[mask] is None and arrays[0].dtype.itemsize == 2


def _self_attention_graphs(arrays: Sequence[Any], options: Mapping[str, Any]) -> Sequence[Graph]:
    if not _plain(arrays, options, 1):
        return ()
    return _passes(_packed(arrays[0], options["num_heads"]), None, None, options.get("causal", False))


def _attention_graphs(arrays: Sequence[Any], options: Mapping[str, Any]) -> Sequence[Graph]:
    if not _plain(arrays, options, 3):
        return ()
    return _passes(*_separate(*arrays[:3]), options.get("scale"), options.get("causal", False))


pair(self_attention, self_attention_forward, self_attention_backward, _self_attention_graphs)
pair(scaled_dot_product_attention, attention_forward, attention_backward, _attention_graphs)
