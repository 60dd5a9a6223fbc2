"""Attention: the products on cuBLASLt, and between them a kernel that masks and takes the softmax of a row at a time.

Queries, keys and values are multiplied where they lie, as views of a projection that has them side by side. Kept for
the backward pass are the weights, N h T S numbers: 403 MB for 16 samples, 12 heads and 1024 positions in bfloat16. Each
pass has as many numbers of `computed(dtype)` for as long as it lasts, and with dropout the weights that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.draws import draws
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import rows_of_threads
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.ops.attention import scaled_dot_product_attention, self_attention
from gpubackprop.tape import Slots

FORWARD, BACKWARD = "forward<{{real}}, {}>", "backward<{{real}}, {}>"
SOURCE = Source("attention.cu", tuple(name.format(each) for each in ("false", "true") for name in (FORWARD, BACKWARD)))


class Kept(NamedTuple):
    """What the gradients are made of."""

    q: Array  #: (N, h, T, D), and so on; views
    k: Array
    v: Array
    y: Array  #: (N, T, h, V)
    p: Array  #: (N, h, T, S), with the sign - where dropped
    dropped: bool
    factor: Any  #: of what is not dropped
    sizes: tuple[Any, ...]  #: causal, rows, h, T, S
    scale: float


def _multiply(b: Any, a: Array, c: Array, out: Array, alpha: float = 1.0) -> Array:
    """out = alpha a c of (N, h) matrices. The library takes one step from each to the next, so views of a projection,
    which have one for samples and one for heads, take a call for each head, or for each sample if those are fewer.
    Matrices of `out` that lie side by side are written by calls of their own: the library's manual does not allow them.
    """
    n, heads = out.shape[:2]
    beside = heads > 1 and out.strides[1] < out.strides[2]
    even = 1 in (n, heads) or all(each.strides[0] == heads * each.strides[1] for each in (a, c, out))
    if n and even and not beside:
        b.multiply(a, c, out, alpha=alpha)
    elif n < heads and not beside:
        for i in range(n):
            b.multiply(a[i], c[i], out[i], alpha=alpha)
    elif n:
        for i in range(heads):
            b.multiply(a[:, i], c[:, i], out[:, i], alpha=alpha)
    return out


def _turned(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _heads_inside(x: Array) -> Array:
    """(N, T, h, D) -> (N, h, T, D), or back; a view."""
    return x.transpose(0, 2, 1, 3)


def _attend(
    b: CudaBackend,
    q: Array,
    k: Array,
    v: Array,
    key_mask: Array | None,
    samples: Array | None,
    step: int | Array,
    *,
    scale: float,
    causal: bool,
    dropout: float,
    seed: int,
    stream: int,
) -> Kept:
    """q (N, h, T, D), k (N, h, S, D), v (N, h, S, V) -> y (N, T, h, V) among what is kept; options as the op's."""
    (n, h, t, _), s, dtype = q.shape, k.shape[2], q.dtype
    wide, shape, name = computed(dtype), (n, h, t, s), str(bool(dropout)).lower()
    y = b.empty((n, t, h, v.shape[3]), dtype)
    sizes = np.int32(causal), *map(np.int64, (n * h * t, h, t, s))
    scores = _multiply(b, q, _turned(k), b.empty(shape, wide), scale)
    p = scores if dtype == wide else b.empty(shape, dtype)
    weights, factor, random = NULL, 0.0, (NULL, NULL, np.uint64(0), np.uint32(0), np.uint32(0))
    if dropout:
        weights, factor = b.empty(shape, dtype), 1 / (1 - dropout) if dropout < 1 else 0.0
        random = *draws(b, samples, step, seed, stream), np.uint32(min(round(dropout * 2**32), 2**32 - 1))
    b.launch(
        *(SOURCE, FORWARD.format(name), dtype, *rows_of_threads(n * h * t, s, dtype.itemsize), scores),
        *(NULL if key_mask is None else key_mask, p, weights, *random, wide.type(factor), *sizes),
    )
    _multiply(b, weights if dropout else p, v, _heads_inside(y))
    return Kept(q, k, v, y, p, bool(dropout), wide.type(factor), sizes, scale)


