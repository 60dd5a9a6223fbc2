"""How losses count, compiled: the weight of each element, and sums as 0-d arrays. See ops/totals.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.constants import none_of
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import same_floats


@serial
def _multiply(factor, count, first, again):  # (k,), a piece of (M,) that starts at `first`, factor · again = M
    if again == 1:
        for i in range(count.size):
            count[i] *= factor[first + i]
    else:
        for i in range(count.size):
            count[i] *= factor[(first + i) // again]


@parallel
def _counts(weight, mask, count, threads):  # (k,) or (0,), (l,) or (0,), (M,)
    width = -(-count.size // threads)
    for t in prange(threads):
        own = count[t * width : (t + 1) * width]
        own[:] = 1
        if weight.size:
            _multiply(weight, own, t * width, count.size // weight.size)
        if mask.size:
            _multiply(mask, own, t * width, count.size // mask.size)


def counts(b: CpuBackend, size: int, dtype: Any, weight: Array | None, mask: Array | None) -> Array:
    """The product of weight and mask for each of `size` elements in a row, (size,); (0,) without: all count 1."""
    if weight is None and mask is None:
        return none_of(dtype)
    count = b.empty((size,), dtype)
    factors = (none_of(dtype) if factor is None else factor.reshape(-1) for factor in (weight, mask))
    b.launch(_counts, *factors, count, cost=3.0 * size)
    return count


@serial
def add_up(partial, threads, total, weight):  # (threads, 2), (1,), (1,)
    """The sums and weights of all threads, in their order."""
    first = second = 0.0
    for t in range(threads):
        first += partial[t, 0]
        second += partial[t, 1]
    total[0] = first
    weight[0] = second


def leading(shape: tuple[int, ...], *factors: Array | None) -> bool:
    """Whether all factors stand on leading axes of `shape` in full length: nothing else is broadcast here."""
    return all(factor is None or factor.shape == shape[: factor.ndim] for factor in factors)


def positions_fit(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """For (logits, target, class_weight, weight, mask)."""
    logits, target, class_weight, *factors = arrays
    return (
        same_floats(arrays, options)
        and logits.shape[:-1] == target.shape
        and target.dtype != np.uint64
        and (class_weight is None or class_weight.shape == logits.shape[-1:])
        and leading(target.shape, *factors)
    )


def elements_fit(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """For (x, target, weight, mask)."""
    x, target, *factors = arrays
    return same_floats(arrays, options) and x.shape == target.shape and leading(x.shape, *factors)
