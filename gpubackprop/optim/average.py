"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from gpubackprop.backend import Array, Backend
from gpubackprop.optim.optimizer import check_params
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Fraction


class WeightAverage:
    """A running mean of a model's params over the steps of training (Polyak and Juditsky 1992), as PyTorch's
    AveragedModel with `get_ema_multi_avg_fn(decay)`: it often generalises better than the last weights.

        a ← w                                   after the first step
        a ← a + (1 - d)·(w - a)                 after each later one; d = decay, or with warmup min(decay, t/(9 + t))

    t counts the steps before this one. Buffers, such as batch norm's statistics, are left as they are.
    """

    def __init__(self, params: Parameters, decay: Fraction = 0.999, warmup: bool = False) -> None:
        check_params(self, params)
        self.params, self.backend = params, params.backend
        self.decay, self.warmup = decay, warmup
        self.value = params.backend.xp.zeros_like(params.master)  # (P,)
        self.share = params.backend.xp.zeros((), params.master.dtype)

    def prepare(self, steps: int) -> None:
        """The host's half of the step that follows `steps` others."""
        decay = min(self.decay, steps / (9 + steps)) if self.warmup else self.decay
        share = 1.0 if steps == 0 else 1 - decay
        self.share[...] = self.backend.from_host(np.array(share, self.params.master.dtype))

    def update(self, ok: Array | None = None) -> None:
        """The device's half, after the optimizer's; where `ok`, a bool of shape (), is false nothing changes."""
        xp, share = self.backend.xp, self.share
        if ok is not None:  # the first step makes the average what the weights are, whether they have changed or not
            share = xp.where(xp.logical_or(ok, share == 1), share, xp.zeros_like(share))
        self.backend.rule(follow)(self.backend, self.value, self.params.master, share)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The average in the place of the weights, as long as it is looked at."""
        params = self.params
        kept = params.master.copy()
        params.master[...] = self.value
        params.work()
        try:
            yield
        finally:
            params.master[...] = kept
            params.work()


def follow(b: Backend, mean: Array, value: Array, share: Array) -> None:
    """mean ← mean + share·(value - mean), in place; mean and value (P,), share of shape ()."""
    mean += share * (value - mean)
