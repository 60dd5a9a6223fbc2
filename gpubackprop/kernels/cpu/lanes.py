"""Sums by channel as vector instructions, however few the channels are.

Letters: C channels; K lanes, a multiple of C wide enough for vectors; values (T,) lie as rows of K, the last one
shorter. Lane l belongs to channel l mod C. Sums are kept by lane and put together at the end, in float64.
"""

from __future__ import annotations

from gpubackprop.kernels.cpu.jit import serial

WIDE = 512  # lanes, about: four arrays of them stay in the first cache


def lanes_of(channels: int) -> int:
    """K."""
    return channels * max(1, WIDE // channels)


@serial
def add(x, total):  # (K,), (K,)
    """total += x."""
    for i in range(x.size):
        total[i] += x[i]


@serial
def merged(rows, more, other, mean, squares):  # number of rows so far, of further ones, (K,) each
    """Chan, Golub and LeVeque 1979: the mean and squares of both parts from those of each.

    other (K,) is the mean of the further rows, whose squares are in `squares` already.
    """
    share = mean.dtype.type(more / (rows + more))
    weight = mean.dtype.type(rows * (more / (rows + more)))
    for i in range(mean.size):
        delta = other[i] - mean[i]
        mean[i] += delta * share
        squares[i] += delta * delta * weight


@serial
def tiled(values, lanes):  # (C,), (K,)
    """values, again and again."""
    for start in range(0, lanes.size, values.size):
        for c in range(values.size):
            lanes[start + c] = values[c]
