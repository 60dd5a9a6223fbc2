"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping

from gpubackprop.backend import Array
from gpubackprop.errors import UsageError
from gpubackprop.optim.group import Groups, LayerDecay
from gpubackprop.optim.optimizer import Kinds, Optimizer, optimizers
from gpubackprop.parameters import Parameters
from gpubackprop.registry import Given, NonNegativeFloat, PositiveFloat


@optimizers.register("sgd")
class SGD(Optimizer):
    """Gradient descent with momentum (Polyak 1964; Nesterov's form after Sutskever et al. 2013), as PyTorch's SGD.

    g ← grad + weight_decay·w
    v ← momentum·v + (1 - dampening)·g      (v ← g at the first step)
    w ← w - lr·v                            (nesterov: w - lr·(g + momentum·v))
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-3,
        momentum: NonNegativeFloat = 0.0,
        dampening: float = 0.0,
        weight_decay: NonNegativeFloat = 0.0,
        nesterov: bool = False,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, no_decay, groups, layer_decay, momentum)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise UsageError(f"nesterov needs a momentum above 0 and dampening 0, got {momentum} and {dampening}")
        self.dampening, self.nesterov = dampening, nesterov
        if momentum:
            self.add_state("momentum_buffer")

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """lr, weight decay, momentum, and the share of the new gradient that enters the buffer."""
        return lr, weight_decay, self.momentum, 1.0 if self.steps == 1 else 1 - self.dampening

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """All arrays (P,)."""
        lr, weight_decay, momentum, share = scalars
        if decay:
            grad = grad + weight_decay * value
        if state:
            buffer = state["momentum_buffer"]
            buffer *= momentum
            buffer += share * grad
            grad = grad + momentum * buffer if self.nesterov else buffer
        value -= lr * grad
