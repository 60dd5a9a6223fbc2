"""Relatives of relu as layers: (N, *shape) -> (N, *shape)."""

from __future__ import annotations

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.activation import Elementwise
from gpubackprop.nn.init import constant
from gpubackprop.nn.layer import Shape, layers
from gpubackprop.ops import rectified
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Positive
from gpubackprop.tape import Tensor


@layers.register("prelu")
class PReLU(Elementwise):
    """y = x where x > 0, else weight · x, the weight being learned; He et al. 2015.

    num_parameters   1, or the number of channels, the last axis: a slope for each
    init             where the slopes start

    For weight decay its slopes are of the kind `norm`: pulled to zero they would make it a relu.
    """

    weight: Param

    def __init__(self, num_parameters: Positive = 1, init: float = 0.25) -> None:
        self.num_parameters, self.init = num_parameters, init

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        if self.num_parameters != 1 and shape[-1:] != (self.num_parameters,):
            raise ShapeError(f"num_parameters is {self.num_parameters}, but the input has {shape}; allowed: 1, or C")
        return shape

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight (num_parameters,)."""
        return {"weight": Param((self.num_parameters,), constant(self.init), kind="norm")}

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = rectified.prelu(x, self.weight)
        return y


@layers.register("selu")
class SELU(Elementwise):
    """y = λ x where x > 0, else λ α (eˣ - 1), which keeps mean 0 and variance 1; Klambauer et al. 2017."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = rectified.selu(x)
        return y


@layers.register("hardtanh")
class Hardtanh(Elementwise):
    """y = x clipped to [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        if min_val >= max_val:
            raise UsageError(f"min_val {min_val} must be below max_val {max_val}")
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = rectified.hardtanh(x, low=self.min_val, high=self.max_val)
        return y


@layers.register("relu6")
class ReLU6(Elementwise):
    """y = x clipped to [0, 6]."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = rectified.hardtanh(x, low=0.0, high=6.0)
        return y


@layers.register("hardsigmoid")
class Hardsigmoid(Elementwise):
    """y = x / 6 + 1/2, clipped to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = rectified.hardsigmoid(x)
        return y
