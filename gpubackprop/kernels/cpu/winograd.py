"""Convolution with 3 × 3 windows by Winograd's short products: 36 multiplications for 16 results instead of 144.

Lavin and Gray 2016. An image is cut into tiles of m × m results; with B, G and A below, a tile of y is
Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A, summed over the channels, so that there is one matrix product (tiles × C) (C × O) for each
of the (m + 2)² places. The gradient of x is the convolution of dy with the turned kernel; that of w is
Gᵀ [ Σ over tiles of (Bᵀ x B) ⊙ (A dy Aᵀ) ] G. Each thread takes some rows of tiles at a time, which stay in its cache.

Letters as in ops/conv.py; L numbers make a vector; a plane is one of the (m + 2)² places. Arrays that are matrices to
the products lie as (plane, panel of L columns, rows, L), those whose numbers are taken one by one as (plane, rows, C).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.polynomial import polynomial

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.vectors import ROWS, VECTOR, linear_map, product
from gpubackprop.ops.conv import Windows


def matrices(m: int) -> tuple[Array, Array, Array]:
    """A (m + 2, m), B (m + 2, m + 2), G (m + 2, 3) for m results of 3 weights: multiply polynomials at points (Toom).

    For four results the points are 0, ±3/4, ±3/2, ∞: four times less error than Lavin and Gray's 0, ±1, ±2, ∞, for the
    powers of the points and the differences between them are all near one.
    """
    points = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}[m]
    a, b, g = np.zeros((m + 2, m)), np.zeros((m + 2, m + 2)), np.zeros((m + 2, 3))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        a[i] = point ** np.arange(m)
        b[:-1, i] = polynomial.polyfromroots(others)
        g[i] = point ** np.arange(3) / np.prod([point - other for other in others])
    a[-1, -1] = g[-1, -1] = 1
    b[:, -1] = polynomial.polyfromroots(points)
    return a, b, g


_A2, _B2, _G2 = matrices(2)
_A4, _B4, _G4 = matrices(4)
_to_places = linear_map(_B2.T, _B4.T, _A2, _A4)  # of an image, and of a gradient
_to_results = linear_map(_A2.T, _A4.T)
_to_biased = linear_map(*(np.hstack((a.T, np.ones((len(a.T), 1)))) for a in (_A2, _A4)))
_to_filters = linear_map(_G2, _G4)
_to_weights = linear_map(_G2.T, _G4.T)
_product1, _product2 = product(1), product(2)
_ALL = 1 << 30  # of the inputs or results of a map
_TAPS = (0, 0, 0)

# What is compiled takes a size as the length of a tuple of zeros: `tile` for m, `places` for m + 2.


@serial
def _zero(x):
    for i in range(x.size):
        x[i] = 0


@serial
def _add(x, y):
    for i in range(x.size):
        y[i] += x[i]


@serial
def _multiply(a, a_at, a_row, a_step, b, b_at, b_step, b_panel, c, c_at, c_row, c_panel, rows, panels, steps, keep):
    """A matrix product, of `panels` panels of b; `rows` rounded up to ROWS. Arguments as in vectors.product."""
    for v in range(0, panels - 1, 2):
        for r in range(0, rows, ROWS):
            _product2(
                a, a_at + r * a_row, a_row, a_step, b, b_at + v * b_panel, b_step, b_panel,
                c, c_at + r * c_row + v * c_panel, c_row, c_panel, steps, keep,
            )  # fmt: skip
    if panels % 2:
        v = panels - 1
        for r in range(0, rows, ROWS):
            _product1(
                a, a_at + r * a_row, a_row, a_step, b, b_at + v * b_panel, b_step, b_panel,
                c, c_at + r * c_row + v * c_panel, c_row, c_panel, steps, keep,
            )  # fmt: skip


@serial
def _to_planes(reach, tile, image, size, channels, top, left, tiles, work, planes, plane, panel, at, step):
    """A row of tiles of an image (H, W, C), each of the size of `reach`, through a map along both axes.

    Channel c of tile p goes to planes[k·plane + (c // L)·panel + at + p·step + c % L].
    """
    m, places, (height, width) = len(tile), (*tile, 0, 0), size
    lanes = VECTOR // image.itemsize
    span = (tiles - 1) * m + len(reach)
    low, high = max(0, -top), min(len(reach), height - top)
    first, last = max(0, min(span, -left)), min(span, width - left)
    for c in range(0, channels, lanes):
        for i in range(m + 2):  # the columns outside the image
            row = work[i * span * lanes : (i + 1) * span * lanes]
            _zero(row[: first * lanes])
            _zero(row[last * lanes :])
        _to_places(
            places, reach, image, (top * width + left + first) * channels + c, width * channels, channels,
            low, high, channels - c, work, first * lanes, span * lanes, lanes, _ALL, _ALL, last - first,
        )  # fmt: skip
        for i in range(m + 2):
            _to_places(
                places, reach, work, i * span * lanes, lanes, m * lanes, 0, _ALL, _ALL,
                planes, i * (m + 2) * plane + c // lanes * panel + at, plane, step, _ALL, _ALL, tiles,
            )  # fmt: skip


@serial
def _from_planes(tile, planes, plane, panel, at, bias, image, size, channels, top, tiles, work):
    """A row of tiles back into an image (H, W, O): from planes[k·plane + (o // L)·panel + at + p·L + o % L]."""
    m, places, (height, width) = len(tile), (*tile, 0, 0), size
    lanes = VECTOR // image.itemsize
    wide = m + 3  # places and the bias, which the second map adds
    for c in range(0, channels, lanes):
        for p in range(m * tiles):
            spot = work[(p * wide + m + 2) * lanes : (p + 1) * wide * lanes]
            _zero(spot)
            if bias.size > 0:
                _add(bias[c : c + lanes], spot)
        for j in range(m + 2):
            _to_results(
                tile, places, planes, j * plane + c // lanes * panel + at, (m + 2) * plane, lanes, 0, _ALL, _ALL,
                work, j * lanes, tiles * wide * lanes, wide * lanes, _ALL, _ALL, tiles,
            )  # fmt: skip
        whole = width // m
        for r in range(min(m, height - top)):
            start, to = r * tiles * wide * lanes, (top + r) * width * channels + c
            _to_biased(
                tile, (*places, 0), work, start, lanes, wide * lanes, 0, _ALL, _ALL,
                image, to, channels, m * channels, _ALL, channels - c, whole,
            )  # fmt: skip
            if whole < tiles:
                _to_biased(
                    tile, (*places, 0), work, start + whole * wide * lanes, lanes, 0, 0, _ALL, _ALL,
                    image, to + whole * m * channels, channels, 0, width - whole * m, channels - c, 1,
                )  # fmt: skip


@parallel
def _turn(weight, turned, threads):  # (9, C, O), (9, O, C): the taps from the last to the first
    for t in prange(threads):
        for o in range(t * turned.shape[1] // threads, (t + 1) * turned.shape[1] // threads):
            for k in range(9):
                for c in range(turned.shape[2]):
                    turned[8 - k, o, c] = weight[k, c, o]


_CHANNELS = 32  # whose filters a thread transforms at a time


@parallel
def _filters(tile, weight, inner, outer, filters, work, threads):  # (9·C·O,), C, O, (planes, panels, C, L), (threads, ·)
    m, places, lanes = len(tile), (*tile, 0, 0), VECTOR // weight.itemsize
    plane, panels = filters[0].size, filters.shape[1]
    blocks = -(-inner // _CHANNELS)
    flat = filters.reshape(-1)
    for t in prange(threads):
        for task in range(t * panels * blocks // threads, (t + 1) * panels * blocks // threads):
            v, c = task // blocks, task % blocks * _CHANNELS
            count = min(_CHANNELS, inner - c)
            for j in range(3):
                _to_filters(
                    places, _TAPS, weight, (j * inner + c) * outer + v * lanes, 3 * inner * outer, outer,
                    0, _ALL, outer - v * lanes,
                    work[t], j * count * lanes, 3 * count * lanes, lanes, _ALL, _ALL, count,
                )  # fmt: skip
            for i in range(m + 2):
                _to_filters(
                    places, _TAPS, work[t], i * 3 * count * lanes, count * lanes, lanes, 0, _ALL, _ALL,
                    flat, i * (m + 2) * plane + (v * inner + c) * lanes, plane, lanes, _ALL, _ALL, count,
                )  # fmt: skip


@parallel
def _convolve(tile, x, filters, bias, y, top, left, block, spots, products, work, threads):
    # (N, H, W, C), (planes, panels, C, L), (O,) or (0,), (N, P, Q, O); per thread (planes, ·) twice and (·,)
    count, height, width, channels = x.shape
    out_height, out_width, outer = y.shape[1:]
    m, lanes = len(tile), VECTOR // x.itemsize
    down, tiles = -(-out_height // m), -(-out_width // m)
    padded = -(-channels // lanes) * lanes
    panels = filters.shape[1]
    capacity = -(-block * tiles // ROWS) * ROWS
    fplane, splane, pplane = filters[0].size, spots.shape[2], products.shape[2]
    flat = filters.reshape(-1)
    for t in prange(threads):
        here, there = spots[t].reshape(-1), products[t].reshape(-1)
        for row in range(t * count * down // threads, (t + 1) * count * down // threads, block):
            rows = min(block, (t + 1) * count * down // threads - row)
            for r in range(rows):
                n, a = (row + r) // down, (row + r) % down
                _to_planes(
                    (*tile, 0, 0), tile, x[n].reshape(-1), (height, width), channels, a * m - top, -left, tiles,
                    work[t], here, splane, lanes, r * tiles * padded, padded,
                )  # fmt: skip
            for k in range((m + 2) * (m + 2)):
                _multiply(
                    here, k * splane, padded, 1, flat, k * fplane, lanes, channels * lanes,
                    there, k * pplane, lanes, capacity * lanes, rows * tiles, panels, channels, False,
                )  # fmt: skip
            for r in range(rows):
                n, a = (row + r) // down, (row + r) % down
                _from_planes(
                    tile, there, pplane, capacity * lanes, r * tiles * lanes, bias, y[n].reshape(-1),
                    (out_height, out_width), outer, a * m, tiles, work[t],
                )  # fmt: skip


@parallel
def _correlate(tile, x, dy, sums, top, left, block, spots, products, work, threads):
    # (N, H, W, C), (N, P, Q, O), per thread (planes, panels, C rounded up to L, L), and as in _convolve
    count, height, width, channels = x.shape
    out_height, out_width, outer = dy.shape[1:]
    m, lanes = len(tile), VECTOR // x.itemsize
    down, tiles = -(-out_height // m), -(-out_width // m)
    padded = sums.shape[3]
    panels = sums.shape[2]
    capacity = block * tiles
    fplane, splane, pplane = sums[0, 0].size, spots.shape[2], products.shape[2]
    for t in prange(threads):
        here, there, total = spots[t].reshape(-1), products[t].reshape(-1), sums[t].reshape(-1)
        _zero(total)
        for row in range(t * count * down // threads, (t + 1) * count * down // threads, block):
            rows = min(block, (t + 1) * count * down // threads - row)
            for r in range(rows):
                n, a = (row + r) // down, (row + r) % down
                _to_planes(
                    (*tile, 0, 0), tile, x[n].reshape(-1), (height, width), channels, a * m - top, -left, tiles,
                    work[t], here, splane, lanes, r * tiles * padded, padded,
                )  # fmt: skip
                _to_planes(
                    tile, tile, dy[n].reshape(-1), (out_height, out_width), outer, a * m, 0, tiles,
                    work[t], there, pplane, capacity * lanes, r * tiles * lanes, lanes,
                )  # fmt: skip
            for k in range((m + 2) * (m + 2)):
                _multiply(
                    here, k * splane, 1, padded, there, k * pplane, lanes, capacity * lanes,
                    total, k * fplane, lanes, padded * lanes, padded, panels, rows * tiles, True,
                )  # fmt: skip


@parallel
def _weight_gradient(tile, sums, dweight, inner, outer, work, threads):  # as in _correlate, (9·C·O,), C, O, (threads, ·)
    m, places, lanes = len(tile), (*tile, 0, 0), VECTOR // dweight.itemsize
    panels, padded = sums.shape[2:4]
    plane = sums[0, 0].size
    blocks = -(-inner // _CHANNELS)
    flat = sums[0].reshape(-1)
    for t in prange(threads):
        for task in range(t * panels * blocks // threads, (t + 1) * panels * blocks // threads):
            v, c = task // blocks, task % blocks * _CHANNELS
            count = min(_CHANNELS, inner - c)
            for part in range(1, sums.shape[0]):
                for k in range(sums.shape[1]):
                    _add(sums[part, k, v, c : c + count].reshape(-1), sums[0, k, v, c : c + count].reshape(-1))
            for j in range(m + 2):
                _to_weights(
                    _TAPS, places, flat, j * plane + (v * padded + c) * lanes, (m + 2) * plane, lanes, 0, _ALL, _ALL,
                    work[t], j * count * lanes, (m + 2) * count * lanes, lanes, _ALL, _ALL, count,
                )  # fmt: skip
            for i in range(3):
                _to_weights(
                    _TAPS, places, work[t], i * (m + 2) * count * lanes, count * lanes, lanes, 0, _ALL, _ALL,
                    dweight, (i * 3 * inner + c) * outer + v * lanes, inner * outer, outer,
                    _ALL, outer - v * lanes, count,
                )  # fmt: skip


CACHE = 768 * 1024  # bytes of transformed tiles that a thread has in hand at a time
FEWEST = 48  # tiles at a time: with fewer, reading the filters takes longer than multiplying


class _Plan:
    """How a convolution is cut up: sizes of scratch memory, and rows of tiles at a time."""

    def __init__(self, b: CpuBackend, m: int, dtype: Any, batch: int, out: tuple[int, ...], inner: int, outer: int):
        self.b, self.m, self.tile, self.dtype = b, m, (0,) * m, dtype
        self.lanes = VECTOR // dtype.itemsize
        self.inner, self.outer = (-(-c // self.lanes) * self.lanes for c in (inner, outer))
        down, tiles = (-(-p // m) for p in out)
        at_once = max(FEWEST, CACHE // ((m + 2) ** 2 * (self.inner + self.outer) * dtype.itemsize))
        rows = max(1, -(-batch * down // b.threads))
        self.block = min(rows, max(1, at_once // tiles))
        self.places = -(-self.block * tiles // ROWS) * ROWS
        self.span = max((m + 2) * (tiles * m + 2), m * tiles * (m + 3))
        # Multiply-adds of the products, and 5 vector instructions a number for the transforms.
        self.cost = 0.011 * batch * down * tiles * (m + 2) ** 2 * (inner * outer + 10 * (inner + outer))

    def filters(self, weight: Array) -> Array:
        """weight (3, 3, C, O) -> G w Gᵀ as (planes, panels, C, L)."""
        inner, outer = weight.shape[2:]
        filters = self.b.empty(((self.m + 2) ** 2, -(-outer // self.lanes), inner, self.lanes), self.dtype)
        work = self.scratch((self.m + 2) * 3 * _CHANNELS * self.lanes)
        cost = 0.05 * filters.size
        self.b.launch(_filters, self.tile, weight.reshape(-1), inner, outer, filters, work, cost=cost)
        return filters

    def planes(self, channels: int) -> Array:
        """Scratch for tiles in hand. A line more than they need keeps planes from falling on the same cache lines."""
        return self.scratch((self.m + 2) ** 2, self.places * channels + self.lanes)

    def scratch(self, *shape: int) -> Array:
        return self.b.empty((self.b.threads, *shape), self.dtype)


def forward(b: CpuBackend, m: int, x: Array, weight: Array, bias: Array | None, lie: Windows) -> Array:
    """x (N, H, W, C), weight (3, 3, C, O), bias (O,) or None -> y (N, P, Q, O), by tiles of m × m."""
    (top, bottom), (left, right) = lie.padding
    batch, height, width, inner = x.shape
    outer = weight.shape[-1]
    out = (height + top + bottom - 2, width + left + right - 2)
    y = b.empty((batch, *out, outer), x.dtype)
    plan = _Plan(b, m, x.dtype, batch, out, inner, outer)
    arrays = plan.planes(plan.inner), plan.planes(plan.outer), plan.scratch(plan.span * plan.lanes)
    bias = b.empty((0,), x.dtype) if bias is None else bias
    b.launch(_convolve, plan.tile, x, plan.filters(weight), bias, y, top, left, plan.block, *arrays, cost=plan.cost)
    return y


def backward_data(
    b: CpuBackend, m: int, dy: Array, weight: Array, x_shape: tuple[int, ...], lie: Windows
) -> Array:
    """dy (N, P, Q, O) -> dx (N, H, W, C)."""
    inner, outer = weight.shape[2:]
    turned = b.empty((3, 3, outer, inner), weight.dtype)
    b.launch(_turn, weight.reshape(9, inner, outer), turned.reshape(9, outer, inner), cost=0.5 * weight.size)
    padding = tuple((2 - before, 2 - after) for before, after in lie.padding)
    return forward(b, m, dy, turned, None, lie._replace(padding=padding))


def backward_weights(
    b: CpuBackend, m: int, x: Array, dy: Array, weight_shape: tuple[int, ...], lie: Windows, out: Array
) -> None:
    """x (N, H, W, C), dy (N, P, Q, O) -> out (3, 3, C, O)."""
    (top, _), (left, _) = lie.padding
    inner, outer = weight_shape[2:]
    plan = _Plan(b, m, x.dtype, x.shape[0], dy.shape[1:3], inner, outer)
    sums = plan.scratch((m + 2) ** 2, plan.outer // plan.lanes, plan.inner, plan.lanes)
    arrays = plan.planes(plan.inner), plan.planes(plan.outer), plan.scratch(plan.span * plan.lanes)
    b.launch(_correlate, plan.tile, x, dy, sums, top, left, plan.block, *arrays, cost=plan.cost)
    parts = sums if plan.cost > b.shared and b.threads > 1 else sums[:1]
    work = plan.scratch((m + 2) * 3 * _CHANNELS * plan.lanes)
    cost = 0.05 * sums.size
    b.launch(_weight_gradient, plan.tile, parts, out.reshape(-1), inner, outer, work, cost=cost)


def fits(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], lie: Windows, dtype: Any) -> bool:
    """Whether windows are 3 × 3 and next to each other, with a padding of 2 at most."""
    return (
        tuple(weight_shape[:-2]) == (3, 3)
        and tuple(lie.stride) == tuple(lie.dilation) == (1, 1)
        and lie.groups == 1
        and all(0 <= p <= 2 for side in lie.padding for p in side)
        and np.dtype(dtype) in (np.float32, np.float64)
    )
