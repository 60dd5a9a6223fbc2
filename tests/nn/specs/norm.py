"""Rows of nn/norm.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _batch(name, kind, shape, ours=nn.BatchNorm, **options):
    def torch():
        import torch

        return getattr(torch.nn, kind)(shape[-1], **options)

    return LayerSpec(f"batch_norm{name}", lambda: ours(**options), torch, shape, channels_first=len(shape) > 1)


def _layer(name, shape, over, **options):
    def torch():
        import torch

        return torch.nn.LayerNorm(over or shape[-1], **options)

    return LayerSpec(f"layer_norm{name}", lambda: nn.LayerNorm(over, **options), torch, shape)


ROWS = [
    _batch(" of rows", "BatchNorm1d", (5,)),
    _batch(" of sequences", "BatchNorm1d", (6, 5), nn.BatchNorm1d),
    _batch(" of images", "BatchNorm2d", (4, 3, 5)),
    _batch("2d", "BatchNorm2d", (4, 3, 5), nn.BatchNorm2d, eps=1e-3, momentum=0.3),
    _batch(", cumulative", "BatchNorm2d", (4, 3, 5), momentum=None),
    _batch(", no affine", "BatchNorm1d", (5,), affine=False),
    _batch(", batch statistics always", "BatchNorm1d", (5,), track_running_stats=False),
    _layer("", (5,), None),
    _layer(" of images over C", (4, 3, 5), None),
    _layer(" of images over all", (4, 3, 5), (4, 3, 5)),
    _layer(", no bias", (6, 5), None, bias=False),
    _layer(", no affine", (6, 5), None, elementwise_affine=False, eps=1e-3),
]
