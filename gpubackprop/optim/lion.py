"""Lion."""

from __future__ import annotations

from collections.abc import Mapping

from gpubackprop.backend import Array
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, Optimizer, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, PositiveFloat


@optimizers.register("lion")
class Lion(Optimizer):
    """Lion (Chen et al. 2023, "Symbolic discovery of optimization algorithms"): steps of equal size, lr, everywhere.

        w ← w - lr·weight_decay·w
        w ← w - lr·sign(β₁·m + (1 - β₁)·grad)
        m ← β₂·m + (1 - β₂)·grad

    The paper advises a learning rate three to ten times lower than AdamW's, and a weight decay as much higher.
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-4,
        betas: tuple[Fraction, Fraction] = (0.9, 0.99),
        weight_decay: NonNegativeFloat = 0.0,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, no_decay, groups, layer_decay, betas[0])
        self.beta2, self.has_momentum = betas[1], True
        self.add_state("exp_avg")

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """lr, 1 - β₁, and what weight decay leaves of a weight."""
        return lr, 1 - self.momentum, 1 - lr * weight_decay

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        lr, share, shrink = scalars
        mean = state["exp_avg"]
        if decay:
            value *= shrink
        value -= lr * self.xp.sign(mean + share * (grad - mean))
        mean += (1 - self.beta2) * (grad - mean)
