"""NAdam."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from gpubackprop.backend import Array
from gpubackprop.optim.adam import Adam
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, PositiveFloat


@optimizers.register("nadam")
class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat 2016), as PyTorch's NAdam.

        μₜ = β₁·(1 - 0.96^(t·momentum_decay)/2)
        g ← grad + weight_decay·w              (decoupled_weight_decay: w ← w - lr·weight_decay·w)
        m ← β₁·m + (1 - β₁)·g
        v ← β₂·v + (1 - β₂)·g²
        n = μₜ₊₁·m/(1 - ∏μ₁…μₜ₊₁) + (1 - μₜ)·g/(1 - ∏μ₁…μₜ)
        w ← w - lr · n / (√(v/(1 - β₂ᵗ)) + eps)

    The product of the μ is carried along, since a schedule may change β₁.
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 2e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        momentum_decay: NonNegativeFloat = 4e-3,
        decoupled_weight_decay: bool = False,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, no_decay=no_decay, groups=groups, layer_decay=layer_decay
        )
        self.momentum_decay, self.decoupled = momentum_decay, decoupled_weight_decay
        self.numbers = {"mu_product": 1.0}

    def mu(self, step: int) -> float:
        """The momentum of the `step`-th update."""
        return float(self.momentum * (1 - 0.5 * 0.96 ** (step * self.momentum_decay)))

    def prepare(self) -> None:
        """The host's half of a step."""
        self.numbers["mu_product"] *= self.mu(self.steps + 1)
        super().prepare()

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """The factors of m and g, 1 - β₁, √(1 - β₂ᵗ), and weight decay or the factor that it leaves of a weight."""
        mu, following, product = self.mu(self.steps), self.mu(self.steps + 1), self.numbers["mu_product"]
        shrink = 1 - lr * weight_decay if self.decoupled else weight_decay
        of_mean, of_grad = lr * following / (1 - product * following), lr * (1 - mu) / (1 - product)
        return of_mean, of_grad, 1 - self.momentum, sqrt(1 - self.beta2**self.steps), shrink

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        of_mean, of_grad, share, correction, weight_decay = scalars
        grad = self.decayed(value, grad, weight_decay) if decay else grad
        mean, square = self.means(grad, state, share)
        value -= (of_mean * mean + of_grad * grad) / (self.xp.sqrt(square) / correction + self.eps)
