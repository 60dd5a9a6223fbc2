"""Sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gpubackprop.optim.clip import norm
from gpubackprop.optim.optimizer import Optimizer, optimizers
from gpubackprop.optim.wrapper import Wrapper
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Given, PositiveFloat

T = TypeVar("T")


@optimizers.register("sam")
class SAM(Wrapper):
    """Sharpness-aware minimization (Foret et al. 2021), around any optimizer; a step costs two gradients.

        e = rho·g/‖g‖                          (adaptive: rho·w²·g/‖|w|·g‖, Kwon et al. 2021)
        the inner optimizer updates w by the gradient at w + e

    Both gradients are of the same batch with the same dropout masks; loss and running statistics are those at w.
    Gradient noise and clipping fall on the second gradient.
    """

    EPS = 1e-12  # of the norm

    def __init__(
        self, params: Given[Parameters], optimizer: Optimizer, rho: PositiveFloat = 0.05, adaptive: bool = False
    ) -> None:
        super().__init__(params, optimizer)
        self.rho, self.adaptive = rho, adaptive
        self.kept = self.xp.zeros_like(params.master)  # the params while they are elsewhere

    @property
    def copies(self) -> int:
        """The inner optimizer's, and the params'."""
        return super().copies + 1

    def gradient(self, evaluate: Callable[[], T]) -> T:
        """The gradient at w + e; what `evaluate` gave at w."""
        found = super().gradient(evaluate)
        self.perturb()
        super().gradient(evaluate)
        self.params.master[...] = self.kept
        self.params.work()
        return found

    def perturb(self) -> None:
        """w ← w + e."""
        xp, value, grad = self.xp, self.params.master, self.params.grad
        self.kept[...] = value
        length = self.backend.rule(norm)(self.backend, xp.abs(value) * grad if self.adaptive else grad)
        scale = self.rho / (length + self.EPS)
        value += scale * (xp.square(value) * grad if self.adaptive else grad)
        self.params.work()
