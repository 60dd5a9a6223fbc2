"""Recurrent layers: one product for the inputs of all steps; a product and a kernel for each step; the gradients of
weights and inputs a product each, over all steps.

Gates and states are numbers of `computed(dtype)`, h is rounded for the products only: so the slopes of gates near 1 and
sums over many steps stay good in short types. Letters as in ops/recurrent.py: D input and H
hidden features, G gates times H.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import THREADS, WARP
from gpubackprop.kernels.cuda.kernel import computed, kernel, rows_of, same_floats
from gpubackprop.kernels.cuda.matmul_linear import linear_backward
from gpubackprop.ops.recurrent import gru, lstm, rnn
from gpubackprop.tape import SKIP, Op, Slots


class Cell(NamedTuple):
    """A struct of recurrent.cu, and what it keeps."""

    name: str
    states: int = 1  #: 2: h and c
    extra: bool = True  #: whether a step keeps more than its gates; if not, its gates are h
    apart: bool = False  #: whether gradients behind the product with the state are others than those of the inputs


RNN = {"tanh": Cell("Rnn<false>", extra=False), "relu": Cell("Rnn<true>", extra=False)}
LSTM, GRU = Cell("Lstm", states=2), Cell("Gru", apart=True)
FORWARD, BACKWARD = "forward<{{real}}, {}>", "backward<{{real}}, {}>"
NAMES = tuple(name.format(cell.name) for cell in (*RNN.values(), LSTM, GRU) for name in (FORWARD, BACKWARD))
SOURCE = Source("recurrent.cu", NAMES)


def _size(samples: int, features: int) -> tuple[tuple[int, int], tuple[int]]:
    """Grid and block of a step."""
    threads = min(-(-features // WARP) * WARP, THREADS)
    return (samples, -(-features // threads)), (threads,)


def _filled(b: CudaBackend, value: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """A new array with these numbers, or with zeros."""
    array = b.empty(shape, dtype)
    b.assign(array, 0 if value is None else value)
    return array


def _narrowed(b: CudaBackend, x: Array, dtype: Any) -> Array:
    return x if x.dtype == dtype else _filled(b, x, x.shape, dtype)


class Kept(NamedTuple):
    """What the gradients are made of."""

    cell: Cell
    x: Array  #: (N, T, D)
    weight_ih: Array
    weight_hh: Array
    gates: Array  #: (N, T, G)
    before: Array  #: (N, T, H): h before each step
    extra: Any
    real: Any
    order: range  #: of the positions


def recurrent(op: Op, choose: Callable[..., Cell]) -> None:
    """Enter a kernel for `op`: choose(**options) says which cell it is."""

    def forward(
        b: Any,
        x: Array,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None,
        bias_hh: Array | None,
        *rest: Array | None,
        reverse: bool = False,
        **options: Any,
    ) -> tuple[tuple[Array, ...], Any]:
        cell, dtype, wide = choose(**options), x.dtype, computed(x.dtype)
        (n, t, _), (width, size) = x.shape, weight_hh.shape
        *starts, mask = rest + (None,) * (cell.states + 1 - len(rest))
        gates, product = b.empty((n, t, width), wide), b.empty((n, width), wide)
        y, before = b.empty((n, t, size), dtype), b.empty((n, t, size), dtype)
        extra = b.empty(y.shape, wide) if cell.extra else NULL
        states = [_filled(b, start, (n, size), wide) for start in starts]
        h, c = (*states, NULL)[:2]
        rounded = h if dtype == wide else b.empty(h.shape, dtype)
        order = range(t)[::-1] if reverse else range(t)
        kept = Kept(cell, x, weight_ih, weight_hh, gates, before, extra, NULL if mask is None else mask, order)
        given = *(NULL if bias is None else bias for bias in (bias_ih, bias_hh)), kept.real
        if n:
            b.multiply(rows_of(x), weight_ih.T, rows_of(gates))
        for at in order:
            state = rounded if at != order[0] else starts[0]
            if n and state is not None:
                b.multiply(state, weight_hh.T, product)
            b.launch(
                *(SOURCE, FORWARD.format(cell.name), dtype, *_size(n, size), gates, NULL if state is None else product),
                *(*given, before, extra, h, c, rounded, y, np.int64(at), np.int64(t), np.int64(size)),
            )
        return (y, *(_narrowed(b, each, dtype) for each in states)), kept

    def backward(b: Any, kept: Kept, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
        cell, x, weight_ih, weight_hh, gates, before, extra, real, order = kept
        dtype, wide, (n, t, size), (dy, *lasts) = x.dtype, computed(x.dtype), before.shape, dys
        shape = n, t, weight_hh.shape[0]
        dstates = [_filled(b, last, (n, size), wide) for last in lasts]
        dh, dc = (*dstates, NULL)[:2]
        da = b.empty(shape, dtype)
        first = b.empty(shape, dtype) if cell.apart else NULL
        beta = float(cell.apart or real is not NULL)  # else nothing goes past the product
        dy = NULL if dy is None else dy
        for at in order[::-1]:
            b.launch(
                *(SOURCE, BACKWARD.format(cell.name), dtype, *_size(n, size), gates, before, extra, real, dy),
                *(da, first, dh, dc, np.int64(at), np.int64(t), np.int64(size)),
            )
            if n and (at != order[0] or slots[5].wanted):
                b.multiply(da[:, at], weight_hh, dh, beta=beta)
        # Without a gate apart both biases have one gradient.
        dp, either = (first, slots[3]) if cell.apart else (da, slots[3] if slots[3].wanted else slots[4])
        dx, dweight_ih, dbias_ih = linear_backward(b, (x, weight_ih), dp, (slots[0], slots[1], either))
        other = slots[4] if cell.apart else SKIP
        _, dweight_hh, dbias_hh = linear_backward(b, (before, weight_hh), da, (SKIP, slots[2], other))
        dstarts = (_narrowed(b, each, dtype) for each in dstates)
        grads = dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh if cell.apart else dbias_ih, *dstarts, None
        return tuple(grad if slot.wanted else None for grad, slot in zip(grads, slots, strict=True))

    kernel(op, forward, backward, _fits)


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Where there is something to do, and no mask of anything but booleans."""
    known = all(a is None or a.dtype.kind in "fVb" for a in arrays)
    return same_floats(arrays, options) and known and 0 not in arrays[0].shape[1:]


recurrent(rnn, lambda nonlinearity="tanh": RNN[nonlinearity])
recurrent(lstm, lambda: LSTM)
recurrent(gru, lambda: GRU)
