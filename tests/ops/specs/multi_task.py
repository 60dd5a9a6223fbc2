"""Rows of ops/multi_task.py."""

from __future__ import annotations

from gpubackprop.ops.multi_task import multi_task
from tests.ops.specs import OpSpec


def _sums(*weights):
    def draw(rng):
        return 7.0, *(number for weight in weights for number in (rng.normal(), weight))

    return draw


def _torch(count, *pairs, scales):
    terms = [s * total / weight for s, total, weight in zip(scales, pairs[::2], pairs[1::2], strict=True) if weight]
    return count * sum(terms), count


ROWS = [
    OpSpec("multi_task", multi_task, _sums(3.0, 2.5), _torch, {"scales": (1.0, 0.3)}, 1, (0, 2, 4), ()),
    OpSpec(
        "multi_task, one without weight", multi_task, _sums(3.0, 0.0), _torch, {"scales": (1.0, 0.3)}, 1, (0, 2, 4), ()
    ),
]
