"""Pooling of sequences, images and volumes."""

from __future__ import annotations

from math import inf
from typing import ClassVar

from gpubackprop.errors import UsageError
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.spatial import Border1, Border2, Border3, Size, Size1, Size2, Size3, around, each, fitting, spatial
from gpubackprop.ops import adaptive_pool as adaptive
from gpubackprop.ops import pool
from gpubackprop.ops.mask import fill, window_mask
from gpubackprop.tape import Tensor


class _Pool(Layer):
    """A window that moves over `axes` axes, (*S, C) -> (*P, C), each channel for itself."""

    axes: ClassVar[int]

    def __init__(self, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool) -> None:
        self.kernel = each(kernel_size, self.axes)
        self.stride = self.kernel if stride is None else each(stride, self.axes)
        self.padding, self.dilation = around(padding, self.axes), each(dilation, self.axes)
        self.ceil_mode = ceil_mode
        if any(2 * before > k for (before, _), k in zip(self.padding, self.kernel, strict=True)):
            raise UsageError(f"padding: {padding} is more than half of kernel_size: {kernel_size}")

    def output_shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*P, C)."""
        sizes, channels = spatial(shape, layers.name_of(type(self)), self.axes)
        ceil = (self.ceil_mode,) * self.axes
        found = list(map(pool.pooled_size, sizes, self.kernel, self.stride, self.padding, self.dilation, ceil))
        return (*fitting(found, shape, self.kernel), channels)

    def mask_behind(self, x: Tensor, y: Tensor) -> None:
        """Give y (N, P, C) the mask that x (N, T, C) has there."""
        lie = self.kernel[0], self.stride[0], self.padding[0], self.dilation[0], self.ceil_mode
        y.mask = window_mask(x.tape.backend, x.mask, y.shape[1], *lie)


class _MaxPool(_Pool):
    def forward(self, x: Tensor) -> Tensor:
        """(N, *S, C) -> (N, *P, C)."""
        y: Tensor = pool.max_pool(
            x,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )
        return y


class _AvgPool(_Pool):
    count_include_pad: bool

    def forward(self, x: Tensor) -> Tensor:
        """(N, *S, C) -> (N, *P, C)."""
        y: Tensor = pool.avg_pool(
            x,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )
        return y


@layers.register("max_pool1d")
class MaxPool1d(_MaxPool):
    """The largest value of each window of a sequence; `stride` is the kernel size unless given.

    Behind a mask, padding never wins, and positions are real where the sequence alone would have had them.
    """

    axes = 1

    def __init__(
        self,
        kernel_size: Size1,
        stride: Size1 | None = None,
        padding: Border1 = 0,
        dilation: Size1 = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, P, C)."""
        if x.mask is None:
            return super().forward(x)
        y = super().forward(fill(x, x.mask, value=-inf))
        self.mask_behind(x, y)
        filled: Tensor = fill(y, y.mask)  # windows of padding alone, whose largest value is -inf
        return filled


@layers.register("max_pool2d")
class MaxPool2d(_MaxPool):
    """The largest value of each window; `stride` is the kernel size unless given."""

    axes = 2

    def __init__(
        self,
        kernel_size: Size2,
        stride: Size2 | None = None,
        padding: Border2 = 0,
        dilation: Size2 = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)


@layers.register("max_pool3d")
class MaxPool3d(_MaxPool):
    """The largest value of each window of a volume; `stride` is the kernel size unless given."""

    axes = 3

    def __init__(
        self,
        kernel_size: Size3,
        stride: Size3 | None = None,
        padding: Border3 = 0,
        dilation: Size3 = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)


@layers.register("avg_pool1d")
class AvgPool1d(_AvgPool):
    """The mean of each window of a sequence; options as avg_pool2d's.

    Behind a mask, padding counts as zeros, and positions are real where the sequence alone would have had them.
    """

    axes = 1

    def __init__(
        self,
        kernel_size: Size1,
        stride: Size1 | None = None,
        padding: Border1 = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, P, C)."""
        if x.mask is None:
            return super().forward(x)
        y = super().forward(fill(x, x.mask))
        self.mask_behind(x, y)
        return y


@layers.register("avg_pool2d")
class AvgPool2d(_AvgPool):
    """The mean of each window; `stride` is the kernel size unless given, padding counts as zeros unless told not to."""

    axes = 2

    def __init__(
        self,
        kernel_size: Size2,
        stride: Size2 | None = None,
        padding: Border2 = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad


@layers.register("avg_pool3d")
class AvgPool3d(_AvgPool):
    """The mean of each window of a volume; options as avg_pool2d's."""

    axes = 3

    def __init__(
        self,
        kernel_size: Size3,
        stride: Size3 | None = None,
        padding: Border3 = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = count_include_pad


class _AdaptivePool(Layer):
    """As many windows as `output_size` says, of sizes that fit: (*S, C) -> (*P, C)."""

    axes: ClassVar[int] = 2

    def __init__(self, output_size: Size2) -> None:
        self.out = each(output_size, self.axes)

    def output_shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*P, C)."""
        return (*self.out, spatial(shape, layers.name_of(type(self)), self.axes)[1])


@layers.register("adaptive_avg_pool1d")
class AdaptiveAvgPool1d(_AdaptivePool):
    """The mean of each of `output_size` windows of a sequence.

    They lie over padding too, which counts as zeros; a mask ends here, as windows differ from sample to sample.
    """

    axes = 1

    def __init__(self, output_size: Size1) -> None:
        self.out = each(output_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, P, C)."""
        y: Tensor = adaptive.adaptive_avg_pool(x if x.mask is None else fill(x, x.mask), output_size=self.out)
        y.mask = None
        return y


@layers.register("adaptive_avg_pool2d")
class AdaptiveAvgPool2d(_AdaptivePool):
    """The mean of each of `output_size` windows."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, C)."""
        y: Tensor = adaptive.adaptive_avg_pool(x, output_size=self.out)
        return y


@layers.register("adaptive_max_pool2d")
class AdaptiveMaxPool2d(_AdaptivePool):
    """The largest value of each of `output_size` windows."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, C)."""
        y: Tensor = adaptive.adaptive_max_pool(x, output_size=self.out)
        return y
