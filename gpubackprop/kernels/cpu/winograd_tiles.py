"""The compiled parts of Winograd's convolution: tiles to places, places to tiles, filters, and the products between.

Images are (N, H·W·C), filters and scratch memory flat. L numbers make a vector; a plane is what belongs to one of the
(m + 2)² places. What is the right factor of a product, or its result, lies as (plane, panel of L columns, rows, L); the
left factor as (plane, rows, columns), columns rounded up to SUMS and to L. `tile`, `places` and `_TAPS` are sizes, m,
m + 2 and 3, given as tuples of so many zeros: a function is compiled for each m that is in use.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import polynomial

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.tile import BYTES
from gpubackprop.kernels.cpu.vectors import SUMS, linear_map, product

CHANNELS = 32  # whose filters are transformed at a time
_ALL = 1 << 30  # of the inputs, lanes or results of a map
_TAPS = (0, 0, 0)


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
_narrow, _wide = product(1), product(2)


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
    """A matrix product of `panels` panels of b; `rows` rounded up to SUMS. Arguments as in vectors.product."""
    for v in range(0, panels - 1, 2):
        for r in range(0, rows, SUMS // 2):
            _wide(
                a, a_at + r * a_row, a_row, a_step, b, b_at + v * b_panel, b_step, b_panel,
                c, c_at + r * c_row + v * c_panel, c_row, c_panel, steps, keep,
            )  # fmt: skip
    if panels % 2:
        v = panels - 1
        for r in range(0, rows, SUMS):
            _narrow(
                a, a_at + r * a_row, a_row, a_step, b, b_at + v * b_panel, b_step, b_panel,
                c, c_at + r * c_row + v * c_panel, c_row, c_panel, steps, keep,
            )  # fmt: skip


@serial
def _scatter(reach, tile, image, size, begin, end, top, left, tiles, work, planes, plane, panel, at, step):
    """A row of tiles of an image, each of the size of `reach`, through the map along both axes; channels begin to end.

    Channel c of tile p goes to planes[k·plane + (c // L)·panel + at + p·step + c % L], c counted from `begin`.
    """
    m, places, (height, width, channels) = len(tile), (*tile, 0, 0), size
    lanes = BYTES // image.itemsize
    span = (tiles - 1) * m + len(reach)
    low, high = max(0, -top), min(len(reach), height - top)
    first, last = max(0, min(span, -left)), min(span, width - left)
    for c in range(begin, end, lanes):
        for i in range(m + 2):  # the columns outside the image
            row = work[i * span * lanes : (i + 1) * span * lanes]
            _zero(row[: first * lanes])
            _zero(row[last * lanes :])
        _to_places(
            places, reach, image, (top * width + left + first) * channels + c, width * channels, channels,
            low, high, end - c, work, first * lanes, span * lanes, lanes, _ALL, _ALL, last - first,
        )  # fmt: skip
        for i in range(m + 2):
            _to_places(
                places, reach, work, i * span * lanes, lanes, m * lanes, 0, _ALL, _ALL,
                planes, i * (m + 2) * plane + (c - begin) // lanes * panel + at, plane, step, _ALL, _ALL, tiles,
            )  # fmt: skip


@serial
def _gather(tile, planes, plane, panel, at, bias, image, size, top, tiles, work):
    """A row of tiles back into an image (H, W, O): from planes[k·plane + (o // L)·panel + at + p·L + o % L]."""
    m, places, (height, width, channels) = len(tile), (*tile, 0, 0), size
    lanes = BYTES // image.itemsize
    wide = (m + 3) * lanes  # of a tile's row: its places, and the bias, which the second map adds
    for c in range(0, channels, lanes):
        for p in range(m * tiles):
            spot = work[(p + 1) * wide - lanes : (p + 1) * wide]
            _zero(spot)
            if bias.size > 0:
                _add(bias[c : c + lanes], spot)
        for j in range(m + 2):
            _to_results(
                tile, places, planes, j * plane + c // lanes * panel + at, (m + 2) * plane, lanes, 0, _ALL, _ALL,
                work, j * lanes, tiles * wide, wide, _ALL, _ALL, tiles,
            )  # fmt: skip
        whole = width // m
        for r in range(min(m, height - top)):
            start, to = r * tiles * wide, (top + r) * width * channels + c
            _to_biased(
                tile, (*places, 0), work, start, lanes, wide, 0, _ALL, _ALL,
                image, to, channels, m * channels, _ALL, channels - c, whole,
            )  # fmt: skip
            if whole < tiles:
                _to_biased(
                    tile, (*places, 0), work, start + whole * wide, lanes, 0, 0, _ALL, _ALL,
                    image, to + whole * m * channels, channels, 0, width - whole * m, channels - c, 1,
                )  # fmt: skip


@parallel
def turn(weight, turned, threads):
    """weight (9, C, O) -> turned (9, O, C), the taps from the last to the first."""
    for t in prange(threads):
        for o in range(t * turned.shape[1] // threads, (t + 1) * turned.shape[1] // threads):
            for k in range(9):
                for c in range(turned.shape[2]):
                    turned[8 - k, o, c] = weight[k, c, o]


@parallel
def to_filters(tile, weight, inner, outer, filters, work, threads):
    """weight (9·C·O,) -> filters G w Gᵀ as (plane, panel, C, L); work (threads, ·)."""
    m, places, lanes = len(tile), (*tile, 0, 0), BYTES // weight.itemsize
    panels, blocks = -(-outer // lanes), -(-inner // CHANNELS)
    plane = panels * inner * lanes
    for t in prange(threads):
        for task in range(t * panels * blocks // threads, (t + 1) * panels * blocks // threads):
            v, c = task // blocks, task % blocks * CHANNELS
            count = min(CHANNELS, inner - c)
            for j in range(3):
                _to_filters(
                    places, _TAPS, weight, (j * inner + c) * outer + v * lanes, 3 * inner * outer, outer,
                    0, _ALL, outer - v * lanes,
                    work[t], j * count * lanes, 3 * count * lanes, lanes, _ALL, _ALL, count,
                )  # fmt: skip
            for i in range(m + 2):
                _to_filters(
                    places, _TAPS, work[t], i * 3 * count * lanes, count * lanes, lanes, 0, _ALL, _ALL,
                    filters, i * (m + 2) * plane + (v * inner + c) * lanes, plane, lanes, _ALL, _ALL, count,
                )  # fmt: skip


@parallel
def convolve(tile, x, size, filters, bias, y, out, padding, block, left, right, work, threads):
    """x (N, H·W·C), size (H, W, C), filters, bias (O,) or (0,) -> y (N, P·Q·O), out (P, Q, O); padding (top, left).

    `block` rows of tiles at a time, in left, right and work (threads, ·).
    """
    m, lanes = len(tile), BYTES // x.itemsize
    down, tiles, panels = -(-out[0] // m), -(-out[1] // m), -(-out[2] // lanes)
    squares = (m + 2) * (m + 2)
    places = -(-block * tiles // SUMS) * SUMS
    columns = -(-size[2] // lanes) * lanes
    left_plane, right_plane, plane = left.shape[1] // squares, right.shape[1] // squares, panels * size[2] * lanes
    for t in prange(threads):
        end = (t + 1) * x.shape[0] * down // threads
        for row in range(t * x.shape[0] * down // threads, end, block):
            rows = min(block, end - row)
            for r in range(rows):
                n, top = (row + r) // down, (row + r) % down * m
                _scatter(
                    (*tile, 0, 0), tile, x[n], size, 0, size[2], top - padding[0], -padding[1], tiles,
                    work[t], left[t], left_plane, lanes, r * tiles * columns, columns,
                )  # fmt: skip
            for k in range(squares):
                _multiply(
                    left[t], k * left_plane, columns, 1, filters, k * plane, lanes, size[2] * lanes,
                    right[t], k * right_plane, lanes, places * lanes, rows * tiles, panels, size[2], False,
                )  # fmt: skip
            for r in range(rows):
                n, top = (row + r) // down, (row + r) % down * m
                at = r * tiles * lanes
                _gather(tile, right[t], right_plane, places * lanes, at, bias, y[n], out, top, tiles, work[t])


@parallel
def correlate(tile, x, size, dy, out, sums, padding, block, split, left, right, work, threads):
    """x, dy (N, P·Q·O) -> sums (parts, plane · panel · C / split · L); the rest as in `convolve`.

    Part i is the sum over the share i // split of the samples, for the share i % split of the input channels.
    """
    m, lanes = len(tile), BYTES // x.itemsize
    down, tiles, panels = -(-out[0] // m), -(-out[1] // m), -(-out[2] // lanes)
    squares, parts = (m + 2) * (m + 2), sums.shape[0]
    places = block * tiles
    columns = sums.shape[1] // (squares * panels * lanes)
    left_plane, right_plane, plane = left.shape[1] // squares, right.shape[1] // squares, panels * columns * lanes
    for t in prange(threads):
        for part in range(t * parts // threads, (t + 1) * parts // threads):
            _zero(sums[part])
            begin, stop = part % split * columns, min(size[2], (part % split + 1) * columns)
            end = (part // split + 1) * x.shape[0] * down // (parts // split)
            for row in range(part // split * x.shape[0] * down // (parts // split), end, block):
                rows = min(block, end - row)
                for r in range(rows):
                    n, top = (row + r) // down, (row + r) % down * m
                    _scatter(
                        (*tile, 0, 0), tile, x[n], size, begin, stop, top - padding[0], -padding[1], tiles,
                        work[t], left[t], left_plane, lanes, r * tiles * columns, columns,
                    )  # fmt: skip
                    _scatter(
                        tile, tile, dy[n], out, 0, out[2], top, 0, tiles,
                        work[t], right[t], right_plane, places * lanes, r * tiles * lanes, lanes,
                    )  # fmt: skip
                for k in range(squares):
                    _multiply(
                        left[t], k * left_plane, 1, columns, right[t], k * right_plane, lanes, places * lanes,
                        sums[part], k * plane, lanes, columns * lanes, columns, panels, rows * tiles, True,
                    )  # fmt: skip


@parallel
def to_weights(tile, sums, split, dweight, inner, outer, work, threads):
    """The sums of `correlate`, added up -> dweight (9·C·O,)."""
    m, places, lanes = len(tile), (*tile, 0, 0), BYTES // dweight.itemsize
    panels, blocks = -(-outer // lanes), -(-inner // CHANNELS)
    columns = sums.shape[1] // (len(places) * len(places) * panels * lanes)
    plane = panels * columns * lanes
    for t in prange(threads):
        for task in range(t * panels * blocks // threads, (t + 1) * panels * blocks // threads):
            v, c = task // blocks, task % blocks * CHANNELS
            count = min(CHANNELS, inner - c)
            total, at = sums[c // columns], (v * columns + c % columns) * lanes
            for part in range(c // columns + split, sums.shape[0], split):
                for k in range(len(places) * len(places)):
                    here = slice(k * plane + at, k * plane + at + count * lanes)
                    _add(sums[part][here], total[here])
            for j in range(m + 2):
                _to_weights(
                    _TAPS, places, total, j * plane + at, (m + 2) * plane, lanes, 0, _ALL, _ALL,
                    work[t], j * count * lanes, (m + 2) * count * lanes, lanes, _ALL, _ALL, count,
                )  # fmt: skip
            for i in range(3):
                _to_weights(
                    _TAPS, places, work[t], i * (m + 2) * count * lanes, count * lanes, lanes, 0, _ALL, _ALL,
                    dweight, (i * 3 * inner + c) * outer + v * lanes, inner * outer, outer,
                    _ALL, outer - v * lanes, count,
                )  # fmt: skip
