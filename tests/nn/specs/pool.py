"""Rows of nn/pool.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _row(kind, *args, shape=(7, 6, 3), **options):
    def torch():
        import torch

        return getattr(torch.nn, kind)(*args, **options)

    name = ", ".join([kind, *map(str, args), *(f"{key} {value}" for key, value in options.items())])
    return LayerSpec(name, lambda: getattr(nn, kind)(*args, **options), torch, shape, channels_first=True)


def _whole_image(kind):
    def torch():
        import torch

        return torch.nn.Sequential(getattr(torch.nn, f"Adaptive{kind}Pool2d")(1), torch.nn.Flatten())

    layer = f"Global{kind}Pool2d"
    return LayerSpec(layer, lambda: getattr(nn, layer)(), torch, (4, 5, 3), channels_first=True)


ROWS = [
    _row("MaxPool2d", 2),
    _row("MaxPool2d", 3, 2, 1),
    _row("MaxPool2d", 2, ceil_mode=True),
    _row("MaxPool2d", (2, 3), stride=1, dilation=(2, 1)),
    _row("AvgPool2d", 2),
    _row("AvgPool2d", 3, 2, 1, count_include_pad=False),
    _row("AvgPool2d", 3, padding=1, ceil_mode=True),
    _row("AdaptiveAvgPool2d", 1),
    _row("AdaptiveAvgPool2d", (3, 4)),
    _row("AdaptiveMaxPool2d", (3, 4)),
    _whole_image("Avg"),
    _whole_image("Max"),
]
