"""Rows of ops/embedding.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.embedding import embedding, embedding_bag, one_hot
from tests.ops.specs import OpSpec


def _embedding(x, weight, *, padding_idx=None):
    import torch.nn.functional as F

    return F.embedding(x, weight, padding_idx)


def _bag(x, weight, mask, *, mode="mean", padding_idx=None):
    import torch
    import torch.nn.functional as F

    # PyTorch knows no mask: what it leaves out becomes the padding row, or one more row that is.
    if mask is None:
        return F.embedding_bag(x, weight, mode=mode, padding_idx=padding_idx)
    out = mask.logical_not() if padding_idx is None else mask.logical_not() | (x == padding_idx)
    table = torch.cat([weight, weight[:1].detach()])
    return F.embedding_bag(x.masked_fill(out, len(weight)), table, mode=mode, padding_idx=len(weight))


def _one_hot(x, value, *, num_classes):
    import torch.nn.functional as F

    return F.one_hot(x, num_classes) * value


def _symbols(*shape, rows=7, width=5):
    return lambda rng: (rng.integers(0, rows, shape), rng.normal(size=(rows, width)))


def _places(*shape):
    return lambda rng: (rng.integers(0, 5, shape), rng.normal(size=()))


def _bags(*shape, masked=False, rows=6, width=4):
    def draw(rng):
        x, weight = _symbols(*shape, rows=rows, width=width)(rng)
        lengths = rng.integers(0, shape[1] + 1, shape[0])
        return x, weight, np.arange(shape[1]) < lengths[:, None] if masked else None

    return draw


def _bag_row(name, inputs, **options):
    return OpSpec(f"embedding_bag {name}", embedding_bag, inputs, _bag, options, batched=(0, 2))


ROWS = [
    OpSpec("embedding", embedding, _symbols(9), _embedding),
    OpSpec("embedding of sequences", embedding, _symbols(3, 5), _embedding),
    OpSpec("embedding of grids", embedding, _symbols(2, 3, 4, rows=40), _embedding),
    OpSpec("embedding with padding", embedding, _symbols(4, 6, rows=3), _embedding, {"padding_idx": 1}, fixed={1: 1}),
    _bag_row("mean", _bags(3, 5)),
    _bag_row("sum", _bags(3, 5), mode="sum"),
    _bag_row("max", _bags(3, 5), mode="max"),
    _bag_row("mean, padding", _bags(5, 4, rows=3), padding_idx=0),
    _bag_row("sum, padding", _bags(5, 4, rows=3), mode="sum", padding_idx=2),
    _bag_row("max, padding", _bags(5, 3, rows=3), mode="max", padding_idx=1),
    _bag_row("mean, mask", _bags(6, 4, masked=True)),
    _bag_row("sum, mask and padding", _bags(6, 4, rows=3, masked=True), mode="sum", padding_idx=0),
    _bag_row("max, mask", _bags(6, 4, masked=True), mode="max"),
    OpSpec("one_hot", one_hot, _places(6), _one_hot, {"num_classes": 5}),
    OpSpec("one_hot of sequences", one_hot, _places(3, 4), _one_hot, {"num_classes": 6}),
]
