"""Dropout: a sample's mask is drawn and applied while it is in the cache, and kept as a byte for each element."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rule
from gpubackprop.kernels.cpu.philox import COST, U, draw_kept
from gpubackprop.ops.dropout import dropout, dropout_mask
from gpubackprop.tape import Slots


@serial
def _scale(x, kept, scale, y):  # (D,), bytes (D,), a number, (D,)
    # A product, as the reference has it: infinity dropped is not 0 but no number.
    for j in range(x.size):
        y[j] = x[j] * (scale if kept[j] != 0 else x.dtype.type(0))


@parallel
def _draw(kept, limit, samples, alike, step, seed, stream, threads):  # (N, blocks), uint64, (N,), bool, (1,), uint64
    width = -(-kept.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * width, min(kept.shape[0], (t + 1) * width)):
            draw_kept(kept[n], limit, U(0) if alike else U(samples[n]), U(step[0]), seed, stream)


@parallel
def _forward(x, kept, bytes_kept, scale, y, limit, samples, alike, step, seed, stream, threads):
    # (N, S, D), uint32 (N, blocks), the same as bytes (N, 4 blocks), a number, (N, S, D), and as _draw
    width = -(-x.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * width, min(x.shape[0], (t + 1) * width)):
            draw_kept(kept[n], limit, U(0) if alike else U(samples[n]), U(step[0]), seed, stream)
            for s in range(x.shape[1]):
                _scale(x[n, s], bytes_kept[n], scale, y[n, s])


@parallel
def _backward(dy, bytes_kept, scale, dx, threads):  # (N, S, D), (N, 4 blocks), a number, (N, S, D)
    width = -(-dy.shape[0] // threads)
    for t in prange(threads):
        for n in range(t * width, min(dy.shape[0], (t + 1) * width)):
            for s in range(dy.shape[1]):
                _scale(dy[n, s], bytes_kept[n], scale, dx[n, s])


def draws(b: CpuBackend, p: float, samples: Array, step: Any, seed: int, stream: int, alike: bool) -> tuple[Any, ...]:
    """What `draw_kept` takes after its array, with all samples and the step as arrays."""
    if not isinstance(step, np.ndarray):
        b.only_once("a step's number that is no array would stay what it is")
    limit = min(round(p * 2**32), 2**32 - 1)
    return U(limit), samples, alike, np.asarray(step).reshape(1), U(seed), U(stream)


def dropout_forward(
    b: CpuBackend,
    x: Array,
    samples: Array,
    step: int | Array,
    *,
    p: float,
    seed: int,
    stream: int,
    over: int = 0,
    alike: bool = False,
) -> tuple[Array, Any]:
    """As ops/dropout.py."""
    shape = (x.shape[0], prod(x.shape[1 : 1 + over]), prod(x.shape[1 + over :]))
    kept = b.empty((shape[0], -(-shape[2] // 4)), np.uint32)
    scale = x.dtype.type(1 / (1 - p) if p < 1 else 0.0)
    y = b.empty(x.shape, x.dtype)
    arrays = (x.reshape(shape), kept, kept.view(np.uint8), scale, y.reshape(shape))
    b.launch(
        _forward, *arrays, *draws(b, p, samples, step, seed, stream, alike), cost=0.2 * x.size + 4 * COST * kept.size
    )
    return y, (kept.view(np.uint8), scale, shape)


def dropout_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/dropout.py."""
    kept, scale, shape = saved
    dx = b.empty(dy.shape, dy.dtype)
    b.launch(_backward, dy.reshape(shape), kept, scale, dx.reshape(shape), cost=0.2 * dx.size)
    return dx, None, None


def mask(
    b: CpuBackend,
    shape: tuple[int, ...],
    samples: Array,
    step: int | Array,
    *,
    p: float,
    seed: int,
    stream: int,
    alike: bool = False,
) -> Array:
    """As dropout_mask of ops/dropout.py; a view of rows that are up to three bytes longer."""
    count = prod(shape[1:])
    kept = b.empty((shape[0], -(-count // 4)), np.uint32)
    arguments = draws(b, p, b.contiguous(samples), step, seed, stream, alike)
    b.launch(_draw, kept, *arguments, cost=4 * COST * kept.size)
    return kept.view(np.bool_)[:, :count].reshape(shape)


kernel(dropout, dropout_forward, dropout_backward)
rule(dropout_mask, mask)
