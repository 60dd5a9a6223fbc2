"""The CPU's table of kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend.precision import is_float
from gpubackprop.kernels.kernel import Table, rows_of

__all__ = ["CHOICES", "KERNELS", "RULES", "kernel", "rows_of", "rule", "same_floats"]

#: What measurements chose among several kernels, by what was asked; see conv.py.
CHOICES: dict[str, str] = {}


def same_floats(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether all float arrays are float32, or all float64: what is compiled."""
    kinds = {a.dtype for a in arrays if isinstance(a, np.ndarray) and is_float(a.dtype)}
    return len(kinds) == 1 and kinds <= {np.dtype(np.float32), np.dtype(np.float64)}


_TABLE = Table(same_floats)
KERNELS, RULES, kernel, rule = _TABLE.kernels, _TABLE.rules, _TABLE.kernel, _TABLE.rule
