"""Tables of the stretches of the flat buffers that blocks work on, so that one launch serves all params."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpubackprop.backend import HostArray
from gpubackprop.kernels.cuda.grid import BLOCKS, THREADS
from gpubackprop.optim.optimizer import Run

STEP = 4 * THREADS  # numbers: of float32 what a block's threads read at once


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
