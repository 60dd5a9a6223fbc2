"""Learning-rate schedules: what the learning rate is at each optimizer step, as a pure function of the step's number.

Letters: s the step, from 0 (the learning rate of the very first update), W the warmup in steps, t = s - W, S the steps
of the whole training, lr the optimizer's own learning rate. Nothing here counts epochs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import cos, pi
from typing import Any, Literal

from gpubackprop.registry import (
    Fraction,
    Given,
    Inferred,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Registry,
    Share,
)


class Schedule:
    """The base of all schedules, with the linear warmup that each can begin with.

        lr(s) = lr(W)·(warmup_start + (1 - warmup_start)·s/W)     while s < W
        lr(s) = what the schedule says at t = s - W               from then on

    This is PyTorch's LinearLR followed by the schedule in a SequentialLR: the schedule, milestones and all, begins when
    the warmup ends. `warmup` is a number of steps (an integer) or a share of the whole training (a fraction below 1).

    Training calls `lr` before each update, and `observe` after each evaluation. Only a schedule that depends on what it
    observed has a state.
    """

    def __init__(
        self, total_steps: Given[int], warmup: NonNegative | Fraction = 0, warmup_start: Share = 1 / 3
    ) -> None:
        self.total_steps = total_steps
        self.warmup = warmup if isinstance(warmup, int) else round(warmup * total_steps)
        self.warmup_start = warmup_start

    def lr(self, step: int, base: float) -> float:
        """The learning rate of the update after `step` others; `base` is the optimizer's."""
        if step >= self.warmup:
            return self.after_warmup(step - self.warmup, base)
        factor = self.warmup_start + (1 - self.warmup_start) * step / self.warmup
        return self.after_warmup(0, base) * factor

    def after_warmup(self, step: int, base: float) -> float:
        """The learning rate `step` steps after the end of the warmup."""
        raise NotImplementedError(f"{type(self).__name__}.after_warmup")

    def momentum(self, step: int) -> float | None:
        """The optimizer's momentum at that update; None where the schedule leaves it alone."""
        return None

    def observe(self, value: float, sense: Literal["min", "max"] = "min") -> None:
        """Take note of the monitored value after an evaluation; `sense` says whether small or large is good."""

    def state(self) -> dict[str, Any]:
        """What `observe` has left behind, ready for JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()` of another run."""


schedules = Registry("schedule", Schedule)


@schedules.register("constant")
class Constant(Schedule):
    """The optimizer's learning rate from beginning to end."""

    def after_warmup(self, step: int, base: float) -> float:
        """lr."""
        return base


@schedules.register("step")
class Step(Schedule):
    """lr·gamma^⌊t/step_size⌋: a drop every `step_size` steps, as PyTorch's StepLR."""

    def __init__(
        self,
        total_steps: Given[int],
        step_size: Positive,
        gamma: PositiveFloat = 0.1,
        warmup: NonNegative | Fraction = 0,
        warmup_start: Share = 1 / 3,
    ) -> None:
        super().__init__(total_steps, warmup, warmup_start)
        self.step_size, self.gamma = step_size, gamma

    def after_warmup(self, step: int, base: float) -> float:
        """lr·gamma^⌊t/step_size⌋."""
        return base * self.gamma ** (step // self.step_size)


@schedules.register("multi_step")
class MultiStep(Schedule):
    """lr·gamma^(how many milestones ≤ t): a drop at each milestone, as PyTorch's MultiStepLR, counted in steps."""

    def __init__(
        self,
        total_steps: Given[int],
        milestones: Sequence[NonNegative],
        gamma: PositiveFloat = 0.1,
        warmup: NonNegative | Fraction = 0,
        warmup_start: Share = 1 / 3,
    ) -> None:
        super().__init__(total_steps, warmup, warmup_start)
        self.milestones, self.gamma = sorted(milestones), gamma

    def after_warmup(self, step: int, base: float) -> float:
        """lr·gamma^(milestones passed)."""
        return base * self.gamma ** bisect_right(self.milestones, step)


@schedules.register("exponential")
class Exponential(Schedule):
    """lr·gammaᵗ, as PyTorch's ExponentialLR; gamma is per step, so close to 1."""

    def __init__(
        self,
        total_steps: Given[int],
        gamma: PositiveFloat,
        warmup: NonNegative | Fraction = 0,
        warmup_start: Share = 1 / 3,
    ) -> None:
        super().__init__(total_steps, warmup, warmup_start)
        self.gamma = gamma

    def after_warmup(self, step: int, base: float) -> float:
        """lr·gammaᵗ."""
        return float(base * self.gamma**step)


@schedules.register("cosine")
class Cosine(Schedule):
    """eta_min + (lr - eta_min)·(1 + cos(π·t/t_max))/2, as PyTorch's CosineAnnealingLR (Loshchilov and Hutter 2017).

    Left out, `t_max` is all the steps after the warmup, S - W: one half wave. Past t_max the curve rises again.
    """

    def __init__(
        self,
        total_steps: Given[int],
        t_max: Inferred[Positive] = None,
        eta_min: NonNegativeFloat = 0.0,
        warmup: NonNegative | Fraction = 0,
        warmup_start: Share = 1 / 3,
    ) -> None:
        super().__init__(total_steps, warmup, warmup_start)
        self.t_max = max(1, self.total_steps - self.warmup) if t_max is None else t_max
        self.eta_min = eta_min

    def after_warmup(self, step: int, base: float) -> float:
        """A half wave from lr down to eta_min."""
        return self.eta_min + (base - self.eta_min) * (1 + cos(pi * step / self.t_max)) / 2


@schedules.register("one_cycle")
class OneCycle(Schedule):
    """Up to the optimizer's lr, then far down, as PyTorch's OneCycleLR (Smith and Topin 2019).

        lr/div_factor → lr                                  over the first W - 1 steps
        lr → lr/(div_factor·final_div_factor)               until the last, S - 1

    Each way is half a cosine wave, or a straight line. The optimizer's learning rate is max_lr; `warmup` is pct_start
    as a fraction, or a number of steps. With `cycle_momentum` the momentum (beta1 in Adam) goes max → base → max.
    After the last step all stays as it is.
    """

    def __init__(
        self,
        total_steps: Given[int],
        warmup: NonNegative | Fraction = 0.3,
        div_factor: PositiveFloat = 25.0,
        final_div_factor: PositiveFloat = 1e4,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = False,
        base_momentum: Fraction = 0.85,
        max_momentum: Fraction = 0.95,
    ) -> None:
        super().__init__(total_steps)
        self.peak = (warmup if isinstance(warmup, int) else warmup * total_steps) - 1.0
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum

    def after_warmup(self, step: int, base: float) -> float:
        """The whole cycle: its rise is the warmup."""
        low = base / self.div_factor
        return self._cycle(step, low, base, low / self.final_div_factor)

    def momentum(self, step: int) -> float | None:
        """max → base → max, or None without `cycle_momentum`."""
        return (
            self._cycle(step, self.max_momentum, self.base_momentum, self.max_momentum) if self.cycle_momentum else None
        )

    def _cycle(self, step: int, start: float, peak: float, end: float) -> float:
        last = self.total_steps - 1
        step = min(step, last)
        if step <= self.peak:
            return self._anneal(start, peak, step, 0, self.peak)
        return self._anneal(peak, end, step, self.peak, last)

    def _anneal(self, start: float, end: float, step: float, first: float, last: float) -> float:
        if first == last:
            return end
        share = (step - first) / (last - first)
        if self.anneal_strategy == "linear":
            return start + (end - start) * share
        return end + (start - end) * (1 + cos(pi * share)) / 2
