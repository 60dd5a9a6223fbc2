"""Rows of nn/pool.py and nn/global_pool.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec

SHAPES = {1: (9, 3), 2: (7, 6, 3), 3: (4, 5, 6, 3)}  #: of an input sample, by number of axes


def _row(kind, *args, **options):
    def torch():
        import torch

        return getattr(torch.nn, kind)(*args, **options)

    name = ", ".join([kind, *map(str, args), *(f"{key} {value}" for key, value in options.items())])
    layer = lambda: getattr(nn, kind)(*args, **options)  # noqa: E731  # a row is one expression
    return LayerSpec(name, layer, torch, SHAPES[int(kind[-2])], channels_first=True)


def _whole(kind, axes):
    def torch():
        import torch

        return torch.nn.Sequential(getattr(torch.nn, f"Adaptive{kind}Pool{axes}d")(1), torch.nn.Flatten())

    layer = f"Global{kind}Pool{axes}d"
    return LayerSpec(layer, lambda: getattr(nn, layer)(), torch, SHAPES[axes], channels_first=True)


ROWS = [
    _row("MaxPool2d", 2),
    _row("MaxPool2d", 3, 2, 1),
    _row("MaxPool2d", 2, ceil_mode=True),
    _row("MaxPool2d", (2, 3), stride=1, dilation=(2, 1)),
    _row("MaxPool1d", 3, 2, 1, 2),
    _row("MaxPool1d", 2, ceil_mode=True),
    _row("MaxPool3d", (2, 3, 2), padding=(1, 0, 1)),
    _row("AvgPool2d", 2),
    _row("AvgPool2d", 3, 2, 1, count_include_pad=False),
    _row("AvgPool2d", 3, padding=1, ceil_mode=True),
    _row("AvgPool1d", 3, 2, 1, True, False),
    _row("AvgPool3d", 2, 1),
    _row("AvgPool3d", (3, 2, 2), padding=1, ceil_mode=True),
    _row("AdaptiveAvgPool1d", 4),
    _row("AdaptiveAvgPool2d", 1),
    _row("AdaptiveAvgPool2d", (3, 4)),
    _row("AdaptiveMaxPool2d", (3, 4)),
    *(_whole(kind, axes) for kind in ("Avg", "Max") for axes in (1, 2, 3)),
]
