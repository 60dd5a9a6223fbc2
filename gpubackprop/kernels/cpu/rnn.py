"""Elman's RNN: as kernels/cpu/lstm.py, with one gate."""

from __future__ import annotations

from gpubackprop.kernels.cpu.gates import copy, relu_of_sum, tanh_of_sum
from gpubackprop.kernels.cpu.jit import inline, serial
from gpubackprop.kernels.cpu.recurrent import cell, recurrent
from gpubackprop.ops.recurrent import rnn


@serial
def _tanh_slopes(a, dh, da):  # (H,) each
    one = a.dtype.type(1)
    for j in range(a.size):
        da[j] = dh[j] * (one - a[j] * a[j])
        dh[j] = 0


@serial
def _relu_slopes(a, dh, da):
    for j in range(a.size):
        da[j] = dh[j] if a[j] > 0 else a.dtype.type(0)
        dh[j] = 0


@inline
def _tanh_step(a, p, bias, states, kept, n, at):
    tanh_of_sum(a, p[: a.size], bias)
    copy(a, states[0, n])


@inline
def _tanh_step_backward(a, kept, dstates, da, n, at):
    _tanh_slopes(a, dstates[0, n], da)


@inline
def _relu_step(a, p, bias, states, kept, n, at):
    relu_of_sum(a, p[: a.size], bias)
    copy(a, states[0, n])


@inline
def _relu_step_backward(a, kept, dstates, da, n, at):
    _relu_slopes(a, dstates[0, n], da)


CELLS = {"tanh": cell(_tanh_step, _tanh_step_backward), "relu": cell(_relu_step, _relu_step_backward)}

recurrent(rnn, lambda nonlinearity="tanh": CELLS[nonlinearity])
