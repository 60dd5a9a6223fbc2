"""Rows of nn/conv.py."""

from __future__ import annotations

from gpubackprop.nn import Conv2d
from tests.nn.specs import LayerSpec


def _row(name, *args, shape=(6, 7, 4), **options):
    def torch():
        from torch import nn

        return nn.Conv2d(shape[-1], *args, **options)

    return LayerSpec(f"conv2d{name}", lambda: Conv2d(None, *args, **options), torch, shape, channels_first=True)


def _padded_by_hand():
    """PyTorch warns where "same" needs an odd number of cells, so its module is given them."""
    import torch

    class Padded(torch.nn.Conv2d):
        def forward(self, x):
            return super().forward(torch.nn.functional.pad(x, (3, 3, 0, 1)))

    return Padded(4, 3, (2, 4), dilation=(1, 2))


ROWS = [
    _row("", 3, 3),
    _row(", no bias", 3, 3, bias=False),
    _row(", oblong, padded, with stride", 3, (3, 2), stride=(2, 1), padding=(1, 2)),
    _row(", same", 3, 3, padding="same"),
    LayerSpec(
        "conv2d, same with an even kernel and dilation",
        lambda: Conv2d(None, 3, (2, 4), padding="same", dilation=(1, 2)),
        _padded_by_hand,
        (6, 7, 4),
        channels_first=True,
    ),
    _row(", valid", 3, 3, padding="valid"),
    _row(", groups", 6, 3, padding=1, groups=2),
    _row(", depthwise", 4, 3, padding=1, groups=4),
    _row(", 1x1", 5, 1),
]
