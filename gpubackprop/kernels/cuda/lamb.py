"""LAMB as in optim/lamb.py: all params in two launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.chunks import Chunks
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import THREADS
from gpubackprop.kernels.cuda.optimizer import ALONE, working_copy
from gpubackprop.optim import LAMB
from gpubackprop.optim.optimizer import Run

SOURCE = Source("lamb.cu", ("moments<{real}>", "step<{real}>"))


class Lamb:
    """As LAMB.update_param, of all params."""

    fits = True

    def __init__(self, own: LAMB, runs: Sequence[Run]) -> None:
        self.chunks = Chunks(own.backend, runs)

    def __call__(self, own: LAMB, ok: Array) -> None:
        """One update, unless not ok."""
        b: Any = own.backend
        chunks, params, dtype = self.chunks, own.params, own.params.master.dtype
        number, width, size = dtype.type, np.int32(own.scalars.shape[1]), ((chunks.count,), (THREADS,))
        means = own.state["exp_avg"], own.state["exp_avg_sq"]
        norms = b.empty((chunks.count,), dtype), b.empty((chunks.count,), dtype)
        b.launch(
            *(SOURCE, "moments<{real}>", params.value.dtype, *size, chunks.table, params.master, params.grad, *means),
            *(own.scalars, ok, *norms, *map(number, (own.beta2, 1 - own.beta2, own.eps)), width),
        )
        b.launch(
            *(SOURCE, "step<{real}>", params.value.dtype, *size, chunks.table, chunks.first, params.master),
            *(working_copy(own), *means, own.scalars, ok, *norms, number(own.eps), width),
        )


ALONE[LAMB.update_param] = Lamb
