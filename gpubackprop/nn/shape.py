"""Layers that only move or reshape values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.spatial import spatial
from gpubackprop.ops import shape as ops
from gpubackprop.registry import Positive
from gpubackprop.tape import Tensor


@layers.register("flatten")
class Flatten(Layer):
    """(N, ...) -> (N, I). Images (N, H, W, C) and volumes come out channels first, in PyTorch's order."""

    def output_shape(self, shape: Shape) -> Shape:
        """(I,), I the product of all sizes."""
        return (prod(shape),)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, I)."""
        y: Tensor = ops.flatten(x)
        return y


@layers.register("reshape")
class Reshape(Layer):
    """(N, ...) -> (N, *shape), elements in the same order; one size may be -1 and is worked out."""

    def __init__(self, shape: Sequence[int]) -> None:
        if any(size < 1 and size != -1 for size in shape) or list(shape).count(-1) > 1:
            raise UsageError(f"shape {list(shape)}: sizes must be at least 1, and one of them may be -1")
        self.shape = tuple(shape)

    def output_shape(self, shape: Shape) -> Shape:
        """The given shape, its -1 replaced."""
        size, known = prod(shape), prod(n for n in self.shape if n != -1)
        if size % known or (-1 not in self.shape and size != known):
            raise ShapeError(f"{shape} holds {size} numbers, which cannot take the shape {self.shape}")
        return tuple(size // known if n == -1 else n for n in self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, *shape)."""
        y: Tensor = ops.reshape(x, shape=self.output_shape(x.shape[1:]))
        return y


@layers.register("pad_channels")
class PadChannels(Layer):
    """Every stride-th pixel, with zero channels on both sides: He et al. 2015's parameter-free shortcut, option A."""

    def __init__(self, out_channels: Positive, stride: Positive = 1) -> None:
        self.out_channels, self.stride = out_channels, stride

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) -> (⌈H/s⌉, ⌈W/s⌉, out_channels)."""
        (height, width), channels = spatial(shape, "pad_channels", 2)
        if channels > self.out_channels:
            raise ShapeError(f"out_channels is {self.out_channels}, but the input has {channels} already; give more")
        return -(-height // self.stride), -(-width // self.stride), self.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, ⌈H/s⌉, ⌈W/s⌉, out_channels)."""
        y: Tensor = ops.pad_channels(x, out_channels=self.out_channels, stride=self.stride)
        return y
