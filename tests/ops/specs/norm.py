"""Rows of ops/norm.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.norm import batch_norm, batch_norm_inference, masked_batch_norm
from tests.ops.specs import OpSpec


def _batch_norm(x, weight, bias, *, eps=1e-5):
    import torch.nn.functional as F

    over = tuple(range(x.ndim - 1))
    y = F.batch_norm(x.movedim(-1, 1), None, None, weight, bias, training=True, eps=eps).movedim(1, -1)
    return y, x.mean(dim=over).detach(), x.var(dim=over, correction=0).detach()


def _masked(x, weight, bias, mask, *, eps=1e-5):
    import torch.nn.functional as F

    kept = F.batch_norm(x[mask].movedim(-1, 1), None, None, weight, bias, training=True, eps=eps).movedim(1, -1)
    return (x * 0).index_put((mask,), kept)


def _inference(x, weight, bias, mean, var, *, eps=1e-5):
    import torch.nn.functional as F

    return F.batch_norm(x.movedim(-1, 1), mean, var, weight, bias, eps=eps).movedim(1, -1)


def _inputs(*shape, affine=True, statistics=False):
    def draw(rng):
        over = shape[-1:]
        weight = rng.normal(size=over) if affine else None
        drawn = (rng.normal(0.5, 1.5, size=shape), weight, rng.normal(size=over) if affine else None)
        return (*drawn, rng.normal(size=over), rng.uniform(0.5, 2, size=over)) if statistics else drawn

    return draw


def _padded(*shape, affine=True):
    def draw(rng):
        mask = np.arange(shape[1]) < rng.integers(0, shape[1] + 1, (shape[0], 1))
        return *_inputs(*shape, affine=affine)(rng), mask

    return draw


def _batch(name, inputs, **options):
    # An empty batch has no statistics.
    return OpSpec(f"batch_norm {name}", batch_norm, inputs, _batch_norm, options, batched=())


def _past(name, inputs, **options):
    return OpSpec(f"batch_norm_inference {name}", batch_norm_inference, inputs, _inference, options, constants=(3, 4))


def _sequences(name, inputs, **options):
    return OpSpec(f"masked_batch_norm {name}", masked_batch_norm, inputs, _masked, options, batched=())


ROWS = [
    _batch("rows", _inputs(7, 4)),
    _batch("sequences", _inputs(3, 5, 4)),
    _batch("images", _inputs(2, 4, 3, 5)),
    _batch("no affine", _inputs(2, 4, 3, 5, affine=False)),
    _batch("large eps", _inputs(7, 4), eps=0.5),
    _sequences("sequences", _padded(5, 4, 3)),
    _sequences("films", _padded(4, 3, 2, 2, 5), eps=1e-3),
    _sequences("no affine", _padded(5, 4, 3, affine=False)),
    _past("rows", _inputs(7, 4, statistics=True)),
    _past("images", _inputs(2, 4, 3, 5, statistics=True)),
    _past("no affine", _inputs(2, 3, 5, affine=False, statistics=True), eps=1e-3),
]
