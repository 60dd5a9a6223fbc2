"""How many blocks of how many threads. None of these numbers has been measured."""

from __future__ import annotations

from typing import TypeAlias

THREADS = 256
BLOCKS = 2048  # a thread takes several turns beyond; the largest GPUs hold some 1100 such blocks at once
PACK = 16  # bytes that a thread reads at once
WARP = 32
ONE_WARP = 512  # numbers of a row that one warp goes over, without barriers
TURNS = 4  # rows for each thread, at least, where their columns are summed: else the second kernel reads as much

Grid: TypeAlias = tuple[int, int]


def elementwise(count: int, itemsize: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block for `count` numbers that have nothing to do with each other."""
    return (min(-(-count * itemsize // (PACK * THREADS)), BLOCKS),), (THREADS,)


def row_threads(width: int, itemsize: int) -> tuple[int]:
    """The block that goes over a row of `width` numbers: whole warps, PACK bytes for each thread or more."""
    packs = -(-width * itemsize // PACK)
    return (min(max(-(-packs // WARP), 1) * WARP, 512),)


def rows_of_threads(count: int, width: int, itemsize: int) -> tuple[tuple[int], tuple[int, ...]]:
    """Grid and block for `count` rows of `width` numbers: a warp for a short row, several to a block; else a block."""
    if width <= ONE_WARP:
        lines = THREADS // WARP
        return (-(-count // lines),), (WARP, lines)
    return (count,), row_threads(width, itemsize)


COLUMNS, LINES = 32, 8  # the block of lines.cuh
STRIPS = 128  # at most


def line_blocks(width: int, itemsize: int) -> tuple[int, tuple[int, int]]:
    """How many blocks go over `width` columns as in lines.cuh, a thread having PACK bytes of them; and the block."""
    return -(-width * itemsize // (PACK * COLUMNS)), (COLUMNS, LINES)


def strips(rows: int, blocks: int) -> int:
    """Into how many strips to cut `rows` that `blocks` blocks go down: four turns of a line or more in each."""
    return max(min(-(-rows // (4 * LINES)), 512 // max(blocks, 1), STRIPS), 1)


def over_channels(samples: int, positions: int, channels: int, itemsize: int) -> tuple[int, Grid, Grid]:
    """Strips of each sample's rows, grid and block (columns.cuh) for (N, P, C)."""
    across, block = channel_block(positions, channels, itemsize)
    count = max(min(-(-positions // (block[1] * TURNS)), BLOCKS // (max(samples, 1) * across)), 1)
    return count, (samples * count, across), block


def channel_block(rows: int, channels: int, itemsize: int) -> tuple[int, Grid]:
    """How many blocks (channels, rows) stand side by side (columns.cuh), and their size."""
    packs = max(-(-channels * itemsize // PACK), 1)
    across = -(-packs // WARP)
    columns = -(-packs // across)
    return across, (columns, max(min(THREADS // columns, rows), 1))
