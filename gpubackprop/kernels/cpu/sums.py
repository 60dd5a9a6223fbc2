"""Sums over rows, by column: gradients of biases."""

from __future__ import annotations

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial, single

READ = 0.15  # nanoseconds per number, about
GROUP = 64  # rows summed by themselves before they are added to the total: errors grow with the number of groups
FEW = 64  # columns; rows of fewer are taken several at a time


@serial
def add(part, total):  # (C,), (C,)
    """Total becomes total + part."""
    for j in range(part.size):
        total[j] += part[j]


@parallel
def _partial(x, fold, part, group, threads):  # (M, C); part, group (chunks, fold C)
    rows, width = x.shape[0] // fold, fold * x.shape[1]
    flat = x.reshape(x.size)
    share = -(-rows // part.shape[0])
    for t in prange(part.shape[0]):
        part[t] = 0
        for low in range(t * share, min(rows, (t + 1) * share), GROUP):
            group[t] = 0
            for i in range(low, min(low + GROUP, rows, (t + 1) * share)):
                add(flat[i * width : (i + 1) * width], group[t])
            add(group[t], part[t])


@single
def _total(x, fold, part, total):  # as above; total (C,)
    channels = x.shape[1]
    total[:] = 0
    for t in range(part.shape[0]):
        for f in range(fold):
            add(part[t, f * channels : (f + 1) * channels], total)
    for i in range(x.shape[0] // fold * fold, x.shape[0]):
        add(x[i], total)


def column_sums(b: CpuBackend, x: Array, total: Array) -> None:
    """total (C,) = the sum of the rows of x (M, C)."""
    fold = max(1, FEW // max(x.shape[1], 1))
    part, group = (b.empty((b.threads, fold * x.shape[1]), x.dtype) for _ in range(2))
    b.launch(_partial, x, fold, part, group, cost=READ * x.size)
    b.launch(_total, x, fold, part, total)
