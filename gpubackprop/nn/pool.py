"""Pooling of images."""

from __future__ import annotations

from gpubackprop.errors import UsageError
from gpubackprop.nn.conv import Border, Size, around, fitting, image, pair
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops import pool
from gpubackprop.tape import Tensor


class _Pool2d(Layer):
    """A window that moves over images, (H, W, C) -> (P, Q, C), each channel for itself."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Border = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel = pair(kernel_size)
        self.stride = self.kernel if stride is None else pair(stride)
        self.padding, self.dilation, self.ceil_mode = around(padding), pair(dilation), ceil_mode
        if any(2 * self.padding[i][0] > self.kernel[i] for i in (0, 1)):
            raise UsageError(f"padding: {padding} is more than half of kernel_size: {kernel_size}")

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) -> (P, Q, C)."""
        height, width, channels = image(shape, layers.name_of(type(self)))
        found = [
            pool.pooled_size(size, self.kernel[i], self.stride[i], self.padding[i], self.dilation[i], self.ceil_mode)
            for i, size in enumerate((height, width))
        ]
        return (*fitting(found, shape, self.kernel), channels)


@layers.register("max_pool2d")
class MaxPool2d(_Pool2d):
    """The largest value of each window; `stride` is the kernel size unless given."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, C)."""
        y: Tensor = pool.max_pool2d(
            x,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )
        return y


@layers.register("avg_pool2d")
class AvgPool2d(_Pool2d):
    """The mean of each window; `stride` is the kernel size unless given, padding counts as zeros unless told not to."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Border = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode=ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, C)."""
        y: Tensor = pool.avg_pool2d(
            x,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )
        return y


class _AdaptivePool2d(Layer):
    """As many windows as `output_size` says, of sizes that fit: (H, W, C) -> (P, Q, C)."""

    def __init__(self, output_size: Size) -> None:
        self.out = pair(output_size)

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) -> (P, Q, C)."""
        return (*self.out, image(shape, layers.name_of(type(self)))[2])


@layers.register("adaptive_avg_pool2d")
class AdaptiveAvgPool2d(_AdaptivePool2d):
    """The mean of each of `output_size` windows."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, C)."""
        y: Tensor = pool.adaptive_avg_pool2d(x, output_size=self.out)
        return y


@layers.register("adaptive_max_pool2d")
class AdaptiveMaxPool2d(_AdaptivePool2d):
    """The largest value of each of `output_size` windows."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, C)."""
        y: Tensor = pool.adaptive_max_pool2d(x, output_size=self.out)
        return y


class _GlobalPool2d(Layer):
    """One value per channel: (H, W, C) -> (C,)."""

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) -> (C,)."""
        return (image(shape, layers.name_of(type(self)))[2],)


@layers.register("global_avg_pool2d")
class GlobalAvgPool2d(_GlobalPool2d):
    """The mean over the image."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, C)."""
        y: Tensor = pool.global_avg_pool2d(x)
        return y


@layers.register("global_max_pool2d")
class GlobalMaxPool2d(_GlobalPool2d):
    """The largest value of the image."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, C)."""
        y: Tensor = pool.global_max_pool2d(x)
        return y
