"""A training step as the list of its launches, recorded once and replayed: what a CUDA graph is on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array, garbage
from gpubackprop.kernels.cpu.ahead import running_ahead
from gpubackprop.kernels.cpu.blas import one_thread
from gpubackprop.kernels.cpu.memory import Pool, root
from gpubackprop.kernels.cpu.program import Launch, Program, Refused
from gpubackprop.kernels.repeat import Batches, Outputs, RepeatedStep, Replay, arrays_of

if TYPE_CHECKING:
    from gpubackprop.kernels.cpu.backend import CpuBackend


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


class _Recorded(NamedTuple):
    program: Program
    inputs: list[Array]
    outputs: Outputs
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


class RecordedStep(RepeatedStep):
    """A step on a CPU with kernels."""

    refusals = (Refused, *RepeatedStep.refusals)

    def __init__(
        self,
        b: CpuBackend,
        step: Callable[[Batches], Outputs],
        prepare: Callable[[Batches], Batches],
        made_of: Callable[[], Iterable[object]],
    ) -> None:
        super().__init__(step, prepare, made_of)
        self.backend = b
        #: One for all recordings: they never run at once, and each writes what it reads.
        self.memory = Pool(b.memory.poison)

    def may_repeat(self, arrays: Sequence[tuple[str, Any]]) -> bool:
        """Masks and weights change what the layers do with their shapes, outside of launches; of several targets the
        values are looked at by each head's loss."""
        return super().may_repeat(arrays) and all(n == "targets" or n.startswith("inputs") for n, _ in arrays)

    @contextmanager
    def around(self) -> Iterator[None]:
        """About overflow a GPU is silent too: the trainer looks at losses."""
        with one_thread(), np.errstate(all="ignore"):
            yield

    @contextmanager
    def before(self) -> Iterator[None]:
        """What has to be compiled for the step is compiled ahead."""
        with running_ahead(), garbage.kept():
            yield

    def catch(self, batches: Batches) -> tuple[Outputs, Replay | str]:
        """Run the step, every launch of it recorded."""
        recording = Recording(self.memory)
        held = [_copied(batch) for batch in self.prepare(batches)]
        replay: Replay | None = None
        try:
            with self.backend.recording_into(recording):
                outputs = self.step(held)
            if recording.refused:
                return outputs, recording.refused
            inputs = [a for _, a in arrays_of(held)]
            program = Program(recording.launches)
            cast = any(given.dtype != a.dtype for (_, given), a in zip(arrays_of(batches), inputs, strict=True))
            replay = _Recorded(program, inputs, outputs, _Silent() if cast or not program.compiled else _NOTHING)
        finally:
            if replay is None and not self.caught:
                self.backend.memory.take(self.memory)
        return tuple(None if y is None else y.copy() for y in outputs), replay


def _copied(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(a) if isinstance(a, Mapping) else np.array(a, order="C") for name, a in batch.items()}
