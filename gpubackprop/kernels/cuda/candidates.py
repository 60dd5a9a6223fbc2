"""Which of the pairs that can do an op is the quickest: a measurement says, on the GPU in question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpubackprop.kernels.cuda.cublaslt import Status, StatusError
from gpubackprop.kernels.cuda.kernel import KERNELS
from gpubackprop.tape import SKIP, Op, Slot

WAYS = ("cudnn", "kernel", "fused", "apart")
#: How cuBLASLt says that it cannot do an epilogue. A call that is wrong without one as well fails again, apart.
NOT_THERE = (Status.NOT_SUPPORTED, Status.INVALID_VALUE, Status.ARCH_MISMATCH)


def own_kernel(op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> Op | None:
    """The kernel of this folder, where one fits."""
    kernel = KERNELS.get(op)
    return kernel if kernel is not None and kernel.fits(arrays, options) else None


def situation(op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> str:
    """An op with its inputs' shapes and dtypes and its options, in words: what a choice is made for."""
    inputs = [f"{a.dtype.name}{[*a.shape]}" if hasattr(a, "dtype") else "-" for a in arrays]
    given = {name: each for name, each in sorted(options.items()) if name not in ("seed", "stream")}
    return f"{op.name} {' '.join(inputs)} {given}"


class Choices:
    """Who does what, by `situation`: measured at first sight, so not while a step is captured."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def do(self, b: Any, where: str, fused: Callable[[], Any], apart: Callable[[], Any]) -> None:
        """Do the same in the quicker of two ways: `fused` into a product, for which the library may have nothing, or
        `apart` from it. Both write all of their results anew, so that doing them again changes nothing."""
        if self.found.get(where) != "apart":
            try:
                fused()
            except StatusError as error:
                if error.status not in NOT_THERE:
                    raise
                self.found[where] = "apart"  # an earlier run's library may have had it
            else:
                if where in self.found or b.captures.capturing:
                    return
                self.found[where] = "fused" if b.seconds(fused) <= b.seconds(apart) else "apart"
                fused()
        if self.found[where] == "apart":
            apart()

    def quickest(
        self, b: Any, op: Op, arrays: Sequence[Any], options: Mapping[str, Any], pairs: Mapping[str, Op]
    ) -> Op:
        """Of the pairs, by name, the one that takes the least time for both passes; while capturing, the first."""
        where = f"{situation(op, arrays, options)} {b.float32}"
        if where not in self.found and not b.captures.capturing:
            seconds = {name: _passes(b, pair, arrays, options) for name, pair in pairs.items()}
            self.found[where] = min(seconds, key=lambda name: seconds[name])
        return pairs[self.found.get(where, next(iter(pairs)))]


def _passes(b: Any, pair: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> float:
    y, saved = pair.forward(b, *arrays, **options)
    dy = (y[0], *(None for _ in y[1:])) if type(y) is tuple else y  # any will do: its numbers cost no time
    slots = [SKIP if a is None or a.dtype.kind not in "fV" else Slot() for a in arrays]

    def both() -> None:
        pair.forward(b, *arrays, **options)
        pair.backward(b, saved, dy, slots)

    seconds: float = b.seconds(both)
    return seconds
