"""Rows of ops/gated.py."""

from __future__ import annotations

from gpubackprop.ops import gated
from tests.ops.specs import OpSpec
from tests.ops.specs.activation import elementwise


def _halves(*shape):
    return lambda rng: (2 * rng.normal(size=shape),)


def _glu(x, *, axis=-1):
    import torch.nn.functional as F

    return F.glu(x, axis)


def _swiglu(x, *, axis=-1):
    import torch.nn.functional as F

    a, c = x.chunk(2, axis)
    return F.silu(a) * c


ROWS = [
    *elementwise(gated.hardswish),
    *elementwise(gated.mish),
    OpSpec("glu", gated.glu, _halves(3, 8), _glu),
    OpSpec("glu, axis 1", gated.glu, _halves(3, 4, 5), _glu, {"axis": 1}),
    OpSpec("swiglu", gated.swiglu, _halves(3, 2, 8), _swiglu),
    OpSpec("swiglu, axis 1", gated.swiglu, _halves(3, 4, 5), _swiglu, {"axis": 1}),
]
