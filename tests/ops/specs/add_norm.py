"""Rows of ops/add_norm.py."""

from __future__ import annotations

from gpubackprop.ops.add_norm import add_layer_norm, add_rms_norm
from tests.ops.specs import OpSpec
from tests.ops.specs.sample_norm import _inputs, _layer_norm, _rms_norm


def _add_layer_norm(x, r, weight, bias, **options):
    return x + r, _layer_norm(x + r, weight, bias, **options)


def _add_rms_norm(x, r, weight, **options):
    return x + r, _rms_norm(x + r, weight, **options)


def _two(*shape, bias=True, **options):
    """x, r, weight and, where there is one, bias."""

    def draw(rng):
        x, *affine = _inputs(*shape, bias=bias, **options)(rng)
        return x, rng.normal(size=shape), *affine

    return draw


def _rms(*shape, **options):
    return lambda rng: _two(*shape, bias=False, **options)(rng)[:3]


def _layer(name, inputs, outputs=2, **options):
    name = f"add_layer_norm {name}"
    return OpSpec(name, add_layer_norm, inputs, _add_layer_norm, options, outputs=outputs, batched=(0, 1))


def _root(name, inputs, outputs=2, **options):
    name = f"add_rms_norm {name}"
    return OpSpec(name, add_rms_norm, inputs, _add_rms_norm, options, outputs=outputs, batched=(0, 1))


ROWS = [
    _layer("rows", _two(3, 5)),
    _layer("sequences", _two(2, 3, 6), eps=1e-3),
    _layer("two axes", _two(2, 3, 4, 5, axes=2), axes=2),
    _layer("no bias", _two(3, 5, bias=False)),
    _layer("no affine", _two(3, 2, 5, affine=False)),
    _layer("of the sum alone", _two(3, 5), outputs=1),
    _root("rows", _rms(3, 5)),
    _root("two axes", _rms(2, 3, 4, 5, axes=2), axes=2, eps=1e-2),
    _root("no affine", _rms(3, 2, 5, affine=False)),
]
