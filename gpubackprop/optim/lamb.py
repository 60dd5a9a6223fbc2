"""LAMB."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from gpubackprop.backend import Array
from gpubackprop.optim.adam import Adam
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, optimizers
from gpubackprop.parameters import Param, Parameters, Segment
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, PositiveFloat


@optimizers.register("lamb")
class LAMB(Adam):
    """LAMB (You et al. 2020, "Large batch optimization for deep learning"): Adam with a step size for each param.

        m ← β₁·m + (1 - β₁)·grad
        v ← β₂·v + (1 - β₂)·grad²
        u = m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps) + weight_decay·w     (without bias_correction: m / (√v + eps) + …)
        w ← w - lr · ‖w‖/(‖u‖ + eps) · u                              (w ← w - lr·u where w or u is zero)

    The norms are those of whole params. The paper's bound on ‖w‖ is left open.
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: PositiveFloat = 1e-6,
        weight_decay: NonNegativeFloat = 0.0,
        bias_correction: bool = True,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, no_decay=no_decay, groups=groups, layer_decay=layer_decay
        )
        self.bias_correction = bias_correction

    def alone(self, segment: Segment) -> bool:
        """Every param has a norm of its own."""
        return True

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """lr, 1 - β₁, 1 - β₁ᵗ, √(1 - β₂ᵗ), weight decay."""
        first = 1 - self.momentum**self.steps if self.bias_correction else 1.0
        second = 1 - self.beta2**self.steps if self.bias_correction else 1.0
        return lr, 1 - self.momentum, first, sqrt(second), weight_decay

    def update_param(
        self, param: Param, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool
    ) -> None:
        """All arrays in the param's shape."""
        lr, share, first, second, weight_decay = scalars
        xp, (mean, square) = self.xp, self.means(grad, state, share)
        direction = mean / first / (xp.sqrt(square) / second + self.eps)
        if decay:
            direction = direction + weight_decay * value
        of_value, of_direction = (xp.sqrt(xp.sum(xp.square(a))) for a in (value, direction))
        known = xp.logical_and(of_value > 0, of_direction > 0)
        value -= lr * xp.where(known, of_value / (of_direction + self.eps), 1) * direction
