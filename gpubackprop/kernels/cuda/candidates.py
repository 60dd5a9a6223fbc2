"""Which of the pairs that can do an op is the quickest: for a measurement to say, on the GPU in question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from gpubackprop.kernels.cuda.kernel import KERNELS
from gpubackprop.tape import SKIP, Op, Slot

#: Seconds that a call takes, on the device.
Timer: TypeAlias = Callable[[Callable[[], Any]], float]
#: The pair that stands in for an op with these inputs, None where there is none.
Candidate: TypeAlias = Callable[[Op, Sequence[Any], Mapping[str, Any]], Op | None]


def own_kernel(op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> Op | None:
    """The kernel of this folder, where one fits."""
    kernel = KERNELS.get(op)
    return kernel if kernel is not None and kernel.fits(arrays, options) else None


def situation(op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> str:
    """An op with its inputs' shapes and dtypes and its options, in words: what a choice is made for."""
    inputs = ["-" if a is None else f"{a.dtype.name}{[*a.shape]}" for a in arrays]
    given = {name: each for name, each in sorted(options.items()) if name not in ("seed", "stream")}
    return f"{op.name} {' '.join(inputs)} {given}"


def measure(
    b: Any, op: Op, arrays: Sequence[Any], options: Mapping[str, Any], timer: Timer
) -> dict[str, tuple[float, float]]:
    """Seconds that both passes take, forward and backward, by each of the candidates of `b` and by the reference."""
    found = {name: find(op, arrays, options) for name, find in b.candidates.items()} | {"reference": op}
    return {name: _passes(b, pair, arrays, options, timer) for name, pair in found.items() if pair is not None}


def quickest(b: Any, op: Op, arrays: Sequence[Any], options: Mapping[str, Any], timer: Timer) -> dict[str, str]:
    """An entry for `b.chosen`: who takes the least time for both passes."""
    seconds = measure(b, op, arrays, options, timer)
    return {situation(op, arrays, options): min(seconds, key=lambda name: sum(seconds[name]))}


def _passes(b: Any, pair: Op, arrays: Sequence[Any], options: Mapping[str, Any], timer: Timer) -> tuple[float, float]:
    y, saved = pair.forward(b, *arrays, **options)
    dy = (y[0], *(None for _ in y[1:])) if type(y) is tuple else y  # any will do: its numbers cost no time
    slots = [SKIP if a is None or a.dtype.kind not in "fV" else Slot() for a in arrays]
    forward = timer(lambda: pair.forward(b, *arrays, **options))
    return forward, timer(lambda: pair.backward(b, saved, dy, slots))
