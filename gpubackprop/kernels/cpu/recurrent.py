"""The frame of recurrent layers: the loop over time, and the work outside it. Each layer gives its step and its slopes.

A thread goes through all steps with its own samples, so that nobody waits for anybody. Arrays are (N, T, ·) as outside;
what a step multiplies lies apart, (N, ·). Letters as in ops/recurrent.py, D input and H hidden features, G gates times
H; S states, which are h or h and c; K rows of H numbers that are kept of a step, the S states before it first.

Of a GRU's last gate both shares stay apart: its rows of biases and gradients are G + H long, the last gate's share of
the inputs behind all that the product with the state has. A is 2 there, else 1: the gradients behind the inputs'
product, das[0], are others than those behind the state's, das[-1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.constants import none_of
from gpubackprop.kernels.cpu.gates import add, add_rows, clear, copy, hide, move
from gpubackprop.kernels.cpu.jit import Launched, inline, parallel, prange, single
from gpubackprop.kernels.cpu.kernel import kernel, same_floats
from gpubackprop.kernels.cpu.linear import FLOP, linear_forward, linear_gradients
from gpubackprop.kernels.cpu.panels import multiply, pack
from gpubackprop.tape import SKIP, Op, Slots


class Cell(NamedTuple):
    """The loop over time of a layer, and backwards; S, and whether a gate's share of the state is apart."""

    forward: Launched
    backward: Launched
    states: int
    apart: bool


