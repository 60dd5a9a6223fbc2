"""Convolution of sequences, images and volumes."""

from __future__ import annotations

from math import prod, sqrt
from typing import ClassVar, Literal

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.init import kaiming_uniform, uniform
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.spatial import Border1, Border2, Border3, Size, Size1, Size2, Size3, around, each, fitting, spatial
from gpubackprop.ops.conv import Padding, conv, output_size
from gpubackprop.ops.depthwise import depthwise_conv
from gpubackprop.ops.mask import fill, window_mask
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, Positive
from gpubackprop.tape import Tensor


class _Conv(Layer):
    """Convolution over `axes` axes: (*S, C) -> (*P, O). weight (O, C/groups, *K) and bias (O,) in the state dict."""

    axes: ClassVar[int]
    weight: Param
    bias: Param | None = None

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        self.in_channels, self.out_channels, self.groups, self.has_bias = in_channels, out_channels, groups, bias
        self.kernel, self.stride, self.dilation = (each(s, self.axes) for s in (kernel_size, stride, dilation))
        if padding == "same" and max(self.stride) > 1:
            raise UsageError(
                f"padding: same with stride: {stride} is not defined; give the padding as a number, for example "
                f"{self.kernel[0] // 2}"
            )
        self.padding = self._padding(padding)

    def _padding(self, padding: Size | str) -> Padding:
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        if padding == "same":
            return tuple((cells // 2, cells - cells // 2) for cells in reach)
        if padding == "causal":
            return tuple((cells, 0) for cells in reach)
        return around(0 if isinstance(padding, str) else padding, self.axes)

    def output_shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*P, O)."""
        sizes, channels = spatial(shape, layers.name_of(type(self)), self.axes)
        self.settle("in_channels", channels)
        for option, count in (("in_channels", channels), ("out_channels", self.out_channels)):
            if count % self.groups:
                raise ShapeError(f"{option} must be a multiple of groups, but {count} is none of {self.groups}")
        found = list(map(output_size, sizes, self.kernel, self.stride, self.padding, self.dilation))
        return (*fitting(found, shape, self.kernel), self.out_channels)

    def flops(self) -> int:
        """2 prod(K) C/G O for every output position."""
        assert self.shapes is not None
        return 2 * prod(self.kernel) * (self.size("in_channels") // self.groups) * prod(self.shapes[1])

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight and bias, both U(±1/√fan_in) as PyTorch's."""
        return conv_arrays(self.kernel, self.size("in_channels") // self.groups, self.out_channels, self.has_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *S, C) -> (N, *P, O)."""
        lie = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        y: Tensor
        if self.groups == self.in_channels == self.out_channels:  # with several kernels per channel GEMMs are quicker
            y = depthwise_conv(x, self.weight, self.bias, **lie)
        else:
            y = conv(x, self.weight, self.bias, groups=self.groups, **lie)
        return y


@layers.register("conv1d")
class Conv1d(_Conv):
    """Convolution: (T, C) -> (P, O). weight (O, C/groups, K) and bias (O,) in the state dict.

    `padding` as conv2d's, or "causal": dilation · (kernel_size − 1) zeros in front and none behind, so that output t
    sees inputs up to t alone (van den Oord et al. 2016; not in PyTorch). Behind a mask, padding counts as zeros, and
    positions are real where the sequence alone would have had them.
    """

    axes = 1

    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Size1,
        stride: Size1 = 1,
        padding: Border1 | Literal["same", "valid", "causal"] = 0,
        dilation: Size1 = 1,
        groups: Positive = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, P, O)."""
        if x.mask is None:
            return super().forward(x)
        y = super().forward(fill(x, x.mask))
        lie = self.kernel[0], self.stride[0], self.padding[0], self.dilation[0]
        y.mask = window_mask(x.tape.backend, x.mask, y.shape[1], *lie)
        return y


@layers.register("conv2d")
class Conv2d(_Conv):
    """Convolution: (H, W, C) -> (P, Q, O). weight (O, C/groups, KH, KW) and bias (O,) in the state dict.

    `padding` is a number of zero cells on every side, a pair (top and bottom, left and right), "valid" for none, or
    "same" for as many as keep H and W, the odd one right and bottom. Raises UsageError for "same" with a stride.
    """

    axes = 2

    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Border2 | Literal["same", "valid"] = 0,
        dilation: Size2 = 1,
        groups: Positive = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)


@layers.register("conv3d")
class Conv3d(_Conv):
    """Convolution: (D, H, W, C) -> (P, Q, R, O). weight (O, C/groups, KD, KH, KW) and bias (O,) in the state dict.

    `padding` as conv2d's.
    """

    axes = 3

    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Border3 | Literal["same", "valid"] = 0,
        dilation: Size3 = 1,
        groups: Positive = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)


@layers.register("depthwise_conv2d")
class DepthwiseConv2d(_Conv):
    """`multiplier` kernels for every channel by itself: (H, W, C) -> (P, Q, C · multiplier).

    The same as conv2d with groups = C, and the same state: weight (C · multiplier, 1, KH, KW) and bias; options as
    conv2d's. Behind it a 1x1 conv2d mixes the channels (Howard et al. 2017).
    """

    axes = 2

    def __init__(
        self,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Border2 | Literal["same", "valid"] = 0,
        dilation: Size2 = 1,
        multiplier: Positive = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(None, multiplier, kernel_size, stride, padding, dilation, bias=bias)
        self.multiplier = multiplier

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) -> (P, Q, C · multiplier)."""
        self.groups = spatial(shape, "depthwise_conv2d", 2)[1]
        self.out_channels = self.groups * self.multiplier
        return super().output_shape(shape)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, C · multiplier)."""
        y: Tensor = depthwise_conv(
            x, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation
        )
        return y


def conv_arrays(kernel: Shape, group_in: int, out_channels: int, bias: bool) -> dict[str, Param | Buffer]:
    """weight (*K, I, O), (O, I, *K) in the state dict, and bias (O,), both U(±1/√fan_in) as PyTorch's."""
    fan_in = group_in * prod(kernel)
    axes = len(kernel)
    layout = (axes + 1, axes, *range(axes))
    arrays: dict[str, Param | Buffer] = {
        "weight": Param((*kernel, group_in, out_channels), kaiming_uniform(fan_in), layout=layout)
    }
    if bias:
        arrays["bias"] = Param((out_channels,), uniform(1 / sqrt(fan_in)), kind="bias")
    return arrays
