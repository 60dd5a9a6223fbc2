"""Rows of ops/dropout.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.dropout import dropout, dropout_mask
from tests.ops.specs import OpSpec


def _inputs(*shape):
    return lambda rng: (rng.normal(size=shape), np.arange(10, 10 + shape[0]), np.array(3))


def _torch(x, samples, step, *, over=0, **options):
    import torch

    shape = (x.shape[0], *(1,) * over, *x.shape[1 + over :])
    mask = dropout_mask(NumpyBackend(), shape, samples.numpy(), int(step), **options)
    return x * torch.tensor(mask) / (1 - options["p"])


def _row(name, inputs, **options):
    return OpSpec(f"dropout{name}", dropout, inputs, _torch, {"seed": 1, "stream": 2} | options, batched=(0, 1))


ROWS = [
    _row("", _inputs(4, 7), p=0.5),
    _row(" on images", _inputs(3, 2, 3, 5), p=0.2, seed=2**40, stream=7),
    _row(", p 0", _inputs(3, 4), p=0.0, seed=0, stream=0),
    _row(" of channels", _inputs(3, 2, 3, 8), p=0.4, over=2),
    _row(" of samples", _inputs(8, 2, 3), p=0.4, over=2),
    _row(", alike", _inputs(3, 2, 8), p=0.4, alike=True),
]
