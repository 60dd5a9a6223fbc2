"""Lookahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from gpubackprop.backend import Array
from gpubackprop.errors import UsageError
from gpubackprop.optim.optimizer import Optimizer, optimizers
from gpubackprop.optim.wrapper import Wrapper
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Given, Positive, Range


@optimizers.register("lookahead")
class Lookahead(Wrapper):
    """Lookahead (Zhang et al. 2019): k steps of any optimizer, then back to a slow copy that follows.

    slow ← slow + alpha·(w - slow),  w ← slow       after every k-th step
    """

    def __init__(
        self,
        params: Given[Parameters],
        optimizer: Optimizer,
        k: Positive = 5,
        alpha: Annotated[float, Range(gt=0, le=1)] = 0.5,
    ) -> None:
        inner = optimizer
        while isinstance(inner, Wrapper):
            if isinstance(inner, Lookahead):
                raise UsageError("lookahead around lookahead has two slow copies of one name; keep one of them")
            inner = inner.optimizer
        super().__init__(params, optimizer)
        self.k, self.alpha = k, alpha
        self.add_state("slow_params")

    def prepare(self) -> None:
        """The host's half of a step; before the first one the slow copy is made."""
        if self.steps == 0:
            self.state["slow_params"][...] = self.params.master
        super().prepare()

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """alpha where it is time, else 0: a captured update is always the same."""
        return (self.alpha if self.steps % self.k == 0 else 0.0,)

    def update(self, ok: Array | None = None) -> None:
        """The inner optimizer's, then its own."""
        self.optimizer.update(ok)
        Optimizer.update(self, ok)

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        (alpha,) = scalars
        slow = state["slow_params"]
        slow += alpha * (value - slow)
        value[...] = self.xp.where(alpha > 0, slow, value)
