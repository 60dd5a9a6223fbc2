"""Rows of nn/shape.py and nn/dropout.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _torch(name, *args):
    def make():
        import torch

        return getattr(torch.nn, name)(*args)

    return make


def _pad_channels():
    import torch

    class Pad(torch.nn.Module):
        def forward(self, x):  # (N, C, H, W)
            return torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))

    return Pad()


ROWS = [
    LayerSpec("flatten images", nn.Flatten, _torch("Flatten"), (2, 3, 4), channels_first=True),
    LayerSpec("flatten sequences", nn.Flatten, _torch("Flatten"), (3, 4)),
    LayerSpec("flatten vectors", nn.Flatten, _torch("Flatten"), (4,)),
    LayerSpec("reshape", lambda: nn.Reshape([2, 6]), _torch("Unflatten", 1, (2, 6)), (12,)),
    LayerSpec("reshape, one size open", lambda: nn.Reshape((2, -1, 2)), _torch("Unflatten", 1, (2, -1, 2)), (12,)),
    LayerSpec("pad_channels", lambda: nn.PadChannels(6, 2), _pad_channels, (5, 4, 3), channels_first=True),
    LayerSpec("dropout", lambda: nn.Dropout(0.3), _torch("Dropout", 0.3), (3, 4), random=True),
    LayerSpec("dropout, p 0", lambda: nn.Dropout(0.0), _torch("Dropout", 0.0), (3, 4)),
]
