"""Convolution with 3 × 3 windows by Winograd's short products: 36 multiplications for 16 results instead of 144.

Lavin and Gray 2016. An image is cut into tiles of m × m results; with B, G and A of winograd_tiles.py, a tile of y is
Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A, summed over the channels, so that there is one matrix product (tiles × C) (C × O) for each
of the (m + 2)² places. The gradient of x is the convolution of dy with the turned kernel; that of w is
Gᵀ [ Σ over tiles of (Bᵀ x B) ⊙ (A dy Aᵀ) ] G. Each thread takes some rows of tiles at a time, which stay in its cache:
no transformed image is ever in memory as a whole, nor kept for the backward pass.

A NaN or infinity in x reaches all results of its tiles, up to m - 1 cells further than in the reference.
Letters as in ops/conv.py.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.conv import ALGORITHMS, Algorithm
from gpubackprop.kernels.cpu.tile import lanes
from gpubackprop.kernels.cpu.vectors import SUMS
from gpubackprop.kernels.cpu.winograd_tiles import CHANNELS, convolve, correlate, to_filters, to_weights, turn
from gpubackprop.ops.conv import Sizes, Windows

CACHE = 384 * 1024  # bytes of transformed tiles that a thread has in hand at a time
FEWEST = 48  # tiles at a time: with fewer, reading the filters takes longer than multiplying
CHANNELS_FROM = 4  # with fewer, on either side, most of the time goes into the transforms
SPLIT = 128  # input channels from which on threads share the channels instead of the samples


class _Plan:
    """How a convolution from C = `inner` to O = `outer` channels is cut up, and its scratch memory."""

    def __init__(self, b: CpuBackend, m: int, dtype: Any, batch: int, out: Sizes, inner: int, outer: int, split: int):
        self.b, self.dtype, self.squares = b, dtype, (m + 2) ** 2
        self.lanes = lanes(dtype.itemsize)
        self.panels = -(-outer // self.lanes)
        unit = max(self.lanes, SUMS)
        self.columns = -(-inner // (unit * split)) * unit
        down, tiles = (-(-p // m) for p in out)
        numbers = self.squares * (self.columns + self.panels * self.lanes)  # of a tile
        at_once = max(FEWEST, CACHE // (numbers * dtype.itemsize))
        self.block = max(1, min(-(-batch * down * split // b.threads), at_once // max(tiles, 1)))
        self.places = -(-self.block * tiles // SUMS) * SUMS
        self.work = max((m + 2) * (m * tiles + 2), m * tiles * (m + 3), (m + 2) * 3 * CHANNELS) * self.lanes
        # Multiply-adds of the products, and as much as 16 for each number that is transformed.
        self.cost = 0.011 * batch * down * tiles * self.squares * (inner * outer + 16 * (inner + outer))

    def scratch(self) -> tuple[Array, Array, Array]:
        """Each thread's left and right factors, and rows of tiles half transformed.

        A line more than they need keeps the planes from falling on the same lines of the cache.
        """
        sizes = (self.squares * (self.places * c + self.lanes) for c in (self.columns, self.panels * self.lanes))
        left, right, work = (self.b.empty((self.b.threads, size), self.dtype) for size in (*sizes, self.work))
        return left, right, work


def _flat(images: Array) -> Array:
    """images (N, H, W, C) as (N, H·W·C), though N be zero."""
    return images.reshape(images.shape[0], images.shape[1] * images.shape[2] * images.shape[3])


def forward(m: int, b: CpuBackend, x: Array, weight: Array, bias: Array | None, lie: Windows) -> Array:
    """x (N, H, W, C), weight (3, 3, C, O), bias (O,) or None -> y (N, P, Q, O)."""
    (top, bottom), (left, right) = lie.padding
    batch, height, width, inner = x.shape
    out = (height + top + bottom - 2, width + left + right - 2)
    outer = weight.shape[-1]
    plan = _Plan(b, m, x.dtype, batch, out, inner, outer, 1)
    tile, scratch = (0,) * m, plan.scratch()
    filters = b.empty((plan.squares * plan.panels * inner * plan.lanes,), x.dtype)
    b.launch(to_filters, tile, weight.reshape(-1), inner, outer, filters, scratch[-1], cost=0.1 * filters.size)
    y = b.empty((batch, *out, outer), x.dtype)
    bias = b.empty((0,), x.dtype) if bias is None else bias
    sizes = (height, width, inner), (*out, outer)
    b.launch(
        convolve, tile, _flat(x), sizes[0], filters, bias, _flat(y), sizes[1], (top, left), plan.block, *scratch,
        cost=plan.cost,
    )  # fmt: skip
    return y


def backward_data(m: int, b: CpuBackend, dy: Array, weight: Array, x_shape: Sizes, lie: Windows) -> Array:
    """dy (N, P, Q, O) -> dx (N, H, W, C)."""
    inner, outer = weight.shape[2:]
    turned = b.empty((3, 3, outer, inner), weight.dtype)
    b.launch(turn, weight.reshape(9, inner, outer), turned.reshape(9, outer, inner), cost=0.5 * weight.size)
    padding = tuple((2 - before, 2 - after) for before, after in lie.padding)
    return forward(m, b, dy, turned, None, lie._replace(padding=padding))


def backward_weights(m: int, b: CpuBackend, x: Array, dy: Array, weight_shape: Sizes, lie: Windows, out: Array) -> None:
    """x (N, H, W, C), dy (N, P, Q, O) -> out (3, 3, C, O)."""
    inner, outer = weight_shape[2:]
    # Each part has sums of its own: where they are large, they are of some channels each.
    split = next(n for n in range(b.threads, 0, -1) if b.threads % n == 0 and (n == 1 or inner >= SPLIT * n))
    plan = _Plan(b, m, x.dtype, x.shape[0], dy.shape[1:3], inner, outer, split)
    tile, scratch = (0,) * m, plan.scratch()
    sums = b.empty((b.threads, plan.squares * plan.panels * plan.columns * plan.lanes), x.dtype)
    padding = (lie.padding[0][0], lie.padding[1][0])
    b.launch(
        correlate, tile, _flat(x), x.shape[1:], _flat(dy), dy.shape[1:], sums, padding, plan.block, split, *scratch,
        cost=plan.cost,
    )  # fmt: skip
    b.launch(
        to_weights, tile, sums, split, out.reshape(-1), inner, outer, scratch[-1], cost=0.1 * sums.size
    )  # fmt: skip


def fits(m: int, x_shape: Sizes, weight_shape: Sizes, lie: Windows, dtype: Any) -> bool:
    """Whether windows are 3 × 3 and next to each other, and tiles of m × m take the fewest multiplications."""
    if (
        tuple(weight_shape[:-2]) != (3, 3)
        or min(weight_shape[-2:]) < CHANNELS_FROM
        or not tuple(lie.stride) == tuple(lie.dilation) == (1, 1)
        or lie.groups != 1
        or not all(0 <= p <= 2 for side in lie.padding for p in side)
        or np.dtype(dtype) not in (np.float32, np.float64)
    ):
        return False
    out = [size + sum(padding) - 2 for size, padding in zip(x_shape[1:3], lie.padding, strict=True)]
    # With one result, the plain way. Of two that take as many, the smaller: its tiles are quicker to transform.
    return m == min((1, 2, 4), key=lambda m: (m + 2) ** 2 * prod(-(-size // m) for size in out))


for _m in (4, 2):
    ALGORITHMS[f"winograd{_m}"] = Algorithm(
        partial(fits, _m), partial(forward, _m), partial(backward_data, _m), partial(backward_weights, _m)
    )
