"""Rows of ops/shape.py."""

from __future__ import annotations

from gpubackprop.ops.shape import add, concat, divide, flatten, merge, pad_channels, reshape
from tests.ops.specs import OpSpec


def _normal(*shapes):
    return lambda rng: tuple(rng.normal(size=shape) for shape in shapes)


def _add(x, other):
    return x + other


def _concat(*xs):
    import torch

    return torch.cat(xs, dim=-1)


def _reshape(x, *, shape):
    return x.reshape(x.shape[0], *shape)


def _merge(x):
    return x.flatten(0, 1)


def _divide(x, *, items):
    return x.unflatten(0, (-1, items))


def _flatten(x):
    return (x.permute(0, 3, 1, 2) if x.ndim == 4 else x).flatten(1)


def _pad_channels(x, *, out_channels, stride):
    """He et al.'s option A as the akamaster ResNet writes it, on NHWC."""
    import torch.nn.functional as F

    new = out_channels - x.shape[-1]
    return F.pad(x[:, ::stride, ::stride], (new // 2, new - new // 2))


ROWS = [
    OpSpec("add", add, _normal((3, 4), (3, 4)), _add, batched=(0, 1)),
    OpSpec("concat", concat, _normal((3, 2, 4), (3, 2, 1), (3, 2, 3)), _concat, batched=(0, 1, 2)),
    OpSpec("reshape", reshape, _normal((3, 4, 6)), _reshape, {"shape": (2, 12)}),
    OpSpec("merge", merge, _normal((3, 4, 2)), _merge),
    OpSpec("divide", divide, _normal((6, 2)), _divide, {"items": 3}),
    OpSpec("flatten images", flatten, _normal((2, 3, 4, 5)), _flatten),
    OpSpec("flatten volumes", flatten, _normal((2, 3, 2, 4, 5)), lambda x: x.movedim(-1, 1).flatten(1)),
    OpSpec("flatten sequences", flatten, _normal((2, 3, 4)), _flatten),
    OpSpec("pad_channels", pad_channels, _normal((2, 5, 6, 3)), _pad_channels, {"out_channels": 8, "stride": 2}),
    OpSpec(
        "pad_channels, stride 1", pad_channels, _normal((2, 3, 3, 2)), _pad_channels, {"out_channels": 4, "stride": 1}
    ),
]
