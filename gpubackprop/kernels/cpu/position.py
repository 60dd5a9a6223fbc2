"""Learned positions: added row by row; their gradients are sums over the batch, each thread at positions of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, same_floats
from gpubackprop.ops.position import learned_position
from gpubackprop.tape import Slots

NUMBER = 0.1  # nanoseconds that one number takes one thread, about


@serial
def _sum(a, c, target):
    for j in range(target.size):
        target[j] = a[j] + c[j]


@parallel
def _forward(x, weight, offset, y, threads):  # (N, T, E), (M, E), (N, T, E)
    share = -(-x.shape[1] // threads)
    for t in prange(threads):
        for n in range(x.shape[0]):
            for i in range(t * share, min((t + 1) * share, x.shape[1])):
                _sum(x[n, i], weight[offset + i], y[n, i])


@parallel
def _backward(dy, offset, dweight, threads):  # (N, T, E), (M, E)
    share = -(-dweight.shape[0] // threads)
    for t in prange(threads):
        for m in range(t * share, min((t + 1) * share, dweight.shape[0])):
            dweight[m, :] = 0
            if offset <= m < offset + dy.shape[1]:
                for n in range(dy.shape[0]):
                    _sum(dweight[m], dy[n, m - offset], dweight[m])


def learned_position_forward(b: CpuBackend, x: Array, weight: Array, *, offset: int = 0) -> tuple[Array, Any]:
    """As ops/position.py."""
    y = b.empty(x.shape, x.dtype)
    b.launch(_forward, x, weight, offset, y, cost=NUMBER * x.size)
    return y, (weight, offset)


def learned_position_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array, Array | None]:
    """As ops/position.py."""
    weight, offset = saved
    if not slots[1].wanted:
        return dy, None
    dweight = b.out(slots[1], weight)
    b.launch(_backward, dy, offset, dweight, cost=NUMBER * dy.size)
    return dy, dweight


def _fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Not beyond the last position: the reference says what is wrong."""
    x, weight = arrays
    return same_floats(arrays, options) and options.get("offset", 0) + x.shape[1] <= weight.shape[0]


kernel(learned_position, learned_position_forward, learned_position_backward, _fits)
