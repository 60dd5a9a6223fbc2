"""Rows of nn/upsample.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _row(kind, *args, shape=(3, 5, 2), **options):
    def torch():
        import torch

        return getattr(torch.nn, kind)(*args, **options)

    name = ", ".join([kind, str(shape), *map(str, args), *(f"{key} {value}" for key, value in options.items())])
    return LayerSpec(name, lambda: getattr(nn, kind)(*args, **options), torch, shape, channels_first=True)


ROWS = [
    _row("Upsample", (5, 4)),
    _row("Upsample", scale_factor=2),
    _row("Upsample", scale_factor=(1.7, 0.6)),
    _row("Upsample", 9, shape=(4, 2)),
    _row("Upsample", scale_factor=3, shape=(2, 3, 2, 2)),
    _row("Upsample", scale_factor=2, mode="bilinear"),
    _row("Upsample", scale_factor=2, mode="bilinear", align_corners=True),
    _row("Upsample", scale_factor=(2.3, 1.5), mode="bilinear"),
    _row("Upsample", (4, 4), mode="bilinear"),
    _row("Upsample", scale_factor=2, mode="linear", shape=(4, 2)),
    _row("Upsample", scale_factor=2, mode="trilinear", align_corners=True, shape=(2, 3, 2, 2)),
    _row("PixelShuffle", 2, shape=(3, 2, 12)),
    _row("PixelUnshuffle", 3, shape=(6, 3, 2)),
]
