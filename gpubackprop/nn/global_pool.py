"""One value per channel for the whole of a sequence, an image or a volume."""

from __future__ import annotations

from typing import ClassVar

from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.spatial import spatial
from gpubackprop.ops.pool import global_avg_pool, global_max_pool
from gpubackprop.tape import Tensor


class _GlobalPool(Layer):
    """(*S, C) -> (C,)."""

    axes: ClassVar[int]

    def output_shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (C,)."""
        return (spatial(shape, layers.name_of(type(self)), self.axes)[1],)


class _GlobalAvgPool(_GlobalPool):
    def forward(self, x: Tensor) -> Tensor:
        """(N, *S, C) -> (N, C)."""
        return mean_over_positions(x)


class _GlobalMaxPool(_GlobalPool):
    def forward(self, x: Tensor) -> Tensor:
        """(N, *S, C) -> (N, C)."""
        y: Tensor = global_max_pool(x, x.mask if self.axes == 1 else None)
        y.mask = None
        return y


@layers.register("global_avg_pool1d")
class GlobalAvgPool1d(_GlobalAvgPool):
    """The mean over the sequence's real positions; 0 where there is none."""

    axes = 1


@layers.register("global_avg_pool2d")
class GlobalAvgPool2d(_GlobalAvgPool):
    """The mean over the image."""

    axes = 2


@layers.register("global_avg_pool3d")
class GlobalAvgPool3d(_GlobalAvgPool):
    """The mean over the volume."""

    axes = 3


@layers.register("global_max_pool1d")
class GlobalMaxPool1d(_GlobalMaxPool):
    """The largest value among the sequence's real positions; 0 where there is none."""

    axes = 1


@layers.register("global_max_pool2d")
class GlobalMaxPool2d(_GlobalMaxPool):
    """The largest value of the image."""

    axes = 2


@layers.register("global_max_pool3d")
class GlobalMaxPool3d(_GlobalMaxPool):
    """The largest value of the volume."""

    axes = 3


def mean_over_positions(x: Tensor) -> Tensor:
    """x (N, *S, C) -> (N, C); of a sequence (N, T, C) the mean over the real positions."""
    y: Tensor = global_avg_pool(x, x.mask if len(x.shape) == 3 else None)
    y.mask = None  # (N, C) is no sequence, even where C happens to equal T
    return y
