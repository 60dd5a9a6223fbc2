"""Convolutions by cuDNN: images as they lie here, channels last, and weights (*K, C/G, O) copied to (O, *K, C/G).

Of filters cuDNN knows that order and (O, C/G, *K). Any other that is described to it by strides it takes, without a
word, for the former: its plans have then neither another kernel nor the scratch memory to turn the filter.

Letters as in ops/conv.py. Along one axis it is a convolution of images one cell high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.columns import column_sums
from gpubackprop.kernels.cuda.cudnn import Graph, Operand, operand, pair
from gpubackprop.kernels.cuda.kernel import rows_of
from gpubackprop.ops.conv import conv, conv_transpose, output_size, transposed_size
from gpubackprop.ops.depthwise import depthwise_conv
from gpubackprop.tape import Slot, Slots


def conv_fprop(library: Any, g: Any, image: Any, weight: Any, bias: Any = None, **windows: Any) -> tuple[Any]:
    """y = x * weight + bias"""
    y = g.conv_fprop(image=image, weight=weight, **windows)
    return (y if bias is None else g.bias(input=y, bias=bias),)


def conv_dgrad(library: Any, g: Any, loss: Any, weight: Any, **windows: Any) -> tuple[Any]:
    """dx"""
    return (g.conv_dgrad(loss=loss, filter=weight, **windows),)


def conv_wgrad(library: Any, g: Any, image: Any, loss: Any, **windows: Any) -> tuple[Any]:
    """dweight"""
    return (g.conv_wgrad(image=image, loss=loss, **windows),)


class Convolution(NamedTuple):
    """A convolution from image to map, as the graphs of its three passes see it."""

    image: Operand  # (N, C, *S)
    weight: Operand  # (O, C/G, *K)
    map: Operand  # (N, O, *P)
    windows: tuple[tuple[str, Any], ...]

    def fprop(self, bias: Operand | None = None) -> Graph:
        """Image, weight, bias -> map."""
        given = (self.image, self.weight) if bias is None else (self.image, self.weight, bias)
        return Graph(conv_fprop, given, (self.map,), self.windows, True)

    def dgrad(self) -> Graph:
        """Map, weight -> image."""
        return Graph(conv_dgrad, (self.map, self.weight), (self.image,), self.windows, True)

    def wgrad(self) -> Graph:
        """Image, map -> weight."""
        return Graph(conv_wgrad, (self.image, self.map), (self.weight,), self.windows, True)


def convolution(
    image: Sequence[int], weight: Sequence[int], out: Sequence[int], dtype: Any, options: Mapping[str, Any]
) -> Convolution:
    """Of images (N, *S, C) to (N, *P, O) = `out`, weight (*K, C/G, O), which cuDNN gets as `_out_first`."""
    stride, padding, dilation = ([*options[name]] for name in ("stride", "padding", "dilation"))
    if len(stride) == 1:
        stride, dilation, padding = [1, *stride], [1, *dilation], [(0, 0), *padding]
        image, out, weight = (image[0], 1, *image[1:]), (out[0], 1, *out[1:]), (1, *weight)
    n = len(stride)
    windows = (
        ("pre_padding", tuple(before for before, _ in padding)),
        ("post_padding", tuple(after for _, after in padding)),
        ("stride", tuple(stride)),
        ("dilation", tuple(dilation)),
    )
    *kernel, c, o = weight
    channels_second = (0, n + 1, *range(1, n + 1))
    return Convolution(
        operand(image, channels_second, dtype),
        operand((o, *kernel, c), channels_second, dtype),
        operand(out, channels_second, dtype),
        windows,
    )


def _out_first(b: CudaBackend, weight: Array) -> Array:
    """weight (*K, C/G, O) -> (O, *K, C/G)."""
    turned: Array = b.contiguous(weight.transpose(weight.ndim - 1, *range(weight.ndim - 1)))
    return turned


def _weight_gradient(b: CudaBackend, graph: Graph, image: Array, map: Array, weight: Array, slot: Slot) -> Array:
    """dweight (*K, C/G, O), of `wgrad`."""
    *kernel, c, o = weight.shape
    found, dweight = b.empty((o, *kernel, c), weight.dtype), b.out(slot, weight.shape, weight.dtype)
    b.compute(graph, image, map, found)
    b.assign(dweight, found.transpose(*range(1, weight.ndim), 0))
    return dweight


def _bias(image: Operand) -> Operand:
    """The bias (C,) of images."""
    channels, ones = image.sizes[1], (1,) * (len(image.sizes) - 2)
    return Operand((1, channels, *ones), (channels, 1, *(channels,) * len(ones)), image.dtype)


def _conv(x: Array, weight: Array, options: Mapping[str, Any]) -> tuple[Convolution, tuple[int, ...]]:
    """The convolution of x, and the shape of y."""
    where = options["stride"], options["padding"], options["dilation"]
    y = (x.shape[0], *map(output_size, x.shape[1:-1], weight.shape[:-2], *where), weight.shape[-1])
    return convolution(x.shape, weight.shape, y, x.dtype, options), y


def conv_forward(b: CudaBackend, x: Array, weight: Array, bias: Array | None, **options: Any) -> tuple[Array, Any]:
    """As ops/conv.py."""
    passes, shape = _conv(x, weight, options)
    y, turned = b.empty(shape, x.dtype), _out_first(b, weight)
    if bias is None:
        b.compute(passes.fprop(), x, turned, y)
    else:
        b.compute(passes.fprop(_bias(passes.map)), x, turned, bias, y)
    return y, (x, weight, turned, passes)


def conv_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/conv.py."""
    x, weight, turned, passes = saved
    dx = dweight = None
    if slots[0].wanted:
        dx = b.out(slots[0], x.shape, x.dtype)
        b.compute(passes.dgrad(), dy, turned, dx)
    if slots[1].wanted:
        dweight = _weight_gradient(b, passes.wgrad(), x, dy, weight, slots[1])
    return dx, dweight, _bias_gradient(b, dy, slots[2])


