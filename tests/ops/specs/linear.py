"""Rows of ops/linear.py."""

from __future__ import annotations

from gpubackprop.ops.linear import linear
from tests.ops.specs import OpSpec


def _torch(x, weight, bias):
    import torch.nn.functional as F

    return F.linear(x, weight, bias)


def _inputs(*leading, bias=True):
    return lambda rng: (rng.normal(size=(*leading, 5)), rng.normal(size=(4, 5)), rng.normal(size=4) if bias else None)


ROWS = [
    OpSpec("linear", linear, _inputs(7), _torch),
    OpSpec("linear, no bias", linear, _inputs(7, bias=False), _torch),
    OpSpec("linear over sequences", linear, _inputs(3, 2), _torch),
]
