"""What the windows over images hold, as rows of matrices, and back: im2col and col2im."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import PACK
from gpubackprop.kernels.cuda.windows import line_grid, windows
from gpubackprop.ops.conv import Sizes, Windows
from gpubackprop.ops.slices import at_once, slices

NAMES = IM2COL, COL2IM = "im2col<{real}>", "col2im<{real}>"
SOURCE = Source("im2col.cu", NAMES)


class Columns:
    """Room for the columns of a few samples of x (N, *S, C), as many as fit into the backend's `scratch`.

    Letters as in ops/conv.py; M windows. Rows start at multiples of 16 bytes, which cuBLASLt's quick algorithms want.
    Fewer samples at a time might stay in the GPU's cache from one kernel to the next, for more launches: not measured.
    """

    def __init__(self, b: CudaBackend, x: Array, kernel: Sizes, out: Sizes, lie: Windows) -> None:
        self._b, self._x, self._kernel, self._out, self._groups = b, x, kernel, out, lie.groups
        self._lie = windows(x.shape[1:-1], out, kernel, lie)
        self._group_in = x.shape[-1] // lie.groups
        self._length, width = prod(kernel) * self._group_in, PACK // x.itemsize
        self._pitch = -(-self._length // width) * width
        self._step = at_once(b, len(x), prod(out) * lie.groups * self._pitch * x.itemsize)
        self._memory = b.empty((self._step * prod(out), lie.groups, self._pitch), x.dtype)

    def pieces(self) -> Iterator[tuple[slice, Array]]:
        """Slices of the samples, each with the matrices (G, M, prod(K)·C/G) of its columns, in the same memory."""
        for samples in slices(len(self._x), self._step):
            rows = (samples.stop - samples.start) * prod(self._out)
            yield samples, self._memory[:rows, :, : self._length].transpose(1, 0, 2)

    def gather(self, samples: slice) -> None:
        """Fill the columns of these samples from x."""
        x = self._x[samples]
        grid = line_grid(
            len(x) * prod(self._out[:-1]), self._out[-1] * self._kernel[-1] * self._groups, self._group_in, x.itemsize
        )
        self._b.launch(SOURCE, IM2COL, x.dtype, *grid, x, self._memory, self._lie, *self._numbers)

    def spread(self, bias: Array | None, samples: slice) -> None:
        """Sum them up where they belong in x, with a bias (C,) or none."""
        x = self._x[samples]
        grid = line_grid(len(x) * prod(x.shape[1:-2]), x.shape[-2], x.shape[-1], x.itemsize)
        start = NULL if bias is None else bias
        self._b.launch(SOURCE, COL2IM, x.dtype, *grid, self._memory, start, x, self._lie, *self._numbers)

    @property
    def _numbers(self) -> tuple[np.int32, ...]:
        return np.int32(self._groups), np.int32(self._group_in), np.int32(self._pitch)
