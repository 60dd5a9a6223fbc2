"""Elman's RNN: as kernels/cpu/lstm.py, with one gate."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel
from gpubackprop.kernels.cpu.linear import FLOP
from gpubackprop.kernels.cpu.panels import multiply, pack
from gpubackprop.kernels.cpu.recurrent import (
    add,
    biases,
    clear,
    copy,
    fits,
    gradients,
    hide,
    input_products,
    or_empty,
    real_steps,
    tanh_of_sum,
)
from gpubackprop.ops.recurrent import rnn
from gpubackprop.tape import Slots


@serial
def _relu_of_sum(a, p, bias):  # in place; a NaN stays one
    for j in range(a.size):
        value = a[j] + p[j] + bias[j]
        a[j] = a.dtype.type(0) if value <= 0 else value


@serial
def _slope(a, dh, da, relu):
    one, zero = a.dtype.type(1), a.dtype.type(0)
    if relu:
        for j in range(a.size):
            da[j] = dh[j] if a[j] > 0 else zero
    else:
        for j in range(a.size):
            da[j] = dh[j] * (one - a[j] * a[j])


@parallel
def _forward(states, panels, bias, h0, real, y, hs, h, product, relu, reverse, threads):
    # states (N, T, H): the inputs' share, in place; hs (N, T, H): those before each step, h (N, H) the running one
    size, steps = h.shape[1], y.shape[1]
    share = -(-h.shape[0] // threads)
    for t in prange(threads):
        low, high = t * share, min((t + 1) * share, h.shape[0])
        for n in range(low, high):
            clear(h[n])
            clear(product[n])
            if h0.size:
                copy(h0[n], h[n])
        for s in range(steps):
            at = steps - 1 - s if reverse else s
            if s or h0.size:
                multiply(h[low:high], panels, product[low:high], False)
            for n in range(low, high):
                copy(h[n], hs[n, at])
                if real.size and not real[n, at]:
                    hide(h[n], y[n, at])
                    continue
                if relu:
                    _relu_of_sum(states[n, at], product[n, :size], bias)
                else:
                    tanh_of_sum(states[n, at], product[n, :size], bias)
                copy(states[n, at], h[n])
                copy(states[n, at], y[n, at])


@parallel
def _backward(states, panels, real, dy, dh_last, da, dh, step, product, relu, to_start, reverse, threads):
    # da (N, T, H), step (N, H): that of one step; dh (N, H): in the end that of the first state
    size, steps = dh.shape[1], da.shape[1]
    share = -(-dh.shape[0] // threads)
    for t in prange(threads):
        low, high = t * share, min((t + 1) * share, dh.shape[0])
        for n in range(low, high):
            clear(dh[n])
            if dh_last.size:
                copy(dh_last[n], dh[n])
        for s in range(steps - 1, -1, -1):
            at = steps - 1 - s if reverse else s
            for n in range(low, high):
                if real.size and not real[n, at]:
                    clear(step[n])
                else:
                    if dy.size:
                        add(dy[n, at], dh[n])
                    _slope(states[n, at], dh[n], step[n], relu)
                copy(step[n], da[n, at])
            if s or to_start:
                multiply(step[low:high], panels, product[low:high], False)
                for n in range(low, high):
                    if not real.size or real[n, at]:
                        copy(product[n, :size], dh[n])


def rnn_forward(
    b: CpuBackend,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    h0: Array | None = None,
    mask: Array | None = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    reverse: bool = False,
) -> tuple[tuple[Array, Array], Any]:
    """As ops/recurrent.py."""
    n, t, _ = x.shape
    size = weight_hh.shape[1]
    panels = pack(b, weight_hh, turned=True)
    states = input_products(b, x, weight_ih)
    bias, _ = biases(b, bias_ih, bias_hh, size, x, size)
    real, start = real_steps(b, mask), or_empty(b, h0, x, 2)
    y, hs = b.empty((n, t, size), x.dtype), b.empty((n, t, size), x.dtype)
    h = b.empty((n, size), x.dtype)
    product = b.empty((n, panels.shape[0] * panels.shape[2]), x.dtype)
    flags = np.bool_(nonlinearity == "relu"), np.bool_(reverse)
    cost = FLOP * states.size * size
    b.launch(_forward, states, panels, bias, start, real, y, hs, h, product, *flags, cost=cost)
    return (y, h), (x, weight_ih, weight_hh, states, hs, real, flags, cost)


def rnn_backward(b: CpuBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/recurrent.py."""
    x, weight_ih, weight_hh, states, hs, real, (relu, reverse), cost = saved
    n, _, size = hs.shape
    panels = pack(b, weight_hh, turned=False)
    da, dh, step = (b.empty(shape, x.dtype) for shape in (hs.shape, (n, size), (n, size)))
    product = b.empty((n, panels.shape[0] * panels.shape[2]), x.dtype)
    dy, dh_last = or_empty(b, dys[0], x, 3), or_empty(b, dys[1], x, 2)
    flags = relu, np.bool_(slots[5].wanted), reverse
    b.launch(_backward, states, panels, real, dy, dh_last, da, dh, step, product, *flags, cost=cost)
    return *gradients(b, x, weight_ih, weight_hh, hs, da, da, slots), dh if slots[5].wanted else None, None


kernel(rnn, rnn_forward, rnn_backward, fits)