def _conv_transpose(x: Array, weight: Array, options: Mapping[str, Any]) -> tuple[Convolution, tuple[int, ...]]:
    """The convolution from y to x, and the shape of y."""
    where = options["stride"], options["padding"], options["dilation"], options["output_padding"]
    sizes = map(transposed_size, x.shape[1:-1], weight.shape[:-2], *where)
    y = (x.shape[0], *sizes, weight.shape[-2] * options.get("groups", 1))
    return convolution(y, weight.shape, x.shape, x.dtype, options), y


def conv_transpose_forward(
    b: CudaBackend, x: Array, weight: Array, bias: Array | None, **options: Any
) -> tuple[Array, Any]:
    """As ops/conv.py."""
    passes, shape = _conv_transpose(x, weight, options)
    y, turned = b.empty(shape, x.dtype), _out_first(b, weight)
    b.compute(passes.dgrad(), x, turned, y)
    if bias is not None:  # cuDNN fuses it on some GPUs and for some sizes only
        y += bias
    return y, (x, weight, turned, passes)


def conv_transpose_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/conv.py."""
    x, weight, turned, passes = saved
    dx = dweight = None
    if slots[0].wanted:
        dx = b.out(slots[0], x.shape, x.dtype)
        b.compute(passes.fprop(), dy, turned, dx)
    if slots[1].wanted:
        dweight = _weight_gradient(b, passes.wgrad(), dy, x, weight, slots[1])
    return dx, dweight, _bias_gradient(b, dy, slots[2])


def _bias_gradient(b: CudaBackend, dy: Array, slot: Slot) -> Array | None:
    return column_sums(b, rows_of(dy), b.out(slot, dy.shape[-1:], dy.dtype)) if slot.wanted else None


def _conv_graphs(arrays: Sequence[Any], options: Mapping[str, Any]) -> list[Graph]:
    x, weight, bias = arrays
    passes, _ = _conv(x, weight, options)
    return [passes.fprop(None if bias is None else _bias(passes.map)), passes.dgrad(), passes.wgrad()]


def _conv_transpose_graphs(arrays: Sequence[Any], options: Mapping[str, Any]) -> list[Graph]:
    x, weight, _ = arrays
    passes, _ = _conv_transpose(x, weight, options)
    return [passes.dgrad(), passes.fprop(), passes.wgrad()]


pair(conv, conv_forward, conv_backward, _conv_graphs)
pair(depthwise_conv, conv_forward, conv_backward, _conv_graphs)  # its weight says that there are C groups
pair(conv_transpose, conv_transpose_forward, conv_transpose_backward, _conv_transpose_graphs)
