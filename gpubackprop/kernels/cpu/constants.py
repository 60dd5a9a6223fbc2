"""Arrays that never change, for what an op was not given: a weight of ones, a bias of zeros."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from gpubackprop.backend import Array


@cache
def _constant(size: int, value: int, dtype: Any) -> Array:
    return np.full((size,), value, dtype)


def ones_unless(weight: Array | None, size: int, dtype: Any) -> Array:
    """weight of any shape as (size,), else ones."""
    return _constant(size, 1, dtype) if weight is None else weight.reshape(-1)


def zeros_unless(bias: Array | None, size: int, dtype: Any) -> Array:
    """bias of any shape as (size,), else zeros."""
    return _constant(size, 0, dtype) if bias is None else bias.reshape(-1)


def none_of(dtype: Any) -> Array:
    """(0,): what compiled functions get for an array that is not there."""
    return _constant(0, 0, dtype)
