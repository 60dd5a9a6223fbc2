"""Adam, and AdamW with its decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from gpubackprop.backend import Array
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, Optimizer, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, PositiveFloat


@optimizers.register("adam")
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), with AMSGrad (Reddi et al. 2018) on request, as PyTorch's Adam.

        g ← grad + weight_decay·w
        m ← β₁·m + (1 - β₁)·g
        v ← β₂·v + (1 - β₂)·g²
        w ← w - lr · m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps)       (amsgrad: the largest v so far in the place of v)

    `eps` must be above 0: where all gradients were zero it is the whole denominator.
    """

    decoupled: bool = False  #: whether weight decay leaves the gradient as it is

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        amsgrad: bool = False,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, no_decay, groups, layer_decay, betas[0])
        self.beta2, self.eps, self.has_momentum = betas[1], eps, True
        self.add_state("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else []))

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """lr/(1 - β₁ᵗ), 1 - β₁, √(1 - β₂ᵗ), and weight decay: decoupled, as the factor that it leaves of a weight."""
        step_size = lr / (1 - self.momentum**self.steps)
        shrink = 1 - lr * weight_decay if self.decoupled else weight_decay
        return step_size, 1 - self.momentum, sqrt(1 - self.beta2**self.steps), shrink

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        step_size, share, correction, weight_decay = scalars
        grad = self.decayed(value, grad, weight_decay) if decay else grad
        mean, square = self.means(grad, state, share)
        if "max_exp_avg_sq" in state:
            square = self.xp.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
        value -= step_size * mean / (self.xp.sqrt(square) / correction + self.eps)

    def decayed(self, value: Array, grad: Array, weight_decay: Array) -> Array:
        """The gradient (P,) with weight decay; where that is decoupled it shrinks `value` (P,) in place instead."""
        if self.decoupled:
            value *= weight_decay
            return grad
        return grad + weight_decay * value

    def means(self, grad: Array, state: Mapping[str, Array], share: Array) -> tuple[Array, Array]:
        """m and v of `grad`'s shape, updated in place; `share` is 1 - β₁."""
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean += share * (grad - mean)
        square *= self.beta2
        square += (1 - self.beta2) * self.xp.square(grad)
        return mean, square


@optimizers.register("adamw")
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as PyTorch's AdamW.

    w ← w - lr·weight_decay·w comes before the step, and the gradient is left as it is.
    """

    decoupled = True

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 1e-2,
        amsgrad: bool = False,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, no_decay, groups, layer_decay)
