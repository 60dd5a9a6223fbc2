"""LSTM: the gates of a step in one pass over its product with the state, while that is in the cache."""

from __future__ import annotations

from gpubackprop.kernels.cpu.elementary import tanh
from gpubackprop.kernels.cpu.gates import logistic_of_sum, tanh_of_sum
from gpubackprop.kernels.cpu.jit import inline, serial
from gpubackprop.kernels.cpu.recurrent import cell, recurrent
from gpubackprop.ops.recurrent import lstm


@serial
def _next(a, c, h):  # gates (4H,), c and h (H,) in place
    size = c.size
    i, f, g, o = a[:size], a[size : 2 * size], a[2 * size : 3 * size], a[3 * size :]
    for j in range(size):
        c[j] = f[j] * c[j] + i[j] * g[j]
        h[j] = o[j] * tanh(c[j])


@serial
def _slopes(a, c_before, dh, dc, da):  # gates (4H,), dh and dc (H,) in place, da (4H,)
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
        dh[j] = 0


@inline
def _step(a, p, bias, states, kept, n, at):
    size = states.shape[2]
    logistic_of_sum(a[: 2 * size], p[: 2 * size], bias[: 2 * size])
    tanh_of_sum(a[2 * size : 3 * size], p[2 * size : 3 * size], bias[2 * size : 3 * size])
    logistic_of_sum(a[3 * size :], p[3 * size : 4 * size], bias[3 * size :])
    _next(a, states[1, n], states[0, n])


@inline
def _step_backward(a, kept, dstates, da, n, at):
    _slopes(a, kept[1, n, at], dstates[0, n], dstates[1, n], da)


LSTM = cell(_step, _step_backward, states=2)

recurrent(lstm, lambda: LSTM)
