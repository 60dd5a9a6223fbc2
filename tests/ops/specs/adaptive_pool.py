"""Rows of ops/adaptive_pool.py."""

from __future__ import annotations

from gpubackprop.ops.adaptive_pool import adaptive_avg_pool, adaptive_max_pool
from tests.ops.specs import OpSpec
from tests.ops.specs.conv import channels_first, channels_last


def _avg(x, *, output_size):
    import torch.nn.functional as F

    pool = [F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d][len(output_size) - 1]
    return channels_last(pool(channels_first(x), output_size))


def torch_max(x, *, output_size):
    import torch.nn.functional as F

    pool = [F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d][len(output_size) - 1]
    return channels_last(pool(channels_first(x), output_size))


def _row(op, torch, name, shape, size):
    name = f"{op.name}{len(size)}d{name}"
    return OpSpec(name, op, lambda rng: (rng.normal(size=(2, *shape)),), torch, {"output_size": size})


ROWS = [
    _row(adaptive_avg_pool, _avg, " even bins", (6, 4, 3), (3, 2)),
    _row(adaptive_avg_pool, _avg, "", (7, 5, 3), (3, 2)),
    _row(adaptive_avg_pool, _avg, " up", (2, 3, 3), (3, 5)),
    _row(adaptive_avg_pool, _avg, "", (7, 3), (3,)),
    _row(adaptive_avg_pool, _avg, "", (3, 4, 5, 2), (2, 3, 1)),
    _row(adaptive_max_pool, torch_max, "", (7, 5, 3), (3, 2)),
    _row(adaptive_max_pool, torch_max, " even", (6, 4, 3), (3, 2)),
    _row(adaptive_max_pool, torch_max, "", (7, 3), (3,)),
]
