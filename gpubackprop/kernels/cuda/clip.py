"""What happens to a gradient before the update, as in optim/clip.py and optim/scale.py: two launches each."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.driver import EXACT, Source
from gpubackprop.kernels.cuda.grid import THREADS, elementwise
from gpubackprop.kernels.cuda.kernel import rule
from gpubackprop.optim import LossScale, clip, scale

KERNELS = ("squares", "norm", "clip_norm", "clip_value", "unscale", "none", "rescale")
SOURCE = Source("clip.cu", tuple(f"{name}<{{real}}>" for name in KERNELS), EXACT)  # gradients are never short


def _over(b: Any, name: str, x: Array, *args: Any) -> None:
    b.launch(SOURCE, name, x.dtype, *elementwise(x.size, x.itemsize), *args, np.int64(x.size))


def _squares(b: Any, x: Array) -> tuple[Array, np.int32]:
    """The sums of squares of x (P,) by blocks, and how many they are."""
    (parts,), _ = elementwise(x.size, x.itemsize)
    partial = b.empty((parts,), x.dtype)
    _over(b, "squares<{real}>", x, x, partial)
    return partial, np.int32(parts)


def norm(b: Any, array: Array) -> Array:
    """As optim/clip.py."""
    x = b.contiguous(array)
    partial, parts = _squares(b, x)
    length = b.empty((), x.dtype)
    b.launch(SOURCE, "norm<{real}>", x.dtype, (1,), (THREADS,), partial, length, parts)
    return length


def clip_norm(b: Any, grad: Array, max_norm: float) -> Array:
    """As optim/clip.py."""
    if not grad.size:
        return norm(b, grad)
    partial, parts = _squares(b, grad)
    length = b.empty((), grad.dtype)
    _over(b, "clip_norm<{real}>", grad, grad, partial, length, parts, grad.dtype.type(max_norm))
    return length


def clip_value(b: Any, grad: Array, limit: float) -> None:
    """As optim/clip.py."""
    _over(b, "clip_value<{real}>", grad, grad, grad.dtype.type(limit))


def unscale(b: Any, grad: Array, by: Array) -> Array:
    """As optim/scale.py."""
    (parts,), _ = elementwise(grad.size, grad.itemsize)
    bad, ok = b.empty((parts,), np.dtype(np.int32)), b.empty((), np.dtype(bool))
    _over(b, "unscale<{real}>", grad, grad, by, bad)
    b.launch(SOURCE, "none<{real}>", grad.dtype, (1,), (THREADS,), bad, ok, np.int32(parts))
    return ok


def rescale(self: LossScale, ok: Array) -> None:
    """As optim/scale.py."""
    b: Any = self.backend
    growth, backoff, smallest, largest = map(np.float32, (self.growth, self.backoff, self.SMALLEST, self.LARGEST))
    b.launch(
        *(SOURCE, "rescale<{real}>", self.scale.dtype, (1,), (1,), self.scale, self.counts, ok),
        *(growth, backoff, np.int32(self.interval), smallest, largest),
    )


rule(clip.norm, norm)
rule(clip.clip_norm, clip_norm)
rule(clip.clip_value, clip_value)
rule(scale.unscale, unscale)
rule(scale.rescale, rescale)
