"""Transposed convolution: what a convolution's backward does, as a layer that enlarges."""

from __future__ import annotations

from math import prod
from typing import ClassVar

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.conv import conv_arrays
from gpubackprop.nn.init import uniform
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.spatial import Border1, Border2, Border3, Size, Size1, Size2, Size3, around, each, spatial
from gpubackprop.ops.conv import conv_transpose, transposed_size
from gpubackprop.ops.mask import fill, transposed_mask
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, Positive
from gpubackprop.tape import Tensor


class _ConvTranspose(Layer):
    """Transposed convolution over `axes` axes: (*P, C) -> (*S, O). weight (C, O/groups, *K), bias (O,) in the state.

    Every input position adds its value times the kernel to a window of the output; windows lie `stride` apart, and
    `padding` cells are cut off on every side. `output_padding` (less than stride or dilation) adds cells behind.
    """

    axes: ClassVar[int]
    weight: Param
    bias: Param | None = None

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        output_padding: Size,
        groups: int,
        bias: bool,
        dilation: Size,
    ) -> None:
        self.in_channels, self.out_channels, self.groups, self.has_bias = in_channels, out_channels, groups, bias
        self.kernel, self.stride, self.dilation = (each(s, self.axes) for s in (kernel_size, stride, dilation))
        self.padding, self.output_padding = around(padding, self.axes), each(output_padding, self.axes)
        if any(e >= max(s, d) for e, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)):
            raise UsageError(
                f"output_padding: {output_padding} must be less than stride: {stride} or dilation: {dilation}; it only "
                "settles which of the sizes that a stride maps to one is meant"
            )

    def output_shape(self, shape: Shape) -> Shape:
        """(*P, C) -> (*S, O)."""
        sizes, channels = spatial(shape, layers.name_of(type(self)), self.axes)
        self.settle("in_channels", channels)
        for option, count in (("in_channels", channels), ("out_channels", self.out_channels)):
            if count % self.groups:
                raise ShapeError(f"{option} must be a multiple of groups, but {count} is none of {self.groups}")
        windows = (sizes, self.kernel, self.stride, self.padding, self.dilation, self.output_padding)
        found = tuple(map(transposed_size, *windows))
        if min(found) < 1:
            raise ShapeError(f"padding cuts all off: the output of {shape} would be {found}; use less padding")
        return (*found, self.out_channels)

    def flops(self) -> int:
        """2 prod(K) C O/G for every input position."""
        assert self.shapes is not None
        return 2 * prod(self.kernel) * (self.out_channels // self.groups) * prod(self.shapes[0])

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight and bias, both U(±1/√(prod(K) O/groups)) as PyTorch's, which takes the output for the input here."""
        group_out = self.out_channels // self.groups
        arrays = conv_arrays(self.kernel, group_out, self.size("in_channels"), bias=False)
        if self.has_bias:
            bound = (group_out * prod(self.kernel)) ** -0.5
            arrays["bias"] = Param((self.out_channels,), uniform(bound), kind="bias")
        return arrays

    def forward(self, x: Tensor) -> Tensor:
        """(N, *P, C) -> (N, *S, O)."""
        y: Tensor = conv_transpose(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y


@layers.register("conv_transpose1d")
class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution: (P, C) -> (T, O). weight (C, O/groups, K) and bias (O,) in the state dict.

    Behind a mask, padding counts as zeros, and positions are real where the sequence alone would have had them.
    """

    axes = 1

    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Size1,
        stride: Size1 = 1,
        padding: Border1 = 0,
        output_padding: Border1 = 0,
        groups: Positive = 1,
        bias: bool = True,
        dilation: Size1 = 1,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, P, C) -> (N, T, O)."""
        if x.mask is None:
            return super().forward(x)
        y = super().forward(fill(x, x.mask))
        lie = self.kernel[0], self.stride[0], self.padding[0], self.dilation[0], self.output_padding[0]
        y.mask = transposed_mask(x.tape.backend, x.mask, y.shape[1], *lie)
        return y


@layers.register("conv_transpose2d")
class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution: (P, Q, C) -> (H, W, O). weight (C, O/groups, KH, KW) and bias (O,) in the state dict.

    `kernel_size: 2, stride: 2` doubles height and width, as in the way up of a U-Net.
    """

    axes = 2

    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Border2 = 0,
        output_padding: Border2 = 0,
        groups: Positive = 1,
        bias: bool = True,
        dilation: Size2 = 1,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        )


@layers.register("conv_transpose3d")
class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution: (P, Q, R, C) -> (D, H, W, O). weight (C, O/groups, KD, KH, KW) and bias (O,)."""

    axes = 3

    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Border3 = 0,
        output_padding: Border3 = 0,
        groups: Positive = 1,
        bias: bool = True,
        dilation: Size3 = 1,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation
        )
