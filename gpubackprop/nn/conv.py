"""Convolution of images."""

from __future__ import annotations

from math import prod, sqrt
from typing import Annotated, Literal, TypeAlias

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.init import kaiming_uniform, uniform
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.conv import Padding, Pair, conv2d, output_size
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, Positive, Range
from gpubackprop.tape import Tensor

Size: TypeAlias = Positive | tuple[Positive, Positive]  #: one number for both, or (along H, along W)
Border: TypeAlias = Annotated[int, Range(ge=0)] | tuple[Annotated[int, Range(ge=0)], Annotated[int, Range(ge=0)]]


@layers.register("conv2d")
class Conv2d(Layer):
    """Convolution: (H, W, C) -> (P, Q, O). weight (O, C/groups, KH, KW) and bias (O,) in the state dict.

    `padding` is a number of zero cells on every side, a pair (top and bottom, left and right), "valid" for none, or
    "same" for as many as keep H and W, the odd one right and bottom. Raises UsageError for "same" with a stride.
    """

    weight: Param
    bias: Param | None = None

    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Size,
        stride: Size = 1,
        padding: Border | Literal["same", "valid"] = 0,
        dilation: Size = 1,
        groups: Positive = 1,
        bias: bool = True,
    ) -> None:
        self.in_channels, self.out_channels, self.groups, self.has_bias = in_channels, out_channels, groups, bias
        self.kernel, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        if padding == "same" and self.stride != (1, 1):
            raise UsageError(
                f"padding: same with stride: {stride} is not defined; give the padding as a number, for example "
                f"{self.kernel[0] // 2}"
            )
        self.padding = self._padding(padding)

    def _padding(self, padding: Border | Literal["same", "valid"]) -> Padding:
        if padding == "same":
            rows, columns = (d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))
            return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
        return around(0 if padding == "valid" else padding)

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) -> (P, Q, O)."""
        height, width, channels = image(shape, "conv2d")
        self.settle("in_channels", channels)
        for option, count in (("in_channels", channels), ("out_channels", self.out_channels)):
            if count % self.groups:
                raise ShapeError(f"{option} must be a multiple of groups, but {count} is none of {self.groups}")
        found = [
            output_size(size, self.kernel[i], self.stride[i], self.padding[i], self.dilation[i])
            for i, size in enumerate((height, width))
        ]
        return (*fitting(found, shape, self.kernel), self.out_channels)

    def flops(self) -> int:
        """2 KH KW C/G O for every output position."""
        assert self.shapes is not None
        return 2 * prod(self.kernel) * (self.size("in_channels") // self.groups) * prod(self.shapes[1])

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight and bias, both U(±1/√fan_in) as PyTorch's."""
        group_in = self.size("in_channels") // self.groups
        fan_in = group_in * self.kernel[0] * self.kernel[1]
        shape = (*self.kernel, group_in, self.out_channels)
        arrays: dict[str, Param | Buffer] = {"weight": Param(shape, kaiming_uniform(fan_in), layout=(3, 2, 0, 1))}
        if self.has_bias:
            arrays["bias"] = Param((self.out_channels,), uniform(1 / sqrt(fan_in)), kind="bias")
        return arrays

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, P, Q, O)."""
        y: Tensor = conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y


def pair(size: Size) -> Pair:
    """One number twice, or the pair that was given."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def around(border: Border) -> Padding:
    """The same padding on both ends of an axis: ((top, bottom), (left, right))."""
    rows, columns = pair(border)
    return (rows, rows), (columns, columns)


def image(shape: Shape, layer: str) -> tuple[int, int, int]:
    """`shape` as (H, W, C), or a ShapeError."""
    if len(shape) != 3:
        raise ShapeError(f"{layer} needs images (H, W, C), got {shape}; put reshape before it")
    return shape[0], shape[1], shape[2]


def fitting(found: list[int], shape: Shape, kernel: Pair) -> tuple[int, int]:
    """The output's height and width, or a ShapeError where the window does not fit into the padded image."""
    if min(found) < 1:
        raise ShapeError(
            f"a window of {kernel[0]} x {kernel[1]} does not fit into images {shape}, padding and dilation counted; "
            "use a smaller kernel_size, more padding, or less pooling before it"
        )
    return found[0], found[1]
