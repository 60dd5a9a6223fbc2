"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping

from gpubackprop.backend import Array
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, Optimizer, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Given, NonNegativeFloat, PositiveFloat


@optimizers.register("adagrad")
class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011), as PyTorch's Adagrad.

        g ← grad + weight_decay·w
        s ← s + g²                                              (s is initial_accumulator_value at the start)
        w ← w - lr/(1 + (t - 1)·lr_decay) · g / (√s + eps)

    `eps` must be above 0: where all gradients were zero it is the whole denominator.
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-2,
        lr_decay: NonNegativeFloat = 0.0,
        weight_decay: NonNegativeFloat = 0.0,
        initial_accumulator_value: NonNegativeFloat = 0.0,
        eps: PositiveFloat = 1e-10,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, no_decay, groups, layer_decay)
        self.lr_decay, self.eps = lr_decay, eps
        self.add_state("sum", fill=initial_accumulator_value)

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """lr/(1 + (t - 1)·lr_decay) and weight decay."""
        return lr / (1 + (self.steps - 1) * self.lr_decay), weight_decay

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        step_size, weight_decay = scalars
        squares = state["sum"]
        if decay:
            grad = grad + weight_decay * value
        squares += self.xp.square(grad)
        value -= step_size * grad / (self.xp.sqrt(squares) + self.eps)
