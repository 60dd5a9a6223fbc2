"""LSTM: the gates of a step in one pass over its product with the state, while that is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.elementary import tanh
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
    logistic_of_sum,
    or_empty,
    real_steps,
    tanh_of_sum,
)
from gpubackprop.ops.recurrent import lstm
from gpubackprop.tape import Slots


@serial
def _state(a, c, h):  # gates (4H,), c and h in place
    size = c.size
    i, f, g, o = a[:size], a[size : 2 * size], a[2 * size : 3 * size], a[3 * size :]
    for j in range(size):
        c[j] = f[j] * c[j] + i[j] * g[j]
        h[j] = o[j] * tanh(c[j])


@serial
def _slopes(a, c_before, dh, dc, da):  # gates (4H,), dc in place, da (4H,)
    size = dc.size
    i, f, g, o = a[:size], a[size : 2 * size], a[2 * size : 3 * size], a[3 * size :]
    di, df, dg, do = da[:size], da[size : 2 * size], da[2 * size : 3 * size], da[3 * size :]
    one = a.dtype.type(1)
    for j in range(size):
        y = tanh(f[j] * c_before[j] + i[j] * g[j])
        d = dc[j] + dh[j] * o[j] * (one - y * y)
        di[j] = d * g[j] * i[j] * (one - i[j])
        df[j] = d * c_before[j] * f[j] * (one - f[j])
        dg[j] = d * i[j] * (one - g[j] * g[j])
        do[j] = dh[j] * y * o[j] * (one - o[j])
        dc[j] = d * f[j]


@parallel
def _forward(gates, panels, bias, h0, c0, real, y, hs, cs, h, c, product, reverse, threads):
    # gates (N, T, 4H) in place, y (N, T, H), hs and cs the states before each step, h and c the running ones (N, H)
    size, steps = h.shape[1], y.shape[1]
    share = -(-h.shape[0] // threads)
    for t in prange(threads):
        low, high = t * share, min((t + 1) * share, h.shape[0])
        for n in range(low, high):
            clear(h[n])
            clear(c[n])
            clear(product[n])
            if h0.size:
                copy(h0[n], h[n])
            if c0.size:
                copy(c0[n], c[n])
        for s in range(steps):
            at = steps - 1 - s if reverse else s
            if s or h0.size:
                multiply(h[low:high], panels, product[low:high], False)
            for n in range(low, high):
                copy(h[n], hs[n, at])
                copy(c[n], cs[n, at])
                if real.size and not real[n, at]:
                    hide(h[n], y[n, at])
                    continue
                a, p = gates[n, at], product[n]
                logistic_of_sum(a[: 2 * size], p[: 2 * size], bias[: 2 * size])
                tanh_of_sum(a[2 * size : 3 * size], p[2 * size : 3 * size], bias[2 * size : 3 * size])
                logistic_of_sum(a[3 * size :], p[3 * size : 4 * size], bias[3 * size :])
                _state(a, c[n], h[n])
                copy(h[n], y[n, at])


@parallel
def _backward(gates, panels, cs, real, dy, dh_last, dc_last, da, dh, dc, step, product, to_start, reverse, threads):
    # da (N, T, 4H), step (N, 4H) those of one step; dh and dc (N, H): in the end those of the first states
    size, steps = dh.shape[1], da.shape[1]
    share = -(-dh.shape[0] // threads)
    for t in prange(threads):
        low, high = t * share, min((t + 1) * share, dh.shape[0])
        for n in range(low, high):
            clear(dh[n])
            clear(dc[n])
            if dh_last.size:
                copy(dh_last[n], dh[n])
            if dc_last.size:
                copy(dc_last[n], dc[n])
        for s in range(steps - 1, -1, -1):
            at = steps - 1 - s if reverse else s
            for n in range(low, high):
                if real.size and not real[n, at]:
                    clear(step[n])
                else:
                    if dy.size:
                        add(dy[n, at], dh[n])
                    _slopes(gates[n, at], cs[n, at], dh[n], dc[n], step[n])
                copy(step[n], da[n, at])
            if s or to_start:
                multiply(step[low:high], panels, product[low:high], False)
                for n in range(low, high):
                    if not real.size or real[n, at]:
                        copy(product[n, :size], dh[n])


def lstm_forward(
    b: CpuBackend,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    h0: Array | None = None,
    c0: Array | None = None,
    mask: Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/recurrent.py."""
    n, t, _ = x.shape
    size = weight_hh.shape[1]
    panels = pack(b, weight_hh, turned=True)
    gates = input_products(b, x, weight_ih)
    bias, _ = biases(b, bias_ih, bias_hh, 4 * size, x, 4 * size)
    real = real_steps(b, mask)
    y, hs, cs = (b.empty((n, t, size), x.dtype) for _ in range(3))
    h, c = b.empty((n, size), x.dtype), b.empty((n, size), x.dtype)
    product = b.empty((n, panels.shape[0] * panels.shape[2]), x.dtype)
    start = or_empty(b, h0, x, 2), or_empty(b, c0, x, 2)
    cost = FLOP * gates.size * size
    b.launch(_forward, gates, panels, bias, *start, real, y, hs, cs, h, c, product, np.bool_(reverse), cost=cost)
    return (y, h, c), (x, weight_ih, weight_hh, gates, hs, cs, real, reverse, cost)


def lstm_backward(b: CpuBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/recurrent.py."""
    x, weight_ih, weight_hh, gates, hs, cs, real, reverse, cost = saved
    n, _, size = hs.shape
    panels = pack(b, weight_hh, turned=False)
    da, step = b.empty(gates.shape, x.dtype), b.empty((n, 4 * size), x.dtype)
    dh, dc = b.empty((n, size), x.dtype), b.empty((n, size), x.dtype)
    product = b.empty((n, panels.shape[0] * panels.shape[2]), x.dtype)
    back = (or_empty(b, dy, x, axes) for dy, axes in zip(dys, (3, 2, 2), strict=True))
    flags = np.bool_(slots[5].wanted), np.bool_(reverse)
    b.launch(_backward, gates, panels, cs, real, *back, da, dh, dc, step, product, *flags, cost=cost)
    to_start = (dh if slots[5].wanted else None, dc if slots[6].wanted else None)
    return *gradients(b, x, weight_ih, weight_hh, hs, da, da, slots), *to_start, None


kernel(lstm, lstm_forward, lstm_backward, fits)
