"""Gradient noise as in optim/noise.py, equal to it up to rounding: one launch for all params."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.backend.philox import stream_of
from gpubackprop.kernels.cuda.chunks import Chunks
from gpubackprop.kernels.cuda.driver import EXACT, Source
from gpubackprop.kernels.cuda.grid import THREADS
from gpubackprop.kernels.cuda.kernel import rule
from gpubackprop.optim import GradientNoise
from gpubackprop.optim.optimizer import Run

SOURCE = Source("gradient_noise.cu", ("add<{real}>",), EXACT)  # gradients are never short


class _Places:
    """Where each param that is trained lies, and the stream of its numbers."""

    def __init__(self, noise: GradientNoise) -> None:
        b, trained = noise.params.backend, noise.trained
        self.chunks = Chunks(b, [Run(segment.start, segment.stop, 0, False) for segment in trained])
        self.starts = b.from_host(np.array([segment.start for segment in trained], np.int64))
        self.streams = b.from_host(np.array([stream_of(f"{segment.name}.noise") for segment in trained], np.uint32))


_PLACES: WeakKeyDictionary[GradientNoise, _Places] = WeakKeyDictionary()


def add(self: GradientNoise, step: int | Array) -> None:
    """As GradientNoise.add."""
    b: Any = self.params.backend
    places = _PLACES.get(self) or _PLACES.setdefault(self, _Places(self))
    number = b.from_host(np.array(step, np.uint64)) if isinstance(step, int) else step
    b.launch(
        *(SOURCE, "add<{real}>", self.params.grad.dtype, (places.chunks.count,), (THREADS,)),
        *(places.chunks.table, places.starts, places.streams, self.params.grad),
        *(self.deviation, number, np.uint64(self.seed)),
    )


rule(GradientNoise.add, add)
