"""Rows of ops/rectified.py."""

from __future__ import annotations

from gpubackprop.ops import rectified
from tests.ops.specs import OpSpec
from tests.ops.specs.activation import elementwise, torch_function


def _sloped(*shape, channels=1):
    return lambda rng: (2 * rng.normal(size=shape), rng.normal(size=channels))


def _prelu(x, weight):
    import torch.nn.functional as F

    return F.prelu(x.movedim(-1, 1), weight).movedim(1, -1)


def _hardsigmoid(x):
    """PyTorch's own derivative is a sixth in float32, whatever the dtype."""
    import torch.nn.functional as F

    return F.relu6(x + 3) / 6


ROWS = [
    OpSpec("prelu", rectified.prelu, _sloped(4, 3, 5), _prelu),
    OpSpec("prelu by channel", rectified.prelu, _sloped(4, 2, 3, 5, channels=5), _prelu),
    OpSpec("prelu by channel of rows", rectified.prelu, _sloped(4, 5, channels=5), _prelu),
    *elementwise(rectified.selu),
    *elementwise(rectified.hardtanh, torch_function("hardtanh", low="min_val", high="max_val")),
    *elementwise(
        rectified.hardtanh, torch_function("hardtanh", low="min_val", high="max_val"), {"low": -0.5, "high": 2.0}
    ),
    *elementwise(rectified.hardsigmoid, _hardsigmoid),
]
