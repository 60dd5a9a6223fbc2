"""Rows of ops/batch_norm_act.py."""

from __future__ import annotations

from gpubackprop.ops.batch_norm_act import batch_norm_add_relu, batch_norm_relu
from tests.ops.specs import OpSpec
from tests.ops.specs.norm import _batch_norm, _inputs


def _relu(x, weight, bias, *, eps=1e-5):
    y, *statistics = _batch_norm(x, weight, bias, eps=eps)
    return y.relu(), *statistics


def _add_relu(x, weight, bias, shortcut, *, eps=1e-5):
    y, *statistics = _batch_norm(x, weight, bias, eps=eps)
    return (y + shortcut).relu(), *statistics


def _with_shortcut(*shape, **options):
    return lambda rng: (*_inputs(*shape, **options)(rng), rng.normal(size=shape))


def _alone(name, inputs, **options):
    return OpSpec(f"batch_norm_relu {name}", batch_norm_relu, inputs, _relu, options, batched=())


def _added(name, inputs, **options):
    return OpSpec(f"batch_norm_add_relu {name}", batch_norm_add_relu, inputs, _add_relu, options, batched=())


ROWS = [
    _alone("rows", _inputs(7, 4)),
    _alone("images", _inputs(2, 4, 3, 5), eps=1e-3),
    _alone("no affine", _inputs(2, 4, 3, 5, affine=False)),
    _added("rows", _with_shortcut(7, 4)),
    _added("images", _with_shortcut(2, 4, 3, 5), eps=1e-3),
    _added("no affine", _with_shortcut(2, 4, 3, 5, affine=False)),
]
