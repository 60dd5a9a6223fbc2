"""Rows of nn/conv.py, nn/conv_transpose.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec

SHAPES = {1: (9, 4), 2: (6, 7, 4), 3: (4, 5, 4, 4)}  #: of an input sample, by number of axes


def _row(kind, name, *args, **options):
    shape = SHAPES[int(kind[-2])]

    def torch():
        import torch

        return getattr(torch.nn, kind)(shape[-1], *args, **options)

    layer = lambda: getattr(nn, kind)(None, *args, **options)  # noqa: E731  # a row is one expression
    return LayerSpec(f"{kind}{name}", layer, torch, shape, channels_first=True)


def _padded_by_hand(kind, cells, *args, **options):
    """PyTorch warns where "same" needs an odd number of cells, so its module is given them; it has no "causal"."""

    def torch():
        import torch

        class Padded(getattr(torch.nn, kind)):
            def forward(self, x):
                return super().forward(torch.nn.functional.pad(x, cells))

        return Padded(*args, **options)

    return torch


def _depthwise(name, multiplier, *args, **options):
    def torch():
        import torch

        return torch.nn.Conv2d(4, 4 * multiplier, *args, groups=4, **options)

    layer = lambda: nn.DepthwiseConv2d(*args, multiplier=multiplier, **options)  # noqa: E731  # as above
    return LayerSpec(f"DepthwiseConv2d{name}", layer, torch, SHAPES[2], channels_first=True)


ROWS = [
    _row("Conv2d", "", 3, 3),
    _row("Conv2d", ", no bias", 3, 3, bias=False),
    _row("Conv2d", ", oblong, padded, with stride", 3, (3, 2), stride=(2, 1), padding=(1, 2)),
    _row("Conv2d", ", same", 3, 3, padding="same"),
    LayerSpec(
        "Conv2d, same with an even kernel and dilation",
        lambda: nn.Conv2d(None, 3, (2, 4), padding="same", dilation=(1, 2)),
        _padded_by_hand("Conv2d", (3, 3, 0, 1), 4, 3, (2, 4), dilation=(1, 2)),
        (6, 7, 4),
        channels_first=True,
    ),
    _row("Conv2d", ", valid", 3, 3, padding="valid"),
    _row("Conv2d", ", groups", 6, 3, padding=1, groups=2),
    _row("Conv2d", ", depthwise", 4, 3, padding=1, groups=4),
    _row("Conv2d", ", depthwise, two each", 8, 3, padding=1, groups=4),
    _row("Conv2d", ", 1x1", 5, 1),
    _row("Conv1d", "", 3, 3),
    _row("Conv1d", ", options", 6, 4, stride=2, padding=3, dilation=2, groups=2, bias=False),
    _row("Conv1d", ", same", 3, 3, padding="same", dilation=2),
    LayerSpec(
        "Conv1d, causal",
        lambda: nn.Conv1d(None, 3, 3, padding="causal", dilation=2),
        _padded_by_hand("Conv1d", (4, 0), 4, 3, 3, dilation=2),
        (9, 4),
        channels_first=True,
    ),
    LayerSpec(
        "Conv1d, causal, with stride",
        lambda: nn.Conv1d(None, 3, 2, 2, padding="causal"),
        _padded_by_hand("Conv1d", (1, 0), 4, 3, 2, 2),
        (9, 4),
        channels_first=True,
    ),
    _row("Conv1d", ", depthwise", 4, 3, padding=1, groups=4),
    _row("Conv3d", "", 3, 2),
    _row("Conv3d", ", options", 6, (2, 3, 1), stride=(1, 2, 2), padding=(1, 0, 2), dilation=(2, 1, 1), groups=2),
    _row("Conv3d", ", same", 2, 3, padding="same"),
    _depthwise("", 1, 3),
    _depthwise(", two each", 2, (3, 2), stride=(2, 1), padding=1, bias=False),
    _depthwise(", same", 3, 3, padding="same", dilation=2),
    _row("ConvTranspose2d", "", 3, 3),
    _row("ConvTranspose2d", ", twice the size", 3, 2, 2),
    _row("ConvTranspose2d", ", options", 6, (3, 2), (2, 3), 1, (1, 2), 2, False),
    _row("ConvTranspose2d", ", dilation", 2, 3, dilation=2, output_padding=1),
    _row("ConvTranspose1d", "", 3, 4),
    _row("ConvTranspose1d", ", options", 6, 3, stride=3, padding=1, output_padding=2, groups=2, dilation=2),
    _row("ConvTranspose3d", "", 3, 2, stride=2, groups=1, padding=1),
]
