"""A training step as the list of its launches, recorded once and replayed: what a CUDA graph is on a GPU.

The shapes of a batch settle which functions run on which memory. So the second step on batches of the same shapes is
recorded, and from the third on no tape is built: new data is copied to where the recorded step found its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from gpubackprop.backend import Array, garbage
from gpubackprop.errors import GpubackpropError
from gpubackprop.kernels.cpu.ahead import running_ahead
from gpubackprop.kernels.cpu.blas import one_thread
from gpubackprop.kernels.cpu.memory import Pool, root
from gpubackprop.kernels.cpu.program import Launch, Program, Refused
from gpubackprop.kernels.cpu.watch import Watch, foreign

if TYPE_CHECKING:
    from gpubackprop.kernels.cpu.backend import CpuBackend

Batches: TypeAlias = Sequence[Mapping[str, Any]]
Outputs: TypeAlias = tuple[Array | None, ...]
REFUSALS = (Refused, IndexError, GpubackpropError)  # of data, before anything is updated
KEPT = 8  # recordings of a step: batches of further shapes run as they are


class Recording:
    """The launches of one step so far, on memory that only recorded steps use; `refused` says why not."""

    def __init__(self, memory: Pool) -> None:
        self.memory = memory
        self.launches: list[Launch] = []
        self.refused: str | None = None

    def add(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        """Keep a launch. Its arrays are kept as places in memory: that they are used again is part of the step."""
        self.launches.append((function, tuple(map(self._place, args))))

    def _place(self, x: Any) -> Any:
        """An array of the step's own memory as its place there, which does not keep others from using it; all else as
        it is."""
        block = root(x) if type(x) is np.ndarray else None
        if block is None or block.pool is not self.memory:
            return x
        return np.ndarray(x.shape, x.dtype, block.base, x.ctypes.data - block.ctypes.data, x.strides)


class _Replay(NamedTuple):
    program: Program
    inputs: list[Array]
    outputs: Outputs
    watch: Watch
    silent: AbstractContextManager[Any]  #: about overflow, where NumPy's functions are among the launches, or cast

    def __call__(self, arrays: Sequence[Array]) -> Outputs:
        """The step again, on other arrays."""
        with one_thread(), self.silent:
            for held, given in zip(self.inputs, arrays, strict=True):
                held[...] = given
            self.program()
        return tuple(None if y is None else y.copy() for y in self.outputs)


class _Silent:
    """np.errstate(all="ignore"), that can be entered again and again."""

    def __enter__(self) -> None:
        self.before = np.seterr(all="ignore")

    def __exit__(self, *error: object) -> None:
        np.seterr(**self.before)


_NOTHING = nullcontext()


class RecordedStep:
    """`step(batches) -> arrays`, run as it is, then recorded, then replayed; `prepare` brings batches to the device.

    As soon as an object that the step is `made_of` has another attribute, all begins anew.
    """

    def __init__(
        self,
        b: CpuBackend,
        step: Callable[[Batches], Outputs],
        prepare: Callable[[Batches], Batches],
        made_of: Callable[[], Iterable[object]],
    ) -> None:
        self.backend, self.step, self.prepare, self.made_of = b, step, prepare, made_of
        #: One for all recordings: they never run at once, and each writes what it reads.
        self.memory = Pool(b.memory.poison)
        #: By shapes and dtypes of the batches: None until the second time, then the recording, or why there is none.
        self.found: dict[Any, _Replay | str | None] = {}

    def __call__(self, batches: Batches) -> Outputs:
        """One step; its outputs are the caller's own."""
        arrays = _arrays(batches)
        key = tuple((name, a.shape, a.dtype) if type(a) is np.ndarray else None for name, a in arrays)
        replay = self.found.get(key, "new")
        if type(replay) is _Replay:
            if replay.watch.unchanged():
                try:
                    return replay([a for _, a in arrays])
                except REFUSALS:  # the step itself says it in the layer's words
                    del self.found[key]
            else:
                self.found.clear()
            replay = "new"
        with one_thread(), np.errstate(all="ignore"):  # about overflow a GPU is silent too: the trainer looks at losses
            if replay is None:
                return self._record(key, batches)
            if replay == "new":
                code = foreign(self.made_of())
                if code or not _may_repeat(arrays):
                    self.found[key] = code or "its batches are not NumPy's inputs and targets alone"
                else:
                    self.found[key] = None
                with nullcontext() if code else running_ahead(), garbage.kept():
                    return self.step(self.prepare(batches))
            return self.step(self.prepare(batches))

    def _record(self, key: Any, batches: Batches) -> Outputs:
        b = self.backend
        if sum(type(found) is _Replay for found in self.found.values()) == KEPT:
            self.found[key] = f"batches of {KEPT} other shapes are recorded already"
            return self.step(self.prepare(batches))
        recording = Recording(self.memory)
        held = [_copied(batch) for batch in self.prepare(batches)]
        try:
            with b.recording_into(recording):
                outputs = self.step(held)
            if recording.refused:
                self.found[key] = recording.refused
                return outputs
            inputs = [a for _, a in _arrays(held)]
            program = Program(recording.launches)
            cast = any(given.dtype != a.dtype for (_, given), a in zip(_arrays(batches), inputs, strict=True))
            silent = _Silent() if cast or not program.compiled else _NOTHING
            self.found[key] = _Replay(program, inputs, outputs, Watch(self.made_of()), silent)
        finally:
            if not any(type(found) is _Replay for found in self.found.values()):
                b.memory.take(self.memory)
        return tuple(None if y is None else y.copy() for y in outputs)


def _arrays(batches: Batches) -> list[tuple[str, Any]]:
    """All arrays of the batches, in their order, with the parts that they are."""
    found: list[tuple[str, Any]] = []
    for batch in batches:
        for name, value in batch.items():
            if isinstance(value, Mapping):
                found += ((f"{name}.{each}", array) for each, array in value.items())
            else:
                found.append((name, value))
    return found


def _may_repeat(arrays: Sequence[tuple[str, Any]]) -> bool:
    """Masks and weights change what the layers do with their shapes, outside of launches; of several targets the
    values are looked at by each head's loss."""
    return all(name == "targets" or name.startswith("inputs") for name, _ in arrays) and all(
        type(a) is np.ndarray for _, a in arrays
    )


def _copied(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(a) if isinstance(a, Mapping) else np.array(a, order="C") for name, a in batch.items()}
