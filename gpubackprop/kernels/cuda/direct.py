"""Convolution without columns, for groups of few channels, depthwise among them: x is read about once.

Letters as in ops/conv.py. What a kernel is quick for has not been measured, nor have the numbers of blocks.
"""

from __future__ import annotations

from math import prod

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import WARP
from gpubackprop.kernels.cuda.kernel import computed
from gpubackprop.kernels.cuda.windows import line_grid, windows
from gpubackprop.ops.conv import Windows

TILE, SUM_THREADS, TAPS, ADD_COLUMNS, ADD_LINES = 4, 256, 10, 32, 8  # as in direct.cu
BLOCKS = 1024  # of weight_strips, about
CHANNELS, TAPS_OF_FEW = 4, 48  # of a group; multiplications for an output, of which tensor cores do many at once
NAMES = FORWARD, BACKWARD, WEIGHT_STRIPS, ADD_STRIPS = tuple(
    f"{name}<{{real}}>" for name in ("forward", "backward", "weight_strips", "add_strips")
)
SOURCE = Source("direct.cu", NAMES)


def depthwise(weight: Array, groups: int) -> bool:
    """Whether `spread` is better than products, for a weight (*K, C/G, O); the two others are too."""
    outputs: int = weight.shape[-1] // groups
    return bool(weight.shape[-2] == 1) and outputs <= CHANNELS


def few(weight: Array, groups: int) -> bool:
    """Whether `correlate` and `weight_gradient` are better than products, for a weight (*K, C/G, O)."""
    channels: int = weight.shape[-2]
    return depthwise(weight, groups) or (channels <= CHANNELS and prod(weight.shape[:-1]) <= TAPS_OF_FEW)


def correlate(b: CudaBackend, x: Array, weight: Array, bias: Array | None, y: Array, lie: Windows) -> None:
    """x (N, *S, C), weight (*K, C/G, O), bias (O,) -> y (N, *P, O)."""
    (*cells, group_in, outputs), out, dtype = weight.shape, y.shape[1:-1], x.dtype
    grid = line_grid(len(x) * prod(out[:-1]), -(-out[-1] // TILE), outputs, dtype.itemsize)
    b.launch(
        *(SOURCE, FORWARD, dtype, *grid, x, weight, NULL if bias is None else bias, y),
        *(
            windows(x.shape[1:-1], out, tuple(cells), lie),
            *map(np.int32, (lie.groups, group_in, outputs // lie.groups)),
        ),
    )


def spread(b: CudaBackend, dy: Array, weight: Array, bias: Array | None, x: Array, lie: Windows) -> None:
    """dy (N, *P, O), weight (*K, 1, O), bias (C,) -> x (N, *S, C): every value goes to its whole window."""
    size, channels, dtype = x.shape[1:-1], x.shape[-1], x.dtype
    grid = line_grid(len(x) * prod(size[:-1]), -(-size[-1] // TILE), channels, dtype.itemsize)
    b.launch(
        *(SOURCE, BACKWARD, dtype, *grid, dy, weight, NULL if bias is None else bias, x),
        *(windows(size, dy.shape[1:-1], weight.shape[:-2], lie), *map(np.int32, (channels, dy.shape[-1] // channels))),
    )


def weight_gradient(b: CudaBackend, x: Array, dy: Array, dweight: Array, dbias: Array | None, lie: Windows) -> None:
    """x (N, *S, C), dy (N, *P, O) -> dweight (*K, C/G, O); dbias (O,), the sum of dy, if wanted.

    Of strips of the windows, and these added in their order.
    """
    (*cells, group_in, outputs), dtype = dweight.shape, dy.dtype
    taps, count = prod(cells) * group_in, prod(dy.shape[:-1])
    every = taps + (dbias is not None)
    packs = -(-outputs // (2 if dtype.itemsize == 8 else 4))
    columns = min(packs, WARP)
    tiles, deep = -(-packs // columns), -(-every // TAPS)
    strips = min(-(-count // (4 * (SUM_THREADS // columns))), max(BLOCKS // (tiles * deep), 1))
    partial = b.empty((strips, every, outputs), computed(dtype))
    shape = lie.groups, group_in, outputs // lie.groups
    b.launch(
        *(SOURCE, WEIGHT_STRIPS, dtype, (tiles, strips, deep), (SUM_THREADS,)),
        *(x, dy, partial, windows(x.shape[1:-1], dy.shape[1:-1], tuple(cells), lie)),
        *map(np.int32, (*shape, dbias is not None, columns, count)),
    )
    b.launch(
        *(SOURCE, ADD_STRIPS, dtype, (-(-every * outputs // ADD_COLUMNS),), (ADD_COLUMNS, ADD_LINES)),
        *(partial, dweight, NULL if dbias is None else dbias),
        *map(np.int32, (strips, taps * outputs, every * outputs)),
    )
