"""Rows of ops/pool.py."""

from __future__ import annotations

from gpubackprop.ops.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
)
from tests.ops.specs import OpSpec


def _max(x, *, kernel, stride, padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False):
    import torch.nn.functional as F

    around = tuple(before for before, _ in padding)
    return F.max_pool2d(x.permute(0, 3, 1, 2), kernel, stride, around, dilation, ceil_mode).permute(0, 2, 3, 1)


def _avg(x, *, kernel, stride, padding=((0, 0), (0, 0)), ceil_mode=False, count_include_pad=True):
    import torch.nn.functional as F

    around = tuple(before for before, _ in padding)
    images = x.permute(0, 3, 1, 2)
    return F.avg_pool2d(images, kernel, stride, around, ceil_mode, count_include_pad).permute(0, 2, 3, 1)


def _adaptive(x, *, output_size):
    import torch.nn.functional as F

    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), output_size).permute(0, 2, 3, 1)


def _adaptive_max(x, *, output_size):
    import torch.nn.functional as F

    return F.adaptive_max_pool2d(x.permute(0, 3, 1, 2), output_size).permute(0, 2, 3, 1)


def _global_avg(x):
    return x.mean(dim=(1, 2))


def _global_max(x):
    import torch.nn.functional as F

    return F.max_pool2d(x.permute(0, 3, 1, 2), tuple(x.shape[1:3])).flatten(1)


def _images(*shape):
    return lambda rng: (rng.normal(size=(2, *shape)),)


def _pool(op, torch, name, shape=(6, 5, 3), kernel=(2, 2), stride=None, **options):
    options |= {"kernel": kernel, "stride": stride or kernel}
    return OpSpec(f"{op.name} {name}", op, _images(*shape), torch, options)


ONE = ((1, 1), (1, 1))
ROWS = [
    _pool(max_pool2d, _max, "2x2", shape=(6, 4, 3)),
    _pool(max_pool2d, _max, "2x2, cells left over", shape=(7, 5, 3)),
    _pool(max_pool2d, _max, "overlapping", kernel=(3, 3), stride=(1, 2)),
    _pool(max_pool2d, _max, "padded", kernel=(3, 3), stride=(2, 2), padding=ONE),
    _pool(max_pool2d, _max, "ceil mode", shape=(7, 5, 3), ceil_mode=True),
    _pool(max_pool2d, _max, "ceil mode, padded", shape=(7, 6, 3), kernel=(3, 2), padding=ONE, ceil_mode=True),
    _pool(max_pool2d, _max, "dilation", shape=(7, 8, 2), stride=(1, 1), dilation=(2, 3)),
    _pool(avg_pool2d, _avg, "2x2", shape=(6, 4, 3)),
    _pool(avg_pool2d, _avg, "overlapping", kernel=(3, 2), stride=(1, 1)),
    _pool(avg_pool2d, _avg, "padded", kernel=(3, 3), stride=(2, 2), padding=ONE),
    _pool(avg_pool2d, _avg, "padding not counted", kernel=(3, 3), stride=(2, 2), padding=ONE, count_include_pad=False),
    _pool(avg_pool2d, _avg, "ceil mode", shape=(7, 5, 3), ceil_mode=True),
    _pool(avg_pool2d, _avg, "ceil mode, padded", shape=(7, 6, 3), kernel=(3, 2), padding=ONE, ceil_mode=True),
    OpSpec("adaptive_avg_pool2d even bins", adaptive_avg_pool2d, _images(6, 4, 3), _adaptive, {"output_size": (3, 2)}),
    OpSpec("adaptive_avg_pool2d", adaptive_avg_pool2d, _images(7, 5, 3), _adaptive, {"output_size": (3, 2)}),
    OpSpec("adaptive_avg_pool2d up", adaptive_avg_pool2d, _images(2, 3, 3), _adaptive, {"output_size": (3, 5)}),
    OpSpec("adaptive_max_pool2d", adaptive_max_pool2d, _images(7, 5, 3), _adaptive_max, {"output_size": (3, 2)}),
    OpSpec("adaptive_max_pool2d even", adaptive_max_pool2d, _images(6, 4, 3), _adaptive_max, {"output_size": (3, 2)}),
    OpSpec("global_avg_pool2d", global_avg_pool2d, _images(4, 5, 3), _global_avg),
    OpSpec("global_max_pool2d", global_max_pool2d, _images(4, 5, 3), _global_max),
]
