"""What no kernel does, in a recorded step: the reference's functions, each run by NumPy as one launch.

They run anew at every replay. Their results are copied to step memory, where the launches after them look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.tape import Op, Slots

if TYPE_CHECKING:
    from gpubackprop.kernels.cpu.backend import CpuBackend


class HostOp(Op):
    """A reference pair in the step that is being recorded."""

    def __init__(self, op: Op) -> None:
        self.name, self.op = op.name, op

    def forward(self, b: CpuBackend, *arrays: Any, **options: Any) -> tuple[Any, Any]:
        """As the op's, from arrays to arrays; what is saved is a cell that every replay fills."""
        cell: list[Any] = [None, False]

        def run(*arrays: Any) -> Sequence[Array | None]:
            y, cell[0] = self.op.forward(b, *arrays, **options)
            cell[1] = type(y) is tuple
            return y if cell[1] else (y,)

        ys = launched(b, run, arrays)
        return ys if cell[1] else ys[0], cell

    def backward(self, b: CpuBackend, saved: Any, dy: Any, slots: Slots) -> tuple[Array | None, ...]:
        """As the op's; a gradient that the op wrote where the slot says stays there."""
        several = type(dy) is tuple

        def run(*dys: Any) -> Sequence[Array | None]:
            kept, saved[0] = saved[0], None  # memory is free again as soon as the op is done
            return self.op.backward(b, kept, dys if several else dys[0], slots)  # type: ignore[no-any-return]  # an Op's

        return launched(b, run, dy if several else (dy,), [slot.out for slot in slots])


def launched(
    b: CpuBackend,
    function: Callable[..., Sequence[Array | None]],
    args: Sequence[Any],
    places: Sequence[Array | None] = (),
) -> tuple[Array | None, ...]:
    """The arrays that function(*args) returns, in step memory; those that are one of `places` stay there."""
    with b.aside():
        found = function(*args)
    outs = tuple(a if a is None or _among(a, places) else _alike(b, a) for a in found)
    _copy(found, outs)
    count = len(args)

    def again(*arrays: Any) -> None:
        _copy(function(*arrays[:count]), arrays[count:])

    if b.recording is not None:
        b.recording.add(again, (*args, *outs))
    return outs


def effect(b: CpuBackend, reference: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is no op, which changes arrays in place or returns one, in the step that is being recorded."""

    def run(*args: Any) -> Any:
        def as_tuple(*args: Any) -> Sequence[Array | None]:
            return (reference(*args),)

        return launched(b, as_tuple, args)[0]

    return wraps(reference)(run)


def _among(a: Array, places: Sequence[Array | None]) -> bool:
    return any(a is place for place in places)


def _alike(b: CpuBackend, a: Array) -> Array:
    """Step memory for an array, its axes in the same order there: what NumPy adds up next, it adds in that order."""
    order = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    return b.empty(tuple(a.shape[axis] for axis in order), a.dtype).transpose(np.argsort(order))


def _copy(found: Sequence[Array | None], outs: Sequence[Array | None]) -> None:
    for a, out in zip(found, outs, strict=True):
        if a is not None and out is not None and a is not out:
            np.copyto(out, a)
