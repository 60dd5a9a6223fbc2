"""Dropout of single values, of whole channels, and of whole layers.

The masks are functions of the model's seed, the step, the sample's place in the step, and the layer's path: the same on
every device, and in micro-batches as in one batch. In inference all of these are the identity.
"""

from __future__ import annotations

from typing import Literal

from gpubackprop.backend.philox import stream_of
from gpubackprop.errors import ShapeError
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.dropout import dropout
from gpubackprop.registry import Share
from gpubackprop.tape import Tensor


@layers.register("dropout")
class Dropout(Layer):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p); Srivastava et al. 2014."""

    streams = True

    def __init__(self, p: Share = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *shape)."""
        return drop(self, x, self.p)


class _ChannelDropout(Layer):
    space: tuple[str, ...]  # the axes of a sample before its channels

    streams = True

    def __init__(self, p: Share = 0.5) -> None:
        self.p = p

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        if len(shape) != len(self.space) + 1:
            raise ShapeError(f"needs (N, {', '.join(self.space)}, C), got samples of shape {shape}; use dropout")
        return shape

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., C) -> (N, ..., C)."""
        return drop(self, x, self.p, over=len(self.space))


@layers.register("dropout1d")
class Dropout1d(_ChannelDropout):
    """Dropout of whole channels of sequences (N, T, C): each is zero at all times, or at none."""

    space = ("T",)


@layers.register("dropout2d")
class Dropout2d(_ChannelDropout):
    """Dropout of whole channels of images (N, H, W, C); Tompson et al. 2015."""

    space = ("H", "W")


@layers.register("stochastic_depth")
class StochasticDepth(Layer):
    """In training, zero a whole sample with probability p and scale the others by 1 / (1 - p); Huang et al. 2016.

    It is the last layer of a residual's body, which then is left out: `mode` row decides for each sample, batch once
    for all samples of a step. torchvision's layer and names.
    """

    streams = True

    def __init__(self, p: Share, mode: Literal["row", "batch"] = "row") -> None:
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *shape)."""
        return drop(self, x, self.p, over=len(x.shape) - 1, alike=self.mode == "batch")


def drop(layer: Layer, x: Tensor, p: float, over: int = 0, alike: bool = False) -> Tensor:
    """`x` with a new mask of this layer's: the first `over` axes of a sample share theirs, `alike` all samples."""
    if not (x.training and p):
        return x
    tape = x.tape
    stream = stream_of(layer.path, tape.call_number(layer.path))
    y: Tensor = dropout(x, tape.samples, tape.step, p=p, seed=tape.seed, stream=stream, over=over, alike=alike)
    return y
