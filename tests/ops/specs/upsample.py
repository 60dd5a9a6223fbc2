"""Rows of ops/upsample.py."""

from __future__ import annotations

from gpubackprop.ops.upsample import pixel_shuffle, pixel_unshuffle, upsample_linear, upsample_nearest
from tests.ops.specs import OpSpec
from tests.ops.specs.conv import channels_first, channels_last


def _nearest(x, *, size, scales):
    import torch.nn.functional as F

    return channels_last(F.interpolate(channels_first(x), size))


def _linear(x, *, size, scales, align_corners):
    import torch.nn.functional as F

    mode = ["linear", "bilinear", "trilinear"][len(size) - 1]
    return channels_last(F.interpolate(channels_first(x), size, mode=mode, align_corners=align_corners))


def _shuffle(x, *, factor):
    import torch.nn.functional as F

    return channels_last(F.pixel_shuffle(channels_first(x), factor))


def _unshuffle(x, *, factor):
    import torch.nn.functional as F

    return channels_last(F.pixel_unshuffle(channels_first(x), factor))


def _row(op, torch, name, shape, size, **options):
    options |= {"size": size, "scales": tuple(s / p for s, p in zip(shape, size, strict=False))}
    return OpSpec(f"{op.name} {name}", op, lambda rng: (rng.normal(size=(2, *shape)),), torch, options)


def _images(*shape):
    return lambda rng: (rng.normal(size=(2, *shape)),)


ROWS = [
    _row(upsample_nearest, _nearest, "twice", (3, 4, 2), (6, 8)),
    _row(upsample_nearest, _nearest, "odd sizes, up and down", (3, 5, 2), (7, 3)),
    _row(upsample_nearest, _nearest, "sequences", (4, 2), (11,)),
    _row(upsample_nearest, _nearest, "volumes", (2, 3, 2, 2), (4, 3, 5)),
    _row(upsample_linear, _linear, "twice", (3, 4, 2), (6, 8), align_corners=False),
    _row(upsample_linear, _linear, "odd sizes, up and down", (3, 5, 2), (7, 3), align_corners=False),
    _row(upsample_linear, _linear, "corners aligned", (3, 5, 2), (7, 3), align_corners=True),
    _row(upsample_linear, _linear, "corners aligned, one cell", (3, 5, 2), (1, 9), align_corners=True),
    _row(upsample_linear, _linear, "sequences", (4, 2), (11,), align_corners=False),
    _row(upsample_linear, _linear, "volumes", (2, 3, 2, 2), (4, 3, 5), align_corners=True),
    OpSpec("pixel_shuffle 2", pixel_shuffle, _images(3, 2, 8), _shuffle, {"factor": 2}),
    OpSpec("pixel_shuffle 3", pixel_shuffle, _images(1, 2, 9), _shuffle, {"factor": 3}),
    OpSpec("pixel_unshuffle 2", pixel_unshuffle, _images(4, 6, 3), _unshuffle, {"factor": 2}),
    OpSpec("pixel_unshuffle 3", pixel_unshuffle, _images(3, 6, 1), _unshuffle, {"factor": 3}),
]
