"""GRU: as kernels/cpu/lstm.py, with the gate n's share of the state kept for the backward pass."""

from __future__ import annotations

from gpubackprop.kernels.cpu.elementary import tanh
from gpubackprop.kernels.cpu.gates import logistic_of_sum
from gpubackprop.kernels.cpu.jit import inline, serial
from gpubackprop.kernels.cpu.recurrent import cell, recurrent
from gpubackprop.ops.recurrent import gru


@serial
def _next(a, q, bias, qn, h):  # gates (3H,), the state's share of n (H,), biases of n (2H,), qn (H,); h (H,) in place
    size = h.size
    r, z, n, bias_q, bias_p = a[:size], a[size : 2 * size], a[2 * size :], bias[:size], bias[size:]
    one = a.dtype.type(1)
    for j in range(size):
        qn[j] = q[j] + bias_q[j]
        n[j] = tanh(n[j] + bias_p[j] + r[j] * qn[j])
        h[j] = (one - z[j]) * n[j] + z[j] * h[j]


@serial
def _slopes(a, h_before, qn, dh, da):  # gates (3H,), dh (H,) in place: what passes the product by, da (4H,): dq, dn
    size = dh.size
    r, z, n = a[:size], a[size : 2 * size], a[2 * size :]
    dr, dz, dqn, dn = da[:size], da[size : 2 * size], da[2 * size : 3 * size], da[3 * size :]
    one = a.dtype.type(1)
    for j in range(size):
        dz[j] = dh[j] * (h_before[j] - n[j]) * z[j] * (one - z[j])
        dn[j] = dh[j] * (one - z[j]) * (one - n[j] * n[j])
        dqn[j] = dn[j] * r[j]
        dr[j] = dn[j] * qn[j] * r[j] * (one - r[j])
        dh[j] *= z[j]


@inline
def _step(a, q, bias, states, kept, n, at):
    size = states.shape[2]
    logistic_of_sum(a[: 2 * size], q[: 2 * size], bias[: 2 * size])
    _next(a, q[2 * size : 3 * size], bias[2 * size :], kept[1, n, at], states[0, n])


@inline
def _step_backward(a, kept, dstates, da, n, at):
    _slopes(a, kept[0, n, at], kept[1, n, at], dstates[0, n], da)


GRU = cell(_step, _step_backward, apart=True)

recurrent(gru, lambda: GRU)
