"""The tables of kernels: which faster pair stands in for which op, and which rule for which other function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.tape import Op, Slots

#: fits(arrays, options): whether a kernel can take these inputs; else the reference does.
Fits: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], bool]


class Kernel(Op):
    """A faster pair for an op, called like it; what it saves is its own.

    The pair gets C-contiguous, writeable arrays only, as inputs and as dy.
    """

    def __init__(self, op: Op, forward: Callable[..., Any], backward: Callable[..., Any], fits: Fits) -> None:
        def plain_forward(b: Any, *arrays: Any, **options: Any) -> Any:
            return forward(b, *map(b.contiguous, arrays), **options)

        def plain_backward(b: Any, saved: Any, dy: Any, slots: Slots) -> Any:
            return backward(b, saved, tuple(map(b.contiguous, dy)) if type(dy) is tuple else b.contiguous(dy), slots)

        super().__init__(plain_forward, plain_backward)
        self.name, self.op, self.fits = op.name, op, fits


KERNELS: dict[Op, Kernel] = {}
RULES: dict[Callable[..., Any], Callable[..., Any]] = {}
#: What measurements chose among several kernels, by what was asked; see conv.py.
CHOICES: dict[str, str] = {}


def same_floats(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether all float arrays are float32, or all float64: what is compiled."""
    kinds = {a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
    return len(kinds) == 1 and kinds <= {np.dtype(np.float32), np.dtype(np.float64)}


def kernel(op: Op, forward: Callable[..., Any], backward: Callable[..., Any], fits: Fits = same_floats) -> None:
    """Let a pair of kernels stand in for `op` where it `fits`."""
    KERNELS[op] = Kernel(op, forward, backward, fits)


def rule(reference: Callable[..., Any], faster: Callable[..., Any]) -> None:
    """Let `faster` stand in for a function that is not an op: an optimizer's update, clipping, running statistics."""
    RULES[reference] = faster


def rows_of(x: Array) -> Array:
    """x (..., I) as (M, I)."""
    return x.reshape(-1, x.shape[-1])
