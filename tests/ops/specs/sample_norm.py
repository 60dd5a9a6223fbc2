"""Rows of ops/sample_norm.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.sample_norm import group_norm, layer_norm, rms_norm
from tests.ops.specs import OpSpec


def _layer_norm(x, weight, bias, *, axes=1, eps=1e-5):
    import torch.nn.functional as F

    return F.layer_norm(x, x.shape[x.ndim - axes :], weight, bias, eps)


def _rms_norm(x, weight, *, axes=1, eps=None):
    import torch.nn.functional as F

    return F.rms_norm(x, x.shape[x.ndim - axes :], weight, eps)


def _group_norm(x, weight, bias, mask, *, groups, eps=1e-5):
    import torch
    import torch.nn.functional as F

    if mask is None:
        return F.group_norm(x.movedim(-1, 1), groups, weight, bias, eps).movedim(1, -1)
    # PyTorch knows no mask: each sample by itself, cut to the positions that count.
    ys = [each[None] * 0 for each in x]
    for i, keep in enumerate(mask):
        if keep.any():
            part = F.group_norm(x[i : i + 1, keep].movedim(-1, 1), groups, weight, bias, eps).movedim(1, -1)
            ys[i] = ys[i].index_put((torch.tensor([0]), keep.nonzero()[:, 0]), part[0])
    return torch.cat(ys) if ys else x * 0


def _inputs(*shape, axes=1, affine=True, bias=True):
    def draw(rng):
        over = shape[len(shape) - axes :]
        weight = rng.normal(size=over) if affine else None
        return rng.normal(0.5, 1.5, size=shape), weight, rng.normal(size=over) if affine and bias else None

    return draw


def _rms(*shape, axes=1, affine=True):
    return lambda rng: _inputs(*shape, axes=axes, affine=affine, bias=False)(rng)[:2]


def _grouped(*shape, affine=True, masked=False):
    def draw(rng):
        mask = np.arange(shape[1]) < rng.integers(0, shape[1] + 1, (shape[0], 1)) if masked else None
        return *_inputs(*shape, affine=affine)(rng), mask

    return draw


def _group(name, inputs, groups, **options):
    options |= {"groups": groups}
    return OpSpec(f"group_norm {name}", group_norm, inputs, _group_norm, options, batched=(0, 3))


ROWS = [
    OpSpec("layer_norm rows", layer_norm, _inputs(3, 5), _layer_norm),
    OpSpec("layer_norm images", layer_norm, _inputs(2, 3, 4, 5), _layer_norm),
    OpSpec("layer_norm two axes", layer_norm, _inputs(2, 3, 4, 5, axes=2), _layer_norm, {"axes": 2}),
    OpSpec("layer_norm no bias", layer_norm, _inputs(3, 2, 5, bias=False), _layer_norm, {"eps": 1e-3}),
    OpSpec("layer_norm no affine", layer_norm, _inputs(3, 2, 5, affine=False), _layer_norm),
    OpSpec("rms_norm rows", rms_norm, _rms(3, 5), _rms_norm),
    OpSpec("rms_norm sequences", rms_norm, _rms(2, 3, 6), _rms_norm, {"eps": 1e-2}),
    OpSpec("rms_norm two axes", rms_norm, _rms(2, 3, 4, 5, axes=2), _rms_norm, {"axes": 2}),
    OpSpec("rms_norm no affine", rms_norm, _rms(3, 2, 5, affine=False), _rms_norm),
    _group("rows", _grouped(3, 8), 2),
    _group("sequences", _grouped(3, 5, 6), 3),
    _group("images", _grouped(2, 3, 4, 6), 2, eps=1e-3),
    _group("one group", _grouped(2, 3, 4, 6), 1),
    _group("no affine", _grouped(2, 3, 4, 6, affine=False), 3),
    _group("as instance norm", _grouped(2, 3, 4, 5), 5),
    _group("with mask", _grouped(5, 4, 6, masked=True), 2),
    _group("with mask, no affine", _grouped(5, 4, 3, 6, affine=False, masked=True), 3),
]
