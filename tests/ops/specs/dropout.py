"""Rows of ops/dropout.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.dropout import dropout, dropout_mask
from tests.ops.specs import OpSpec


def _inputs(*shape):
    return lambda rng: (rng.normal(size=shape), np.arange(10, 10 + shape[0]), np.array(3))


def _torch(x, samples, step, *, p, seed, stream):
    import torch

    mask = dropout_mask(NumpyBackend(), tuple(x.shape), samples.numpy(), int(step), p=p, seed=seed, stream=stream)
    return x * torch.tensor(mask) / (1 - p)


ROWS = [
    OpSpec("dropout", dropout, _inputs(4, 7), _torch, {"p": 0.5, "seed": 1, "stream": 2}, batched=(0, 1)),
    OpSpec(
        "dropout on images",
        dropout,
        _inputs(3, 2, 3, 5),
        _torch,
        {"p": 0.2, "seed": 2**40, "stream": 7},
        batched=(0, 1),
    ),
    OpSpec("dropout, p 0", dropout, _inputs(3, 4), _torch, {"p": 0.0, "seed": 0, "stream": 0}, batched=(0, 1)),
]
