"""RAdam."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from gpubackprop.backend import Array
from gpubackprop.optim.adam import Adam
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, PositiveFloat


@optimizers.register("radam")
class RAdam(Adam):
    """Rectified Adam (Liu et al. 2020), as PyTorch's RAdam: a step of momentum while the variance is still unsure.

    ρ∞ = 2/(1 - β₂) - 1,  ρ = ρ∞ - 2t·β₂ᵗ/(1 - β₂ᵗ)
    g ← grad + weight_decay·w              (decoupled_weight_decay: w ← w - lr·weight_decay·w)
    m ← β₁·m + (1 - β₁)·g
    v ← β₂·v + (1 - β₂)·g²
    w ← w - lr · m/(1 - β₁ᵗ) · r·√(1 - β₂ᵗ)/(√v + eps)           where ρ > 5, with
        r = √((ρ - 4)(ρ - 2)ρ∞ / ((ρ∞ - 4)(ρ∞ - 2)ρ))
    w ← w - lr · m/(1 - β₁ᵗ)                                     else
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        decoupled_weight_decay: bool = False,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, no_decay=no_decay, groups=groups, layer_decay=layer_decay
        )
        self.decoupled = decoupled_weight_decay

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """The factor of m, whether to divide by √v (1 or 0), 1 - β₁, and weight decay or what it leaves of a weight."""
        vanished = self.beta2**self.steps
        longest = 2 / (1 - self.beta2) - 1
        length = longest - 2 * self.steps * vanished / (1 - vanished)
        step_size = lr / (1 - self.momentum**self.steps)
        if length > 5:
            ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            step_size *= sqrt(ratio) * sqrt(1 - vanished)
        shrink = 1 - lr * weight_decay if self.decoupled else weight_decay
        return step_size, float(length > 5), 1 - self.momentum, shrink

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        step_size, adaptive, share, weight_decay = scalars
        grad = self.decayed(value, grad, weight_decay) if decay else grad
        mean, square = self.means(grad, state, share)
        value -= step_size * mean / (adaptive * (self.xp.sqrt(square) + self.eps) + (1 - adaptive))
