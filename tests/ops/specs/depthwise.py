"""Rows of ops/depthwise.py."""

from __future__ import annotations

from gpubackprop.ops.depthwise import depthwise_conv
from tests.ops.specs import OpSpec
from tests.ops.specs.conv import ONE, geometry, torch_conv


def _torch(x, weight, bias, **options):
    return torch_conv(x, weight, bias, groups=x.shape[-1], **options)


def row(name, image=(6, 5, 3), kernel=(3, 3), multiplier=1, n=2, bias=True, **options):
    out = image[-1] * multiplier

    def inputs(rng):
        x = rng.normal(size=(n, *image))
        return x, rng.normal(size=(*kernel, 1, out)), rng.normal(size=out) if bias else None

    return OpSpec(f"depthwise_conv{len(kernel)}d {name}", depthwise_conv, inputs, _torch, geometry(kernel, options))


ROWS = [
    row("3x3, padding 1", padding=ONE),
    row("no bias", bias=False),
    row("two each", multiplier=2, padding=ONE),
    row("stride, three each", multiplier=3, stride=(2, 1)),
    row("dilation, uneven padding", image=(7, 6, 2), kernel=(2, 3), dilation=(2, 2), padding=((0, 2), (1, 3))),
    row("stride beyond the kernel", kernel=(1, 2), stride=(2, 3)),
    row("causal", image=(7, 3), kernel=(3,), dilation=(2,), padding=((4, 0),)),
    row("stride 2", image=(3, 4, 3, 2), kernel=(2, 2, 2), stride=(1, 2, 2), padding=((0, 0), (1, 0), (0, 1))),
]
