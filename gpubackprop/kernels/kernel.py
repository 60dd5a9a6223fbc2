"""A device's table of kernels: which faster pair stands in for which op, and which rule for which other function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from gpubackprop.backend import Array
from gpubackprop.tape import Op, Slots

#: fits(arrays, options): whether a kernel can take these inputs; else the reference does.
Fits: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], bool]


class Kernel(Op):
    """A faster pair for an op, called like it; what it saves is its own.

    The pair gets arrays that its backend's `contiguous` has seen, as inputs and as dy; with `views` all as they lie.
    """

    def __init__(
        self, op: Op, forward: Callable[..., Any], backward: Callable[..., Any], fits: Fits, views: bool = False
    ) -> None:
        def plain_forward(b: Any, *arrays: Any, **options: Any) -> Any:
            return forward(b, *map(b.contiguous, arrays), **options)

        def plain_backward(b: Any, saved: Any, dy: Any, slots: Slots) -> Any:
            return backward(b, saved, tuple(map(b.contiguous, dy)) if type(dy) is tuple else b.contiguous(dy), slots)

        super().__init__(*((forward, backward) if views else (plain_forward, plain_backward)))
        self.name, self.op, self.fits = op.name, op, fits


class Table:
    """The kernels and rules of one device; each file of a family enters its own."""

    def __init__(self, fits: Fits) -> None:
        self.kernels: dict[Op, Kernel] = {}
        self.rules: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._fits = fits

    def kernel(
        self,
        op: Op,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        fits: Fits | None = None,
        views: bool = False,
    ) -> None:
        """Let a pair of kernels stand in for `op` where it `fits`; `views`: it takes arrays as they lie."""
        self.kernels[op] = Kernel(op, forward, backward, fits or self._fits, views)

    def rule(self, reference: Callable[..., Any], faster: Callable[..., Any]) -> None:
        """Let `faster` stand in for what is not an op: an optimizer's update, clipping, running statistics."""
        self.rules[reference] = faster


def rows_of(x: Array) -> Array:
    """x (..., I) as (M, I)."""
    return x.reshape(-1, x.shape[-1])