def _gradients(b: CudaBackend, kept: Kept, dy: Array, dq: Array | None, dk: Array | None, dv: Array | None) -> None:
    """dy (N, T, h, V) -> dq, dk, dv (N, h, ·, ·), each written where it is given."""
    q, k, v, y, p, dropped, factor, sizes, scale = kept
    dheads, dtype, weights = _heads_inside(dy), p.dtype, p
    if dropped or dq is not None or dk is not None:
        dp = _multiply(b, dheads, _turned(v), b.empty(p.shape, computed(dtype)))
        ds = dp if dp.dtype == dtype else b.empty(p.shape, dtype)
        weights = b.empty(p.shape, dtype) if dropped else NULL
        b.launch(
            *(SOURCE, BACKWARD.format(str(dropped).lower()), dtype),
            *rows_of_threads(int(sizes[1]), p.shape[3], dtype.itemsize),
            *(p, dp, y, dy, ds, weights, factor, *sizes, np.int64(y.shape[3])),
        )
        if dq is not None:
            _multiply(b, ds, k, dq, scale)
        if dk is not None:
            _multiply(b, _turned(ds), q, dk, scale)
    if dv is not None:
        _multiply(b, _turned(weights if dropped else p), dheads, dv)


def _lying(b: CudaBackend, x: Array) -> Array:
    """x (N, h, T, D) itself where its rows are contiguous and follow each other, as a projection's do; else a copy."""
    *outer, down, right = x.strides
    fine = right == x.itemsize and down >= x.shape[3] * right and min(outer) >= 0
    return x if fine else b.contiguous(x)


def scaled_dot_product_attention_forward(
    b: CudaBackend,
    q: Array,
    k: Array,
    v: Array,
    key_mask: Array | None = None,
    samples: Array | None = None,
    step: int | Array = 0,
    *,
    scale: float | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    stream: int = 0,
) -> tuple[Array, Any]:
    """As ops/attention.py; y lies with its heads side by side, so that merging them costs nothing."""
    options: dict[str, Any] = {"causal": causal, "dropout": dropout, "seed": seed, "stream": stream}
    scale = 1 / sqrt(q.shape[3]) if scale is None else scale
    q, k, v = (_lying(b, each) for each in (q, k, v))
    key_mask, samples = b.contiguous(key_mask), b.contiguous(samples)
    kept = _attend(b, q, k, v, key_mask, samples, step, scale=scale, **options)
    return _heads_inside(kept.y), kept


def scaled_dot_product_attention_backward(
    b: CudaBackend, kept: Kept, dy: Array, slots: Slots
) -> tuple[Array | None, ...]:
    """As ops/attention.py."""
    inputs = zip(slots, kept[:3], strict=False)
    grads = [b.out(slot, x.shape, dy.dtype) if slot.wanted else None for slot, x in inputs]
    _gradients(b, kept, b.contiguous(_heads_inside(dy)), *grads)
    return *grads, None, None, None


def _parts(qkv: Array, num_heads: int) -> tuple[Array, ...]:
    """qkv (N, T, 3E) -> q, k, v (N, h, T, D), views."""
    n, t, width = qkv.shape
    parts = qkv.reshape(n, t, 3, num_heads, width // (3 * num_heads))
    return tuple(_heads_inside(parts[:, :, i]) for i in range(3))


def self_attention_forward(
    b: CudaBackend,
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
    """As ops/attention.py."""
    n, t, width = qkv.shape
    options: dict[str, Any] = {"causal": causal, "dropout": dropout, "seed": seed, "stream": stream}
    scale = 1 / sqrt(width // (3 * num_heads))
    q, k, v = _parts(qkv, num_heads)
    kept = _attend(b, q, k, v, key_mask, samples, step, scale=scale, **options)
    return kept.y.reshape(n, t, width // 3), kept


def self_attention_backward(b: CudaBackend, kept: Kept, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/attention.py."""
    if not slots[0].wanted:
        return None, None, None, None
    n, t, h, _ = kept.y.shape
    dqkv = b.out(slots[0], (n, t, 3 * dy.shape[2]), dy.dtype)
    _gradients(b, kept, dy.reshape(kept.y.shape), *_parts(dqkv, h))
    return dqkv, None, None, None


def _fits(mask: int) -> Callable[[Sequence[Any], Mapping[str, Any]], bool]:
    """Where there is something to attend to, less than 2³² queries, and no mask of anything but booleans."""

    def fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
        nothing = any(0 in a.shape[1:] for a in arrays[:mask])
        booleans = all(a is None or a.dtype.name == "bool" for a in arrays[mask : mask + 1])
        return same_floats(arrays, options) and booleans and not nothing and arrays[0].size < 2**32

    return fits


kernel(
    scaled_dot_product_attention,
    scaled_dot_product_attention_forward,
    scaled_dot_product_attention_backward,
    _fits(mask=3),
    views=True,
)
kernel(self_attention, self_attention_forward, self_attention_backward, _fits(mask=1))
