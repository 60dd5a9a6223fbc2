"""Dynamic loss scaling for float16; nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gpubackprop.backend import Array, Backend, HostArray
from gpubackprop.errors import CheckpointError


class LossScale:
    """The factor on the loss that keeps float16's gradients from vanishing (Micikevicius et al. 2018), as PyTorch's
    GradScaler: halved by a step whose gradient is not finite, which is left out, and doubled by `interval` good ones.

    It stays between SMALLEST and LARGEST, and grows again from wherever it was driven to.

        ok = scale.unscale_and_check(b, grad)      the gradient of scale·loss becomes that of the loss
        optimizer.update(ok)                       leaves all as it is where not ok
        scale.update(ok)

    scale   the factor, float32, shape ()
    counts  (3,) int32: good steps since the scale last changed, steps left out in a row, steps left out in all
    """

    SMALLEST, LARGEST = 2.0**-14, 2.0**120
    STATE = ("scale", "counts")

    def __init__(
        self,
        backend: Backend,
        initial: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
    ) -> None:
        self.backend = backend
        self.growth, self.backoff, self.interval = growth, backoff, interval
        # Always the same memory: a captured step goes on reading it.
        self.scale = backend.from_host(np.array(initial, np.float32))
        self.counts = backend.from_host(np.zeros(3, np.int32))

    def unscale_and_check(self, b: Backend, grad: Array) -> Array:
        """Divide `grad` (P,) by the scale, in place; whether all of it is finite, a bool of shape ()."""
        ok: Array = b.rule(unscale)(b, grad, self.scale)
        return ok

    def update(self, ok: Array) -> None:
        """Take note of whether a step counted; the scale of the next one."""
        self.backend.rule(rescale)(self, ok)

    def state_dict(self) -> dict[str, HostArray]:
        """Copies of `scale` and `counts`, as NumPy arrays."""
        return {name: self.backend.to_host(getattr(self, name)).copy() for name in self.STATE}

    def load_state_dict(self, saved: Mapping[str, HostArray]) -> None:
        """Go on as the run that gave `state_dict` would. Raises CheckpointError where it does not fit."""
        scale, counts = (np.asarray(saved.get(name), np.float32) for name in self.STATE)
        if scale.shape or counts.shape != (3,) or not self.SMALLEST <= scale <= self.LARGEST:
            raise CheckpointError(f"no state of a loss scale: scale {scale}, counts {counts}")
        self.scale[...] = self.backend.from_host(scale)
        self.counts[...] = self.backend.from_host(counts.astype(np.int32))


def unscale(b: Backend, grad: Array, scale: Array) -> Array:
    """grad ← grad / scale, in place; whether all of it is finite: grad (P,), scale and the result of shape ()."""
    grad *= 1 / scale
    return b.xp.asarray(b.xp.all(b.xp.isfinite(grad)))


def rescale(self: LossScale, ok: Array) -> None:
    """LossScale.update: ok of shape ()."""
    xp, (good, row, total) = self.backend.xp, self.counts
    good = xp.where(ok, good + 1, 0)
    grows = good >= self.interval
    factor = xp.where(ok, xp.where(grows, self.growth, 1.0), self.backoff)
    self.scale[...] = xp.clip(self.scale * factor, self.SMALLEST, self.LARGEST)
    self.counts[0] = xp.where(grows, 0, good)
    self.counts[1] = xp.where(ok, 0, row + 1)
    self.counts[2] = xp.where(ok, total, total + 1)
