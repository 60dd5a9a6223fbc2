"""Rows of ops/pool.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.pool import avg_pool, global_avg_pool, global_max_pool, max_pool
from tests.ops.specs import OpSpec
from tests.ops.specs.conv import channels_first, channels_last


def torch_max(x, *, kernel, stride, padding, dilation, ceil_mode=False):
    import torch.nn.functional as F

    pool = [F.max_pool1d, F.max_pool2d, F.max_pool3d][len(kernel) - 1]
    around = tuple(before for before, _ in padding)
    return channels_last(pool(channels_first(x), kernel, stride, around, dilation, ceil_mode))


def torch_avg(x, *, kernel, stride, padding, ceil_mode=False, count_include_pad=True):
    import torch.nn.functional as F

    pool = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d][len(kernel) - 1]
    around = tuple(before for before, _ in padding)
    return channels_last(pool(channels_first(x), kernel, stride, around, ceil_mode, count_include_pad))


def _global_avg(x, mask):
    if mask is None:
        return x.flatten(1, -2).mean(dim=1)
    total = (x * mask[..., None]).flatten(1, -2).sum(dim=1)
    return total / mask.flatten(1).sum(dim=1, keepdim=True).clamp(min=1)


def torch_global_max(x, mask):
    import torch

    flat = x.flatten(1, -2)
    if mask is None:
        return flat.max(dim=1).values
    hidden = ~mask.flatten(1)[..., None]
    return torch.where(hidden.all(dim=1), 0.0, flat.masked_fill(hidden, -torch.inf).max(dim=1).values)


def _images(*shape):
    return lambda rng: (rng.normal(size=(2, *shape)),)


def _global(*shape):
    return lambda rng: (rng.normal(size=(2, *shape)), None)


def _sequences(rng):
    """Three real positions, all five, none, and two with a gap between them."""
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]], bool)
    return rng.normal(size=(4, 5, 3)), mask


def _pool(op, torch, name, shape=(6, 5, 3), kernel=(2, 2), stride=None, padding=None, **options):
    none = {"dilation": (1,) * len(kernel)} if op is max_pool else {}
    options = none | options | {"kernel": kernel, "stride": stride or kernel}
    options["padding"] = padding or ((0, 0),) * len(kernel)
    return OpSpec(f"{op.name}{len(kernel)}d {name}", op, _images(*shape), torch, options)


ONE = ((1, 1), (1, 1))
ROWS = [
    _pool(max_pool, torch_max, "2x2", shape=(6, 4, 3)),
    _pool(max_pool, torch_max, "2x2, cells left over", shape=(7, 5, 3)),
    _pool(max_pool, torch_max, "overlapping", kernel=(3, 3), stride=(1, 2)),
    _pool(max_pool, torch_max, "padded", kernel=(3, 3), stride=(2, 2), padding=ONE),
    _pool(max_pool, torch_max, "ceil mode", shape=(7, 5, 3), ceil_mode=True),
    _pool(max_pool, torch_max, "ceil mode, padded", shape=(7, 6, 3), kernel=(3, 2), padding=ONE, ceil_mode=True),
    _pool(max_pool, torch_max, "dilation", shape=(7, 8, 2), stride=(1, 1), dilation=(2, 3)),
    _pool(max_pool, torch_max, "3", shape=(8, 3), kernel=(3,), stride=(2,), padding=((1, 1),)),
    _pool(max_pool, torch_max, "2x2x2", shape=(4, 5, 4, 2), kernel=(2, 2, 2), ceil_mode=True),
    _pool(avg_pool, torch_avg, "2x2", shape=(6, 4, 3)),
    _pool(avg_pool, torch_avg, "overlapping", kernel=(3, 2), stride=(1, 1)),
    _pool(avg_pool, torch_avg, "padded", kernel=(3, 3), stride=(2, 2), padding=ONE),
    _pool(
        avg_pool, torch_avg, "padding not counted", kernel=(3, 3), stride=(2, 2), padding=ONE, count_include_pad=False
    ),
    _pool(avg_pool, torch_avg, "ceil mode", shape=(7, 5, 3), ceil_mode=True),
    _pool(avg_pool, torch_avg, "ceil mode, padded", shape=(7, 6, 3), kernel=(3, 2), padding=ONE, ceil_mode=True),
    _pool(avg_pool, torch_avg, "3", shape=(8, 3), kernel=(3,), stride=(2,), padding=((1, 1),), count_include_pad=False),
    _pool(avg_pool, torch_avg, "2x1x2", shape=(4, 3, 5, 2), kernel=(2, 1, 2), ceil_mode=True),
    OpSpec("global_avg_pool2d", global_avg_pool, _global(4, 5, 3), _global_avg, batched=(0, 1)),
    OpSpec("global_avg_pool1d", global_avg_pool, _global(5, 3), _global_avg, batched=(0, 1)),
    OpSpec("global_avg_pool3d", global_avg_pool, _global(2, 3, 2, 3), _global_avg, batched=(0, 1)),
    OpSpec("global_avg_pool1d, mask", global_avg_pool, _sequences, _global_avg, batched=(0, 1)),
    OpSpec("global_max_pool2d", global_max_pool, _global(4, 5, 3), torch_global_max, batched=(0, 1)),
    OpSpec("global_max_pool1d", global_max_pool, _global(5, 3), torch_global_max, batched=(0, 1)),
    OpSpec("global_max_pool1d, mask", global_max_pool, _sequences, torch_global_max, batched=(0, 1)),
]
