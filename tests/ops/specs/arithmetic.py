"""Rows of ops/arithmetic.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.arithmetic import fill, scale
from tests.ops.specs import OpSpec


def _scale(x, s):
    return x * s.reshape(len(s), *[1] * (x.ndim - 2), s.shape[-1])


def _fill(x, mask, *, value=0.0):
    return x.masked_fill(~mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), value)


def _pair(*shape):
    return lambda rng: (rng.normal(size=(3, *shape)), rng.normal(size=(3, shape[-1])))


def _masked(*shape):
    return lambda rng: (rng.normal(size=(3, 5, *shape)), np.arange(5) < np.array([[2], [5], [0]]))


ROWS = [
    OpSpec("scale images", scale, _pair(2, 4, 5), _scale, batched=(0, 1)),
    OpSpec("scale sequences", scale, _pair(4, 2), _scale, batched=(0, 1)),
    OpSpec("scale rows", scale, _pair(4), _scale, batched=(0, 1)),
    OpSpec("fill sequences", fill, _masked(3), _fill, batched=(0, 1)),
    OpSpec("fill with a value", fill, _masked(), lambda x, mask, value: x.masked_fill(~mask, value), {"value": -2.0}, batched=(0, 1)),
]
