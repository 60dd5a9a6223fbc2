"""Rows of ops/arithmetic.py."""

from __future__ import annotations

from gpubackprop.ops.arithmetic import scale
from tests.ops.specs import OpSpec


def _torch(x, s):
    return x * s.reshape(len(s), *[1] * (x.ndim - 2), s.shape[-1])


def _pair(*shape):
    return lambda rng: (rng.normal(size=(3, *shape)), rng.normal(size=(3, shape[-1])))


ROWS = [
    OpSpec("scale images", scale, _pair(2, 4, 5), _torch, batched=(0, 1)),
    OpSpec("scale sequences", scale, _pair(4, 2), _torch, batched=(0, 1)),
    OpSpec("scale rows", scale, _pair(4), _torch, batched=(0, 1)),
]
