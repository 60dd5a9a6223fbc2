"""Adadelta."""

from __future__ import annotations

from collections.abc import Mapping

from gpubackprop.backend import Array
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, Optimizer, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, PositiveFloat


@optimizers.register("adadelta")
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012), as PyTorch's Adadelta.

    g ← grad + weight_decay·w
    s ← rho·s + (1 - rho)·g²
    d ← √(u + eps) / √(s + eps) · g
    u ← rho·u + (1 - rho)·d²
    w ← w - lr·d
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1.0,
        rho: Fraction = 0.9,
        eps: PositiveFloat = 1e-6,
        weight_decay: NonNegativeFloat = 0.0,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, no_decay, groups, layer_decay)
        self.rho, self.eps = rho, eps
        self.add_state("square_avg", "acc_delta")

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """lr and weight decay."""
        return lr, weight_decay

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        lr, weight_decay = scalars
        xp, square, moved = self.xp, state["square_avg"], state["acc_delta"]
        if decay:
            grad = grad + weight_decay * value
        square *= self.rho
        square += (1 - self.rho) * xp.square(grad)
        delta = xp.sqrt(moved + self.eps) / xp.sqrt(square + self.eps) * grad
        moved *= self.rho
        moved += (1 - self.rho) * xp.square(delta)
        value -= lr * delta
