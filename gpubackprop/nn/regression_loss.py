"""Losses of the distance between outputs and targets of one shape."""

from __future__ import annotations

from gpubackprop.backend import Array
from gpubackprop.nn.loss import Elementwise, losses
from gpubackprop.ops import loss as ops
from gpubackprop.registry import NonNegativeFloat, PositiveFloat
from gpubackprop.tape import Tensor


@losses.register("mse")
class MSELoss(Elementwise):
    """(output - target)²: both (N, ...), of one shape."""

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both (N, ...) -> sum, weight."""
        return self.compare(ops.mse, output, target, weight, mask)


@losses.register("l1")
class L1Loss(Elementwise):
    """|output - target|: both (N, ...), of one shape."""

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both (N, ...) -> sum, weight."""
        return self.compare(ops.l1, output, target, weight, mask)


@losses.register("huber")
class HuberLoss(Elementwise):
    """Half the squared error up to delta, linear beyond; Huber 1964. Both (N, ...), of one shape."""

    def __init__(self, delta: PositiveFloat = 1.0) -> None:
        self.delta = delta

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both (N, ...) -> sum, weight."""
        return self.compare(ops.huber, output, target, weight, mask, delta=self.delta)


@losses.register("smooth_l1")
class SmoothL1Loss(Elementwise):
    """Squared error over 2 beta up to beta, linear beyond; Girshick 2015. Both (N, ...), of one shape."""

    def __init__(self, beta: NonNegativeFloat = 1.0) -> None:
        self.beta = beta

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both (N, ...) -> sum, weight."""
        return self.compare(ops.smooth_l1, output, target, weight, mask, beta=self.beta)
