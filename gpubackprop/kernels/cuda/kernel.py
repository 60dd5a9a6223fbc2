"""The GPU's table of kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpubackprop.backend.precision import full as computed
from gpubackprop.kernels.cuda.driver import REAL
from gpubackprop.kernels.kernel import Table, rows_of

__all__ = ["KERNELS", "RULES", "computed", "kernel", "rows_of", "rule", "same_floats"]


def same_floats(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether all float arrays are of one dtype, and of one that is compiled for."""
    given = (a for a in arrays if a is not None and not isinstance(a, int))  # a step's number may be an int
    kinds = {a.dtype.name for a in given if a.dtype.kind in "fV"}  # NumPy knows bfloat16 as a void
    return len(kinds) == 1 and kinds <= set(REAL)


_TABLE = Table(same_floats)
KERNELS, RULES, kernel, rule = _TABLE.kernels, _TABLE.rules, _TABLE.kernel, _TABLE.rule
