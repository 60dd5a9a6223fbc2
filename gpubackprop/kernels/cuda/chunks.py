"""Tables of the stretches of the flat buffers that blocks work on, so that one launch serves all params."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpubackprop.backend import Backend, HostArray
from gpubackprop.kernels.cuda.grid import BLOCKS, THREADS
from gpubackprop.optim.optimizer import Run

STEP = 4 * THREADS  # numbers: of float32 what a block's threads read at once


class Chunks:
    """The chunks of some runs on a device.

    table   (C, 4) int64
    first   (R + 1,) int32, the first chunk of each run, and how many there are
    """

    def __init__(self, b: Backend, runs: Sequence[Run]) -> None:
        rows = chunks(runs)
        first = np.searchsorted(rows[:, 3], np.arange(len(runs) + 1)).astype(np.int32)
        self.count, self.table, self.first = len(rows), b.from_host(rows), b.from_host(first)


def chunks(runs: Sequence[Run]) -> HostArray:
    """(C, 4) int64 as chunks.cuh reads it: all numbers of `runs`, those of one run in order."""
    total = sum(run.stop - run.start for run in runs)
    size = max(-(-total // (BLOCKS * STEP)), 1) * STEP  # a multiple of Parameters.ALIGN, as each run's start is
    rows = [
        (start, min(size, run.stop - start), run.setting, number)
        for number, run in enumerate(runs)
        for start in range(run.start, run.stop, size)
    ]
    return np.array(rows, np.int64).reshape(-1, 4)
