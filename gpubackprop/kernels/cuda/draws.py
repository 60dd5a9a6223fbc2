"""What the sources that include philox.cuh are told about a step's random numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend


class Draws(NamedTuple):
    """Arguments of a kernel: samples (N,) int64 and step (), which stay on the device, seed and stream."""

    samples: Array
    step: Array
    seed: Any
    stream: Any


def draws(b: CudaBackend, samples: Array, step: int | Array, seed: int, stream: int) -> Draws:
    """The same for samples of any integer dtype and a step that may be a number."""
    samples = samples if samples.dtype == np.int64 else samples.astype(np.int64)
    if isinstance(step, int):
        b.only_once("a step's number that is no array would stay what it is")
        step = b.xp.full((), step, np.uint64)
    elif step.dtype != np.uint64:
        step = step.astype(np.uint64)
    return Draws(samples, step, np.uint64(seed), np.uint32(stream))
