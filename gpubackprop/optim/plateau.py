"""The schedule that looks at how training goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gpubackprop.errors import CheckpointError
from gpubackprop.optim.schedule import Schedule, schedules
from gpubackprop.registry import Fraction, Given, Inferred, NonNegative, NonNegativeFloat, Share


@schedules.register("plateau")
class Plateau(Schedule):
    """lr·factorⁿ, where n grows when the monitored value has stopped improving, as PyTorch's ReduceLROnPlateau.

    After more than `patience` evaluations in a row without an improvement the learning rate is multiplied by `factor`,
    down to `min_lr`; the `cooldown` evaluations after that do not count. An improvement is a value below
    best·(1 - threshold), or below best - threshold with `threshold_mode: abs`; for `mode: max` above best·(1 +
    threshold) or best + threshold. A reduction by less than `eps` is left out.

    Left out, `mode` is the monitored value's own sense: min for a loss, max for an accuracy.
    """

    def __init__(
        self,
        total_steps: Given[int],
        mode: Inferred[Literal["min", "max"]] = None,
        factor: Fraction = 0.1,
        patience: NonNegative = 10,
        threshold: NonNegativeFloat = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: NonNegative = 0,
        min_lr: NonNegativeFloat = 0.0,
        eps: NonNegativeFloat = 1e-8,
        warmup: NonNegative | Fraction = 0,
        warmup_start: Share = 1 / 3,
    ) -> None:
        super().__init__(total_steps, warmup, warmup_start)
        self.mode, self.factor, self.patience, self.cooldown = mode, factor, patience, cooldown
        self.threshold, self.threshold_mode, self.min_lr, self.eps = threshold, threshold_mode, min_lr, eps
        self.best: float | None = None
        self.bad = self.cooling = self.reductions = 0

    def after_warmup(self, step: int, base: float) -> float:
        """lr·factorⁿ, but not below min_lr."""
        lr = base
        for _ in range(self.reductions):
            lower = max(lr * self.factor, self.min_lr)
            lr = lower if lr - lower > self.eps else lr
        return lr

    def observe(self, value: float, sense: Literal["min", "max"] = "min") -> None:
        """Count this evaluation, and reduce the learning rate where it was one too many."""
        if self._improves(value, self.mode or sense):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            self.reductions, self.cooling, self.bad = self.reductions + 1, self.cooldown, 0

    def _improves(self, value: float, mode: str) -> bool:
        sign = 1 if mode == "max" else -1
        if self.best is None:
            return value * sign > -float("inf")  # nan and the worst possible value are no improvement
        change = 1 + sign * self.threshold
        bound = self.best * change if self.threshold_mode == "rel" else self.best + sign * self.threshold
        return value * sign > bound * sign

    def state(self) -> dict[str, Any]:
        """The counters, and the best value so far."""
        return {"best": self.best, "bad": self.bad, "cooling": self.cooling, "reductions": self.reductions}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError where a counter is missing."""
        missing = [key for key in self.state() if key not in state]
        if missing:
            raise CheckpointError(
                f"the state of schedule plateau lacks {', '.join(missing)}; it is of another schedule"
            )
        self.best, self.bad = state["best"], state["bad"]
        self.cooling, self.reductions = state["cooling"], state["reductions"]
