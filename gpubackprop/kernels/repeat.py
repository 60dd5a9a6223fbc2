"""A training step that is caught once and replayed: its launches, or a CUDA graph of them.

The shapes of a batch settle which functions run on which memory. So the second step on batches of the same shapes is
caught, and from the third on no tape is built: new data is copied to where the caught step found its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.errors import GpubackpropError
from gpubackprop.kernels.watch import Watch, foreign

Batches: TypeAlias = Sequence[Mapping[str, Any]]
Outputs: TypeAlias = tuple[Array | None, ...]
KEPT = 8  # of batches of so many different shapes; further ones run as they are


class Replay(Protocol):
    """A caught step."""

    def __call__(self, arrays: Sequence[Any]) -> Outputs:
        """The step again, on other arrays; its outputs are the caller's own."""


class RepeatedStep:
    """`step(prepare(batches)) -> arrays`, run as it is, then caught, then replayed; `prepare` brings batches to the
    device.

    As soon as an object that the step is `made_of` has another attribute, all begins anew. A device says how a step is
    caught (`catch`) and what has to be around one.
    """

    #: What a replay may raise about its data, before anything is updated: the step itself says it in a layer's words.
    refusals: tuple[type[BaseException], ...] = (IndexError, GpubackpropError)

    def __init__(
        self,
        step: Callable[[Batches], Outputs],
        prepare: Callable[[Batches], Batches],
        made_of: Callable[[], Iterable[object]],
    ) -> None:
        self.step, self.prepare, self.made_of = step, prepare, made_of
        #: By shapes and dtypes of the batches: None until the second time, then the caught step, or why there is none.
        self.found: dict[Any, tuple[Replay, Watch] | str | None] = {}

    #: The classes of arrays that a replay can be fed.
    fed: tuple[type, ...] = (np.ndarray,)

    # --- what a device writes ----------------------------------------------------------------------------------

    def may_repeat(self, arrays: Sequence[tuple[str, Any]]) -> bool:
        """Whether batches of such parts can be replayed."""
        return all(type(a) in self.fed for _, a in arrays)

    def around(self) -> AbstractContextManager[Any]:
        """Around every step that is run as it is, and around the one that is caught."""
        return nullcontext()

    def before(self) -> AbstractContextManager[Any]:
        """Around the step before the one that is caught."""
        return nullcontext()

    def refused(self, reason: str) -> None:
        """Batches of some shapes are not caught, for this reason."""

    def catch(self, batches: Batches) -> tuple[Outputs, Replay | str | None]:
        """Run the step and catch it: its outputs, and the caught step, or why it cannot be replayed; None: not yet."""
        raise NotImplementedError(f"{type(self).__name__}.catch")

    # --- what is the same everywhere ---------------------------------------------------------------------------

    def __call__(self, batches: Batches) -> Outputs:
        """One step; its outputs are the caller's own."""
        arrays = arrays_of(batches)
        fed = self.fed
        key = tuple([(name, a.shape, a.dtype) if type(a) in fed else None for name, a in arrays])
        found = self.found.get(key, "new")
        if type(found) is tuple:
            replay, watch = found
            if watch.unchanged():
                try:
                    return replay([a for _, a in arrays])
                except self.refusals:
                    del self.found[key]
            else:
                self.found.clear()
            found = "new"
        with self.around():
            if found is None:
                return self._catch(key, batches)
            if found != "new":
                return self.step(self.prepare(batches))
            reason = foreign(self.made_of())
            if not reason and not self.may_repeat(arrays):
                reason = f"batches of {', '.join(name for name, _ in arrays)} are not replayed"
            self.found[key] = reason
            if reason:
                self.refused(reason)
            with nullcontext() if reason else self.before():
                return self.step(self.prepare(batches))

    @property
    def caught(self) -> int:
        """How many caught steps there are."""
        return sum(type(found) is tuple for found in self.found.values())

    def _catch(self, key: Any, batches: Batches) -> Outputs:
        if self.caught == KEPT:
            self.found[key] = reason = f"batches of {KEPT} other shapes are caught already"
            self.refused(reason)
            return self.step(self.prepare(batches))
        outputs, replay = self.catch(batches)
        self.found[key] = replay if replay is None or isinstance(replay, str) else (replay, Watch(self.made_of()))
        return outputs


def arrays_of(batches: Batches) -> list[tuple[str, Any]]:
    """All arrays of the batches, in their order, with the parts that they are."""
    found: list[tuple[str, Any]] = []
    for batch in batches:
        for name, value in batch.items():
            if isinstance(value, Mapping):
                found += ((f"{name}.{each}", array) for each, array in value.items())
            else:
                found.append((name, value))
    return found
