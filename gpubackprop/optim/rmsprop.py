"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping

from gpubackprop.backend import Array
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, Optimizer, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, PositiveFloat


@optimizers.register("rmsprop")
class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012; centered after Graves 2013), as PyTorch's RMSprop.

        g ← grad + weight_decay·w
        s ← alpha·s + (1 - alpha)·g²
        a ← alpha·a + (1 - alpha)·g                            (centered)
        d ← g / (√s + eps)                                     (centered: √(s - a²))
        b ← momentum·b + d,  w ← w - lr·b                      (without momentum: w - lr·d)

    `eps` must be above 0: where all gradients were zero it is the whole denominator.
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-2,
        alpha: Fraction = 0.99,
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        momentum: NonNegativeFloat = 0.0,
        centered: bool = False,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, no_decay, groups, layer_decay, momentum)
        self.alpha, self.eps = alpha, eps
        self.add_state("square_avg", *(["grad_avg"] if centered else []), *(["momentum_buffer"] if momentum else []))

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """lr, weight decay and momentum."""
        return lr, weight_decay, self.momentum

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        lr, weight_decay, momentum = scalars
        square = state["square_avg"]
        if decay:
            grad = grad + weight_decay * value
        square *= self.alpha
        square += (1 - self.alpha) * self.xp.square(grad)
        if "grad_avg" in state:
            mean = state["grad_avg"]
            mean += (1 - self.alpha) * (grad - mean)
            # A variance; rounding can make it negative, which would be nan under the root.
            square = self.xp.maximum(square - self.xp.square(mean), 0)
        direction = grad / (self.xp.sqrt(square) + self.eps)
        if "momentum_buffer" in state:
            buffer = state["momentum_buffer"]
            buffer *= momentum
            buffer += direction
            direction = buffer
        value -= lr * direction
