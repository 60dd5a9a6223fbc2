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


def _channels(name, kind, shape, *inferred, **options):
    """Norms of PyTorch that take the channels first, after what ours takes as well."""

    def torch():
        import torch

        return getattr(torch.nn, kind)(*inferred, shape[-1], **options)

    ours = getattr(nn, kind.rstrip("123d"))
    return LayerSpec(name, lambda: ours(*inferred, **options), torch, shape, channels_first=len(shape) > 1)


def _rms(name, shape, over, **options):
    def torch():
        import torch

        return torch.nn.RMSNorm(over or shape[-1], **options)

    return LayerSpec(f"rms_norm{name}", lambda: nn.RMSNorm(over, **options), torch, shape)


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
    _rms("", (5,), None),
    _rms(" of sequences", (4, 6), None, eps=1e-2),
    _rms(" over two axes, no affine", (4, 6), (4, 6), elementwise_affine=False),
    _channels("group_norm of rows", "GroupNorm", (6,), 3),
    _channels("group_norm of sequences", "GroupNorm", (5, 6), 2, eps=1e-3),
    _channels("group_norm of images, no affine", "GroupNorm", (4, 3, 6), 1, affine=False),
    _channels("instance_norm of sequences", "InstanceNorm1d", (6, 5)),
    _channels("instance_norm of images", "InstanceNorm2d", (4, 3, 5), affine=True, eps=1e-3),
    _channels("instance_norm, tracked", "InstanceNorm2d", (4, 3, 5), track_running_stats=True, momentum=0.3),
    _channels("instance_norm, tracked, affine", "InstanceNorm1d", (4, 5), affine=True, track_running_stats=True),
]
