"""Rows of ops/conv.py."""

from __future__ import annotations

from gpubackprop.ops.conv import conv, conv_transpose
from tests.ops.specs import OpSpec


def channels_first(x):
    return x.movedim(-1, 1)


def channels_last(y):
    return y.movedim(1, -1)


def kernel_first(weight):
    """(*K, I, O) -> (O, I, *K); some of PyTorch's convolutions refuse a permuted weight."""
    import torch

    return weight.movedim(-1, 0).movedim(-1, 1).clone(memory_format=torch.contiguous_format)


def padded(x, padding):
    """Channels first, with zeros around."""
    import torch.nn.functional as F

    return F.pad(channels_first(x), [cells for axis in reversed(padding) for cells in axis])


def torch_conv(x, weight, bias, *, stride, padding, dilation, groups=1):
    import torch.nn.functional as F

    convolve = [F.conv1d, F.conv2d, F.conv3d][len(stride) - 1]
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    return channels_last(convolve(padded(x, padding), kernel_first(weight), bias, **options))


def _torch_transpose(x, weight, bias, *, stride, padding, output_padding, dilation, groups=1):
    import torch.nn.functional as F

    transpose = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d][len(stride) - 1]
    around = tuple(before for before, _ in padding)
    options = {"stride": stride, "output_padding": output_padding, "dilation": dilation, "groups": groups}
    return channels_last(transpose(channels_first(x), kernel_first(weight), bias, padding=around, **options))


def geometry(kernel, options):
    """Every option of the windows, those that are not given at their defaults."""
    none = {"stride": (1,) * len(kernel), "padding": ((0, 0),) * len(kernel), "dilation": (1,) * len(kernel)}
    return none | options


def row(name, image=(6, 5, 3), kernel=(3, 3), out=4, n=2, bias=True, **options):
    channels = image[-1] // options.get("groups", 1)

    def inputs(rng):
        x = rng.normal(size=(n, *image))
        return x, rng.normal(size=(*kernel, channels, out)), rng.normal(size=out) if bias else None

    return OpSpec(f"conv{len(kernel)}d {name}", conv, inputs, torch_conv, geometry(kernel, options))


def transposed_row(name, image=(4, 3, 4), kernel=(3, 3), out=6, n=2, bias=True, **options):
    def inputs(rng):
        weight = rng.normal(size=(*kernel, out // options.get("groups", 1), image[-1]))
        return rng.normal(size=(n, *image)), weight, rng.normal(size=out) if bias else None

    options = {"output_padding": (0,) * len(kernel)} | geometry(kernel, options)
    return OpSpec(f"conv_transpose{len(kernel)}d {name}", conv_transpose, inputs, _torch_transpose, options)


ONE = ((1, 1), (1, 1))
ROWS = [
    row("3x3"),
    row("3x3, padding 1", padding=ONE),
    row("no bias", bias=False, padding=ONE),
    row("1x1", kernel=(1, 1)),
    row("1x1, stride 2", kernel=(1, 1), stride=(2, 2)),
    row("1x1, padding 1", kernel=(1, 1), padding=ONE),
    row("kernel as large as the image", kernel=(6, 5)),
    row("oblong kernel", kernel=(1, 4), padding=((0, 0), (2, 1))),
    row("even kernel, same", kernel=(2, 4), padding=((0, 1), (1, 2))),
    row("stride 2", stride=(2, 2), padding=ONE),
    row("stride beyond the kernel", kernel=(2, 2), stride=(3, 3), image=(7, 8, 2)),
    row("unequal strides, a row left over", stride=(2, 1), image=(8, 5, 2)),
    row("dilation", dilation=(2, 1), padding=((2, 2), (1, 1))),
    row("dilation and stride", dilation=(2, 2), stride=(2, 2), image=(9, 8, 2)),
    row("padding beyond the kernel", kernel=(2, 2), padding=((2, 3), (0, 2))),
    row("two groups", image=(5, 5, 4), groups=2, out=6, padding=ONE),
    row("two groups, stride 2", image=(5, 5, 4), groups=2, out=6, stride=(2, 2)),
    row("two groups, 1x1", image=(4, 4, 4), groups=2, kernel=(1, 1)),
    row("depthwise", image=(5, 5, 4), groups=4, padding=ONE),
    row("depthwise, two each", image=(5, 5, 3), groups=3, out=6, stride=(2, 2), padding=ONE),
    row("one channel, one sample", image=(7, 7, 1), n=1),
    row("3", image=(7, 3), kernel=(3,)),
    row("causal, dilation 2", image=(7, 3), kernel=(3,), padding=((4, 0),), dilation=(2,)),
    row("stride 2, two groups", image=(8, 4), kernel=(3,), stride=(2,), padding=((1, 1),), groups=2),
    row("1", image=(5, 3), kernel=(1,), bias=False),
    row("2x3x2", image=(3, 4, 3, 2), kernel=(2, 3, 2), padding=((0, 1), (1, 1), (0, 0))),
    row("stride and groups", image=(4, 5, 4, 4), kernel=(2, 2, 2), stride=(2, 1, 2), groups=2, dilation=(1, 2, 1)),
    transposed_row("3x3"),
    transposed_row("stride 2", stride=(2, 2), padding=ONE, output_padding=(1, 0)),
    transposed_row("2x2, stride 2, no bias", kernel=(2, 2), stride=(2, 2), bias=False),
    transposed_row("stride beyond the kernel", kernel=(2, 1), stride=(3, 2), output_padding=(2, 1)),
    transposed_row("two groups", stride=(1, 2), groups=2, padding=((1, 1), (0, 0))),
    transposed_row("dilation, output padding", dilation=(2, 3), output_padding=(1, 2)),
    transposed_row("1x1, dilation, output padding", kernel=(1, 1), dilation=(2, 2), output_padding=(1, 1)),
    transposed_row("padding beyond the kernel", padding=((2, 2), (0, 0)), kernel=(2, 2)),
    transposed_row("stride 3", image=(5, 4), kernel=(4,), stride=(3,), padding=((1, 1),), output_padding=(2,)),
    transposed_row("3, two groups", image=(5, 4), kernel=(3,), groups=2),
    transposed_row("stride 2", image=(2, 3, 2, 2), kernel=(2, 3, 1), stride=(2, 1, 2), out=2),
]
