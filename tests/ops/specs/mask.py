"""Rows of ops/mask.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.mask import fill
from tests.ops.specs import OpSpec


def _torch(x, mask, *, value=0.0):
    return x.masked_fill(~mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), value)


def _masked(*shape):
    return lambda rng: (rng.normal(size=(3, 5, *shape)), np.arange(5) < np.array([[2], [5], [0]]))


ROWS = [
    OpSpec("fill sequences", fill, _masked(3), _torch, batched=(0, 1)),
    OpSpec("fill with a value", fill, _masked(), _torch, {"value": -2.0}, batched=(0, 1)),
]
