"""Rows of ops/conv.py."""

from __future__ import annotations

from gpubackprop.ops.conv import conv2d
from tests.ops.specs import OpSpec


def _torch(x, weight, bias, *, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    import torch
    import torch.nn.functional as F

    (top, bottom), (left, right) = padding
    images = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    # Some of PyTorch's convolutions refuse a permuted weight.
    kernel = weight.permute(3, 2, 0, 1).clone(memory_format=torch.contiguous_format)
    y = F.conv2d(images, kernel, bias, stride=stride, dilation=dilation, groups=groups)
    return y.permute(0, 2, 3, 1)


def _row(name, image=(6, 5, 3), kernel=(3, 3), out=4, n=2, bias=True, **options):
    channels = image[-1] // options.get("groups", 1)

    def inputs(rng):
        x = rng.normal(size=(n, *image))
        return x, rng.normal(size=(*kernel, channels, out)), rng.normal(size=out) if bias else None

    return OpSpec(f"conv2d {name}", conv2d, inputs, _torch, options)


ONE = ((1, 1), (1, 1))
ROWS = [
    _row("3x3"),
    _row("3x3, padding 1", padding=ONE),
    _row("no bias", bias=False, padding=ONE),
    _row("1x1", kernel=(1, 1)),
    _row("1x1, stride 2", kernel=(1, 1), stride=(2, 2)),
    _row("1x1, padding 1", kernel=(1, 1), padding=ONE),
    _row("kernel as large as the image", kernel=(6, 5)),
    _row("oblong kernel", kernel=(1, 4), padding=((0, 0), (2, 1))),
    _row("even kernel, same", kernel=(2, 4), padding=((0, 1), (1, 2))),
    _row("stride 2", stride=(2, 2), padding=ONE),
    _row("stride beyond the kernel", kernel=(2, 2), stride=(3, 3), image=(7, 8, 2)),
    _row("unequal strides, a row left over", stride=(2, 1), image=(8, 5, 2)),
    _row("dilation", dilation=(2, 1), padding=((2, 2), (1, 1))),
    _row("dilation and stride", dilation=(2, 2), stride=(2, 2), image=(9, 8, 2)),
    _row("padding beyond the kernel", kernel=(2, 2), padding=((2, 3), (0, 2))),
    _row("two groups", image=(5, 5, 4), groups=2, out=6, padding=ONE),
    _row("two groups, stride 2", image=(5, 5, 4), groups=2, out=6, stride=(2, 2)),
    _row("two groups, 1x1", image=(4, 4, 4), groups=2, kernel=(1, 1)),
    _row("depthwise", image=(5, 5, 4), groups=4, padding=ONE),
    _row("depthwise, two each", image=(5, 5, 3), groups=3, out=6, stride=(2, 2), padding=ONE),
    _row("one channel, one sample", image=(7, 7, 1), n=1),
]
