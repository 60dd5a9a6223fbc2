"""GRU: as kernels/cpu/lstm.py, with the gate n's share of the state kept for the backward pass."""

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
)
from gpubackprop.ops.recurrent import gru
from gpubackprop.tape import Slots


@serial
def _state(a, q, bias_p, bias_q, qn, h):  # gates (3H,), the state's share (3H,), biases of n (H,); h in place
    size = h.size
    r, z, n, q_n = a[:size], a[size : 2 * size], a[2 * size :], q[2 * size : 3 * size]
    one = a.dtype.type(1)
    for j in range(size):
        qn[j] = q_n[j] + bias_q[j]
        n[j] = tanh(n[j] + bias_p[j] + r[j] * qn[j])
        h[j] = (one - z[j]) * n[j] + z[j] * h[j]


@serial
def _slopes(a, h_before, qn, dh, dp, dq):  # gates (3H,), dh in place: what passes the product by, dp and dq (3H,)
    size = dh.size
    r, z, n = a[:size], a[size : 2 * size], a[2 * size :]
    dr, dz, dn = dp[:size], dp[size : 2 * size], dp[2 * size :]
    one = a.dtype.type(1)
    for j in range(size):
        dz[j] = dh[j] * (h_before[j] - n[j]) * z[j] * (one - z[j])
        dn[j] = dh[j] * (one - z[j]) * (one - n[j] * n[j])
        dr[j] = dn[j] * qn[j] * r[j] * (one - r[j])
        dh[j] *= z[j]
    copy(dp, dq)
    for j in range(size):
        dq[2 * size + j] *= r[j]


@parallel
def _forward(gates, panels, bias, bias_q, h0, real, y, hs, qns, h, product, reverse, threads):
    # gates (N, T, 3H) in place, y (N, T, H), hs the states before each step, qns (N, T, H), h the running state (N, H)
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
                a, q = gates[n, at], product[n]
                logistic_of_sum(a[: 2 * size], q[: 2 * size], bias[: 2 * size])
                _state(a, q, bias[2 * size :], bias_q, qns[n, at], h[n])
                copy(h[n], y[n, at])


@parallel
def _backward(gates, panels, hs, qns, real, dy, dh_last, dp, dq, dh, step, product, to_start, reverse, threads):
    # dp and dq (N, T, 3H), step (N, 3H): dq of one step; dh (N, H): in the end that of the first state
    size, steps = dh.shape[1], dp.shape[1]
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
                    clear(dp[n, at])
                else:
                    if dy.size:
                        add(dy[n, at], dh[n])
                    _slopes(gates[n, at], hs[n, at], qns[n, at], dh[n], dp[n, at], step[n])
                copy(step[n], dq[n, at])
            if s or to_start:
                multiply(step[low:high], panels, product[low:high], False)
                for n in range(low, high):
                    add(product[n, :size], dh[n])


def gru_forward(
    b: CpuBackend,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    h0: Array | None = None,
    mask: Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[tuple[Array, Array], Any]:
    """As ops/recurrent.py."""
    n, t, _ = x.shape
    size = weight_hh.shape[1]
    panels = pack(b, weight_hh, turned=True)
    gates = input_products(b, x, weight_ih)
    bias, bias_q = biases(b, bias_ih, bias_hh, 3 * size, x, 2 * size)
    real = real_steps(b, mask)
    y, hs, qns = (b.empty((n, t, size), x.dtype) for _ in range(3))
    h = b.empty((n, size), x.dtype)
    product = b.empty((n, panels.shape[0] * panels.shape[2]), x.dtype)
    cost = FLOP * gates.size * size
    start = or_empty(b, h0, x, 2)
    args = (gates, panels, bias, bias_q, start, real, y, hs, qns, h, product, np.bool_(reverse))
    b.launch(_forward, *args, cost=cost)
    return (y, h), (x, weight_ih, weight_hh, gates, hs, qns, real, reverse, cost)


def gru_backward(b: CpuBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/recurrent.py."""
    x, weight_ih, weight_hh, gates, hs, qns, real, reverse, cost = saved
    n, _, size = hs.shape
    panels = pack(b, weight_hh, turned=False)
    dp, dq, step = (b.empty(shape, x.dtype) for shape in (gates.shape, gates.shape, (n, 3 * size)))
    dh = b.empty((n, size), x.dtype)
    product = b.empty((n, panels.shape[0] * panels.shape[2]), x.dtype)
    dy, dh_last = or_empty(b, dys[0], x, 3), or_empty(b, dys[1], x, 2)
    flags = np.bool_(slots[5].wanted), np.bool_(reverse)
    b.launch(_backward, gates, panels, hs, qns, real, dy, dh_last, dp, dq, dh, step, product, *flags, cost=cost)
    return *gradients(b, x, weight_ih, weight_hh, hs, dp, dq, slots), dh if slots[5].wanted else None, None


kernel(gru, gru_forward, gru_backward, fits)
