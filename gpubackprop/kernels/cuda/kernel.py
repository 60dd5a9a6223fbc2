"""The GPU's table of kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpubackprop.kernels.kernel import Table, rows_of

__all__ = ["KERNELS", "RULES", "kernel", "rows_of", "rule", "same_floats"]


def same_floats(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether all float arrays are float32, or all float64: what is compiled."""
    kinds = {a.dtype.name for a in arrays if a is not None and a.dtype.kind == "f"}
    return len(kinds) == 1 and kinds <= {"float32", "float64"}


_TABLE = Table(same_floats)
KERNELS, RULES, kernel, rule = _TABLE.kernels, _TABLE.rules, _TABLE.kernel, _TABLE.rule
