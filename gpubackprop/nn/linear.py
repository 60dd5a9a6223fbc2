"""The fully connected layer."""

from __future__ import annotations

from math import prod, sqrt

from gpubackprop.errors import ShapeError
from gpubackprop.nn.init import kaiming_uniform, uniform
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.linear import linear
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, Positive
from gpubackprop.tape import Tensor


@layers.register("linear")
class Linear(Layer):
    """y = x weightᵀ + bias over the last axis: (..., I) -> (..., O). weight (O, I), bias (O,)."""

    weight: Param
    bias: Param | None = None

    def __init__(self, in_features: Inferred[Positive], out_features: Positive, bias: bool = True) -> None:
        self.in_features, self.out_features, self.has_bias = in_features, out_features, bias

    def output_shape(self, shape: Shape) -> Shape:
        """(..., I) -> (..., O)."""
        if not shape:
            raise ShapeError("linear needs (..., I); the first axis counts samples, so one sample is x[None]")
        self.settle("in_features", shape[-1])
        return (*shape[:-1], self.out_features)

    def flops(self) -> int:
        """2 I O for every position of the other axes."""
        assert self.shapes is not None
        return 2 * prod(self.shapes[0]) * self.out_features

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight and bias, both U(±1/√I) as PyTorch's."""
        fan_in = self.size("in_features")
        arrays: dict[str, Param | Buffer] = {
            "weight": Param((self.out_features, fan_in), kaiming_uniform(fan_in)),
        }
        if self.has_bias:
            arrays["bias"] = Param((self.out_features,), uniform(1 / sqrt(fan_in)), kind="bias")
        return arrays

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., I) -> (N, ..., O)."""
        y: Tensor = linear(x, self.weight, self.bias)
        return y
