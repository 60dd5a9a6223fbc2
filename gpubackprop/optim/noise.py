"""Gradient noise."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.backend.philox import normal, stream_of
from gpubackprop.parameters import Parameters
from gpubackprop.registry import NonNegativeFloat, PositiveFloat


class GradientNoise:
    """Normal noise on the gradients, of variance eta/(1 + t)^gamma after t steps (Neelakantan et al. 2015).

    It helps very deep networks out of a bad start; the paper takes eta from 0.01, 0.3 and 1, gamma 0.55. The noise of a
    param is a function of seed, step and the param's key.
    """

    ROW = 64  # numbers drawn under one sample number
    BLOCK = 2**14  # rows at a time: random bits take 50 times the memory of the numbers

    def __init__(
        self, params: Parameters, eta: PositiveFloat = 0.01, gamma: NonNegativeFloat = 0.55, seed: int = 0
    ) -> None:
        self.params, self.eta, self.gamma, self.seed = params, eta, gamma, seed
        self.trained = [segment for segment in params.segments if segment.param.needs_grad]
        self.deviation = params.backend.xp.zeros((), params.master.dtype)

    def prepare(self, steps: int) -> None:
        """The host's half of the step that follows `steps` others."""
        deviation = (self.eta / (1 + steps) ** self.gamma) ** 0.5
        self.deviation[...] = self.params.backend.from_host(np.array(deviation, self.params.master.dtype))

    def add(self, step: int | Array) -> None:
        """Add the noise of `step` (a number, or a 0-d array on the device) to all gradients but frozen params'."""
        xp, grad = self.params.backend.xp, self.params.grad
        for name, _, start, stop in self.trained:
            for low in range(start, stop, self.ROW * self.BLOCK):
                part = grad[low : min(low + self.ROW * self.BLOCK, stop)]
                rows = (low - start) // self.ROW + xp.arange(-(-len(part) // self.ROW))
                drawn = normal(xp, self.seed, stream_of(f"{name}.noise"), step, rows, self.ROW)
                part += self.deviation * drawn.ravel()[: len(part)]
