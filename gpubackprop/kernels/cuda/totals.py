"""How losses count, for the sources that include totals.cuh; see ops/totals.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import row_threads
from gpubackprop.kernels.cuda.kernel import computed, same_floats

ADD_UP = "add_up<{real}>"


def counts(size: int, weight: Array | None, mask: Array | None) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """weight and mask, and for how many of `size` elements in a row each value of theirs counts, as arguments."""
    factors = weight, mask
    again = (np.int64(1 if a is None else size // max(a.size, 1)) for a in factors)
    first, second = (NULL if a is None else a for a in factors)
    return (first, second), (next(again), next(again))


def add_up(b: CudaBackend, source: Source, dtype: Any, losses: Array, counted: Array) -> tuple[Array, Array]:
    """losses and counted (n,) -> their sums, both () and of computed(dtype)."""
    total, weight = b.empty((), computed(dtype)), b.empty((), computed(dtype))
    numbers = losses, counted, total, weight, np.int64(losses.size)
    b.launch(source, ADD_UP, dtype, (1,), row_threads(losses.size, losses.itemsize), *numbers)
    return total, weight


def factors_fit(shape: tuple[int, ...], dtype: Any, weight: Array | None, mask: Array | None) -> bool:
    """Whether both stand on leading axes of `shape` in full length, the mask of booleans and the weight of `dtype`."""
    return (
        all(each is None or each.shape == shape[: each.ndim] for each in (weight, mask))
        and (weight is None or weight.dtype == dtype)
        and (mask is None or mask.dtype.name == "bool")
    )


def positions_fit(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """For (logits, target, class_weight, weight, mask): nothing else is broadcast."""
    logits, target, class_weight, weight, mask = arrays
    return (
        same_floats(arrays, options)
        and logits.shape[:-1] == target.shape
        and target.dtype.name != "uint64"
        and (class_weight is None or class_weight.shape == logits.shape[-1:])
        and factors_fit(target.shape, logits.dtype, weight, mask)
    )
