"""Channels that are weighed by what the whole image holds."""

from __future__ import annotations

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.activation import ReLU, Sigmoid
from gpubackprop.nn.containers import Container, Sequential
from gpubackprop.nn.global_pool import mean_over_positions
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.linear import Linear
from gpubackprop.ops.arithmetic import scale
from gpubackprop.registry import Positive
from gpubackprop.tape import Tensor


@layers.register("squeeze_excite")
class SqueezeExcite(Container):
    """y = x · gate(W₂ activation(W₁ mean(x))), one factor per channel; Hu et al. 2018. (*S, C) -> (*S, C).

    W₁ has max(1, C // reduction) outputs; activation is relu, gate sigmoid unless given. `layers`, (C,) -> (C,), stand
    in for all but the gate. Of a sequence the mean is over real positions. Keys: W₁ `0`, W₂ `2`, or those of `layers`.
    Raises UsageError where `layers` and what they stand in for are both given.
    """

    def __init__(
        self,
        reduction: Positive = 16,
        activation: Layer | None = None,
        gate: Layer | None = None,
        layers: list[Layer] | None = None,
        recompute: bool = False,
    ) -> None:
        if layers and (activation is not None or reduction != 16):
            raise UsageError("layers stand in for reduction and activation; give either")
        self.reduction, self.activation, self.gate = reduction, activation or ReLU(), gate or Sigmoid()
        self.recompute = recompute
        self.excitation = Sequential(*layers, self.gate) if layers else None

    @property
    def streams(self) -> bool:  # type: ignore[override]  # a class attribute of most layers
        """Never: the mean is over the whole sequence."""
        return False

    def children(self) -> dict[str, Layer]:
        """The excitation's; without `layers` they are known once the channels are."""
        return self.excitation.children() if self.excitation else {}

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """Unchanged."""
        if len(shape) < 2:
            raise ShapeError(f"squeeze_excite needs positions to take the mean over, (T, C) or (H, W, C), got {shape}")
        channels = shape[-1]
        if self.excitation is None:
            narrow, wide = Linear(channels, max(1, channels // self.reduction)), Linear(None, channels)
            self.excitation = Sequential(narrow, self.activation, wide, self.gate)
        found = self.excitation.infer((channels,), scope)
        if found != (channels,):
            raise ShapeError(f"the layers give {found}, but there are {channels} channels to scale")
        return shape

    def through(self, x: Tensor) -> Tensor:
        """(N, *S, C) -> (N, *S, C)."""
        assert self.excitation is not None
        y: Tensor = scale(x, self.excitation.forward(mean_over_positions(x)))
        return y
