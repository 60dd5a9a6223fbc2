"""The fully connected layer."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

from gpubackprop.errors import ShapeError
from gpubackprop.nn.init import kaiming_uniform, uniform
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.skip import find_layer
from gpubackprop.ops.linear import linear
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, Positive
from gpubackprop.tape import Tensor


@layers.register("linear")
class Linear(Layer):
    """y = x weightᵀ + bias over the last axis: (..., I) -> (..., O). weight (O, I), bias (O,)."""

    streams = True
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


@layers.register("tied_linear")
class TiedLinear(Layer):
    """Logits from the weight of an embedding: y = x weightᵀ, (..., D) -> (..., V); Press and Wolf 2017.

    `embedding` is the name of the embedding layer. Its weight (V, D) stands under both keys in the state dict.
    """

    streams = True
    weight: Param
    source: Layer | None = None

    def __init__(self, embedding: str) -> None:
        self.embedding = embedding

    def link(self, named: dict[str, Layer]) -> None:
        """Find the embedding."""
        self.source = find_layer(self.embedding, named)
        if not hasattr(self.source, "num_embeddings"):
            raise ShapeError(f"{self.embedding!r} is no embedding, but {type(self.source).__name__}")
        super().link(named)

    def children(self) -> dict[str, Layer]:
        """None: the embedding stands elsewhere."""
        return {}

    def output_shape(self, shape: Shape) -> Shape:
        """(..., D) -> (..., V)."""
        source: Any = self.source
        if not shape or shape[-1] != source.embedding_dim:
            raise ShapeError(f"{self.embedding!r} has vectors of {source.embedding_dim}, but the input has {shape}")
        return (*shape[:-1], source.num_embeddings)

    def flops(self) -> int:
        """2 D V for every position."""
        assert self.shapes is not None
        return 2 * prod(self.shapes[0]) * self.shapes[1][-1]

    def arrays(self) -> dict[str, Param | Buffer]:
        """The embedding's weight itself."""
        source: Any = self.source
        return {"weight": source.weight}

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., D) -> (N, ..., V)."""
        y: Tensor = linear(x, self.weight, None)
        return y
