"""How windows lie over images, as the kernels of convolutions take it: always three axes, of D, H and W."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.kernels.cuda.grid import PACK, THREADS, WARP
from gpubackprop.ops.conv import Sizes, Windows

#: windows.cuh's struct of that name.
WINDOWS = np.dtype([(name, np.int32, 3) for name in ("size", "out", "kernel", "stride", "before", "dilation")])
LARGEST = 2**31 - 1  #: numbers of an array; most indices are ints
MAX_GRID = 2**16 - 1  # in y and z


def windows(size: Sizes, out: Sizes, kernel: Sizes, given: Windows) -> Any:
    """A struct for the kernels; axes that are missing are put in front, with one cell."""
    lie = np.ones((), WINDOWS)
    lie["before"] = 0
    before = tuple(each for each, _ in given.padding)
    values = size, out, kernel, given.stride, before, given.dilation
    for name, numbers in zip(WINDOWS.names or (), values, strict=True):
        lie[name][3 - len(numbers) :] = numbers
    return lie


def line_grid(lines: int, places: int, channels: int, itemsize: int) -> tuple[tuple[int, int], tuple[int]]:
    """Grid and block for `lines` lines of `places` places each, whose channels are worked on in packs. Not measured."""
    width = PACK // itemsize
    items = max(places * (channels // width if channels % width == 0 else channels), 1)
    return (lines, min(-(-items // THREADS), MAX_GRID)), (min(-(-items // WARP) * WARP, THREADS),)
