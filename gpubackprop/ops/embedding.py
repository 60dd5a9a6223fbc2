"""Rows of a table, picked by number: embeddings, bags of them, and one-hot vectors.

Letters: V rows of the table (the vocabulary), D numbers in a row.
"""

from __future__ import annotations

from typing import Any, Literal

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def embedding_forward(b: Backend, x: Array, weight: Array, *, padding_idx: int | None = None) -> tuple[Array, Any]:
    """x (N, ...) whole numbers below V, weight (V, D) -> y (N, ..., D), the rows that x names.

    NumPy raises IndexError for a number that names no row; a GPU does not look.
    """
    return b.xp.take(weight, _checked(b, x, weight), axis=0), (x, weight, padding_idx)


def embedding_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., D) -> dweight (V, D): each row the sum of dy where it was picked, 0 in row padding_idx."""
    x, weight, padding_idx = saved
    return None, _scattered(b, x.reshape(-1), dy.reshape(-1, weight.shape[1]), weight, padding_idx, slots[1].out)


def embedding_bag_forward(
    b: Backend,
    x: Array,
    weight: Array,
    mask: Array | None,
    *,
    mode: Literal["sum", "mean", "max"] = "mean",
    padding_idx: int | None = None,
) -> tuple[Array, Any]:
    """x (N, T) whole numbers below V, weight (V, D), mask (N, T) -> y (N, D), the rows of each bag joined by `mode`.

    What the mask leaves out, and padding_idx, does not count; an empty bag gives zeros.
    """
    rows = b.xp.take(weight, _checked(b, x, weight), axis=0)  # (N, T, D)
    counted = b.xp.ones(x.shape, bool) if mask is None else mask
    if padding_idx is not None:
        counted = counted & (x != padding_idx)
    if mode == "max":
        y, share = _largest(b, rows, counted)
    else:
        share = counted[..., None].astype(weight.dtype)
        if mode == "mean":
            share = share / b.xp.maximum(share.sum(axis=1, keepdims=True), 1)
        y = (rows * share).sum(axis=1)
    return y, (x, weight, share, padding_idx)


def embedding_bag_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, D) -> dweight (V, D): a row in a bag gets its share of the bag's dy, for max the whole where it won."""
    x, weight, share, padding_idx = saved
    drows = b.xp.broadcast_to(dy[:, None] * share, (*x.shape, weight.shape[1])).reshape(-1, weight.shape[1])
    return None, _scattered(b, x.reshape(-1), drows, weight, padding_idx, slots[1].out), None


def one_hot_forward(b: Backend, x: Array, value: Array, *, num_classes: int) -> tuple[Array, Any]:
    """x (N, ...) whole numbers, value () -> y (N, ..., V): value at the place that x names, 0 elsewhere."""
    hot = x[..., None] == b.xp.arange(num_classes)
    return hot * value, hot


def one_hot_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, ..., V) -> dvalue () = sum of dy at the places."""
    return None, (dy * saved).sum()


def _checked(b: Backend, x: Array, weight: Array) -> Array:
    """x with what is below 0, which would count from the end, made too large, which NumPy finds."""
    return b.xp.where(x < 0, weight.shape[0], x)


def _largest(b: Backend, rows: Array, counted: Array) -> tuple[Array, Array]:
    """rows (N, T, D), counted (N, T) -> the largest (N, D) over T, and 1 where it was found first, (N, T, D)."""
    if not rows.shape[1]:
        return b.xp.zeros((rows.shape[0], rows.shape[2]), rows.dtype), b.xp.zeros(rows.shape, rows.dtype)
    rows = b.xp.where(counted[..., None], rows, -b.xp.inf)
    places = b.xp.arange(rows.shape[1])[:, None]
    won = (rows.argmax(axis=1)[:, None] == places) & counted[..., None]
    return b.xp.where(won, rows, 0).sum(axis=1), won.astype(rows.dtype)


def _scattered(b: Backend, x: Array, rows: Array, weight: Array, padding_idx: int | None, out: Array | None) -> Array:
    """x (M,), rows (M, D) -> zeros like weight (V, D) with every row added where x says, written into `out`."""
    if out is None:
        out = b.xp.empty(weight.shape, rows.dtype)
    out[...] = 0
    # NumPy adds single numbers at places five times as quickly as rows.
    width = weight.shape[1]
    cells = x[:, None] * width + b.xp.arange(width)
    b.scatter_add(out.reshape(-1), cells.reshape(-1), rows.reshape(-1))
    if padding_idx is not None:
        out[padding_idx] = 0
    return out


embedding = Op(embedding_forward, embedding_backward)
embedding_bag = Op(embedding_bag_forward, embedding_bag_backward)
one_hot = Op(one_hot_forward, one_hot_backward)