def _forward(step: Any) -> Launched:
    @parallel
    def forward(gates, panels, bias, first, real, kept, states, y, product, reverse, threads):
        # gates (N, T, G) in place, bias (G,) or (G + H,), first (S, N, H) or none, real (N, T) or none,
        # kept (K, N, T, H), states (S, N, H): the running ones, y (N, T, H), product (N, G or more)
        h, steps = states[0], y.shape[1]
        share = -(-h.shape[0] // threads)
        for t in prange(threads):
            low, high = t * share, min((t + 1) * share, h.shape[0])
            for n in range(low, high):
                clear(product[n])
                for k in range(states.shape[0]):
                    if first.size:
                        copy(first[k, n], states[k, n])
                    else:
                        clear(states[k, n])
            for s in range(steps):
                at = steps - 1 - s if reverse else s
                if s or first.size:
                    multiply(h[low:high], panels, product[low:high], False)
                for n in range(low, high):
                    for k in range(states.shape[0]):
                        copy(states[k, n], kept[k, n, at])
                    if real.size and not real[n, at]:
                        hide(h[n], y[n, at])
                        continue
                    step(gates[n, at], product[n], bias, states, kept, n, at)
                    copy(h[n], y[n, at])

    return forward


@inline
def _hand_out(row, p, q):  # (G,), of a GRU (G + H,); (G,), (G,): gradients behind both products
    copy(row, q)
    apart = row.size - q.size
    if apart:
        copy(row, p[: q.size - apart])
        copy(row[q.size :], p[q.size - apart :])


def _backward(slopes: Any) -> Launched:
    @parallel
    def backward(gates, panels, kept, real, dy, last, dstates, da, das, sums, dbias, to_start, reverse, threads):
        # dy (N, T, H) or none, last (S, N, H) or none, dstates (S, N, H): in the end those of the first states,
        # da (N, G or G + H): of one step, das (A, N, T, G), sums (threads, 2, G or G + H) or none: of a step, so that
        # errors stay small, and of all; dbias (A, G)
        dh, steps, width = dstates[0], gates.shape[1], gates.shape[2]
        share = -(-dh.shape[0] // threads)
        for t in prange(threads):
            low, high = t * share, min((t + 1) * share, dh.shape[0])
            if sums.size:
                clear(sums[t, 0])
                clear(sums[t, 1])
            for n in range(low, high):
                for k in range(dstates.shape[0]):
                    if last.size:
                        copy(last[k, n], dstates[k, n])
                    else:
                        clear(dstates[k, n])
            for s in range(steps - 1, -1, -1):
                at = steps - 1 - s if reverse else s
                for n in range(low, high):
                    if real.size and not real[n, at]:
                        clear(da[n])
                    else:
                        if dy.size:
                            add(dy[n, at], dh[n])
                        slopes(gates[n, at], kept, dstates, da[n], n, at)
                    _hand_out(da[n], das[0, n, at], das[-1, n, at])
                if sums.size:
                    add_rows(da[low:high], sums[t, 0])
                    move(sums[t, 0], sums[t, 1])
                if s or to_start:
                    multiply(da[low:high, :width], panels, dh[low:high], True)
        if sums.size:
            for i in range(1, threads):
                add(sums[i, 1], sums[0, 1])
            _hand_out(sums[0, 1], dbias[0], dbias[-1])

    return backward


def cell(step: Any, slopes: Any, *, states: int = 1, apart: bool = False) -> Cell:
    """The frame around what happens to sample n at one position, in inline functions (`apart`: as a GRU's last gate):

    step(a, p, bias, states, kept, n, at): a (G,), the inputs' share, becomes the gates; p (G or more) is the state's,
    states (S, N, H) become the next ones, and what is kept besides them goes to kept (K, N, T, H).

    slopes(a, kept, dstates, da, n, at): da (G,), of a GRU (G + H,), becomes the gradients of what the gates are made
    of; in dstates (S, N, H) h's makes room for what goes past the product, to which the product is added, the others
    become those before the step.
    """
    return Cell(_forward(step), _backward(slopes), states, apart)


@single
def _biases(bias_ih, bias_hh, apart, total):  # (G,) or none each, (G + apart,)
    clear(total)
    add(bias_hh, total[: bias_hh.size])
    if bias_ih.size:
        both = bias_ih.size - apart
        add(bias_ih[:both], total[:both])
        add(bias_ih[both:], total[total.size - apart :])


def _stacked(b: CpuBackend, parts: Sequence[Array | None], like: Array) -> Array:
    """Arrays (N, H), None for zeros, as one (S, N, H); of no size where all are None."""
    given = next((part for part in parts if part is not None), None)
    if given is None:
        return b.empty((0, 0, 0), like.dtype)
    stack = b.empty((len(parts), *given.shape), like.dtype)
    for row, part in zip(stack, parts, strict=True):
        b.assign(row, 0 if part is None else part)
    return stack


def recurrent(op: Op, choose: Callable[..., Cell]) -> None:
    """Enter a kernel for `op`: choose(**options) says which cell it is."""

    def forward(
        b: CpuBackend,
        x: Array,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None,
        bias_hh: Array | None,
        *rest: Array | None,
        reverse: bool = False,
        **options: Any,
    ) -> tuple[tuple[Array, ...], Any]:
        found, size, dtype = choose(**options), weight_hh.shape[1], x.dtype
        rest += (None,) * (found.states + 1 - len(rest))
        *first, mask = rest
        panels = pack(b, weight_hh, turned=True)
        gates: Array = linear_forward(b, x, weight_ih, None)[0]
        (n, t, width), none = gates.shape, none_of(dtype)
        apart = found.apart * size
        bias = b.empty((width + apart,), dtype)
        b.launch(_biases, none if bias_ih is None else bias_ih, none if bias_hh is None else bias_hh, apart, bias)
        real = b.empty((0, 0), bool) if mask is None else mask
        kept = b.empty((found.states + found.apart, n, t, size), dtype)
        states, y = b.empty((found.states, n, size), dtype), b.empty((n, t, size), dtype)
        product = b.empty((n, panels.shape[0] * panels.shape[2]), dtype)
        args = gates, panels, bias, _stacked(b, first, x), real, kept, states, y, product, np.bool_(reverse)
        cost = FLOP * gates.size * size
        b.launch(found.forward, *args, cost=cost)
        return (y, *states), (x, weight_ih, weight_hh, gates, kept, real, found, np.bool_(reverse), cost)

    def backward(b: CpuBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
        x, weight_ih, weight_hh, gates, kept, real, found, reverse, cost = saved
        (dy, *last), (n, _, width), (size, dtype) = dys, gates.shape, (weight_hh.shape[1], x.dtype)
        apart = found.apart * size
        dy = b.empty((0, 0, 0), dtype) if dy is None else dy
        panels = pack(b, weight_hh, turned=False)
        da, das = b.empty((n, width + apart), dtype), b.empty((1 + found.apart, *gates.shape), dtype)
        dstates = b.empty((found.states, n, size), dtype)
        biased = slots[3].wanted or slots[4].wanted
        sums, dbias = b.empty((biased * b.threads, 2, width + apart), dtype), b.empty((len(das), width), dtype)
        args = gates, panels, kept, real, dy, _stacked(b, last, x), dstates, da, das, sums, dbias
        b.launch(found.backward, *args, np.bool_(slots[5].wanted), reverse, cost=cost)
        dx, dweight_ih, _ = linear_gradients(b, x, weight_ih, das[0], (slots[0], slots[1], SKIP))
        _, dweight_hh, _ = linear_gradients(b, kept[0], weight_hh, das[-1], (SKIP, slots[2], SKIP))
        grads = dx, dweight_ih, dweight_hh, dbias[0], dbias[-1], *dstates, None
        return tuple(grad if slot.wanted else None for grad, slot in zip(grads, slots, strict=True))

    kernel(op, forward, backward, _fits)


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Not where there is nothing to do."""
    return same_floats(arrays, options) and arrays[0].size > 0
