"""Muon's matrices as in optim/muon.py: those of one shape are orthogonalised together, and all else is one launch each.

A matrix lies as the param does: (O, the rest) or its transpose, (the rest, O), the rest in whatever order. That is all
one: to permute rows or columns, or transpose, before is to do it after.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.chunks import Chunks
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import THREADS, elementwise
from gpubackprop.kernels.cuda.optimizer import ALONE, working_copy
from gpubackprop.optim import Muon
from gpubackprop.optim.muon import Quintic
from gpubackprop.optim.optimizer import Run
from gpubackprop.parameters import Param, Parameters

SOURCE = Source("muon.cu", ("direct<{real}>", "scale<{real}>", "polynomial<{real}>", "step<{real}>"))


def shape_of(param: Param) -> tuple[int, int]:
    """Of the matrix as it lies."""
    rows = param.torch_shape[0]
    rest = prod(param.shape) // rows
    return (rows, rest) if param.layout[0] == 0 else (rest, rows)


class Matrices:
    """As Muon.update_param, of all matrices, which lie in an array of their own: those of one shape side by side.

    groups  (shape, start, count): matrices of one shape, from the start of that array
    size    of that array
    shift   (R,) from a number's place in the flat buffers to that in it
    factor  (R,) on the learning rate
    """

    def __init__(self, own: Muon, runs: Sequence[Run]) -> None:
        params = [run.alone.param for run in runs if run.alone]
        self.fits = all(param.layout[0] in (0, len(param.shape) - 1) for param in params)
        shapes, places = list(map(shape_of, params)), np.zeros(len(runs), np.int64)
        self.groups, self.size = [], 0
        for shape in dict.fromkeys(shapes):
            numbers = [i for i, other in enumerate(shapes) if other == shape]
            self.groups.append((shape, self.size, len(numbers)))
            places[numbers] = self.size + np.arange(len(numbers)) * prod(shape)
            self.size += -(-len(numbers) * prod(shape) // Parameters.ALIGN) * Parameters.ALIGN
        self.chunks = Chunks(own.backend, runs)
        self.shift = own.backend.from_host(places - np.array([run.start for run in runs]))
        self.factor = own.backend.from_host(np.array(list(map(own.factor, params)), own.params.master.dtype))

    def __call__(self, own: Muon, ok: Array) -> None:
        """One update, unless not ok."""
        b: Any = own.backend
        chunks, params, dtype = self.chunks, own.params, own.params.master.dtype
        x, y, partial = (b.empty((count,), dtype) for count in (self.size, self.size, chunks.count))
        size, width = ((chunks.count,), (THREADS,)), np.int32(own.scalars.shape[1])
        b.launch(
            *(
                SOURCE,
                "direct<{real}>",
                params.value.dtype,
                *size,
                chunks.table,
                self.shift,
                params.grad,
                own.state["exp_avg"],
            ),
            *(x, partial, own.scalars, ok, np.int32(own.nesterov), width),
        )
        b.launch(
            *(
                SOURCE,
                "scale<{real}>",
                params.value.dtype,
                *size,
                chunks.table,
                chunks.first,
                self.shift,
                x,
                partial,
                ok,
            ),
            dtype.type(own.ns_eps),
        )
        for shape, start, count in self.groups:
            part = slice(start, start + count * prod(shape))
            here, there = (array[part].reshape(count, *shape) for array in (x, y))
            orthogonal(b, params.value.dtype, here, there, own.ns_coefficients, own.ns_steps)
        found = y if own.ns_steps % 2 else x
        b.launch(
            *(SOURCE, "step<{real}>", params.value.dtype, *size, chunks.table, self.shift, params.master),
            *(working_copy(own), found, self.factor, own.scalars, ok, width),
        )


def orthogonal(b: Any, real: Any, x: Array, y: Array, coefficients: Quintic, steps: int) -> None:
    """As optim/muon.py, of matrices x (B, R, C) of norm 1 each.

    What is found stands in y (B, R, C) after an odd number of steps, else in x; the other is overwritten. `real` is
    the dtype of the kernels, those of whose numbers are computed in x's.
    """
    count, *sides = x.shape
    side, wide = min(sides), sides[0] <= sides[1]
    gram, square = (b.empty((count, side, side), x.dtype) for _ in range(2))
    numbers = *map(x.dtype.type, coefficients), np.int64(side), np.int64(gram.size)
    grid = elementwise(gram.size, gram.itemsize)
    for _ in range(steps):
        turned = x.transpose(0, 2, 1)
        b.multiply(*((x, turned) if wide else (turned, x)), gram)
        b.multiply(gram, gram, square)
        b.launch(SOURCE, "polynomial<{real}>", real, *grid, gram, square, *numbers)
        b.multiply(*((square, x) if wide else (x, square)), y)
        x, y = y, x


ALONE[Muon.update_param] = Matrices
