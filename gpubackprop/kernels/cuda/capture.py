"""A training step as a CUDA graph: captured once, launched with new data from then on.

While a stream is captured nothing runs. So the first step on batches of some shapes runs as it is, which compiles
kernels and chooses algorithms; the second is captured and launched; the following ones are launched alone.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.backend import garbage
from gpubackprop.kernels.cuda.feed import Feed
from gpubackprop.kernels.repeat import Batches, Outputs, RepeatedStep, Replay, arrays_of

if TYPE_CHECKING:
    from gpubackprop.kernels.cuda.backend import CudaBackend

PACKAGE = Path(__file__).parents[2]


class Refused(Exception):
    """A step says that it must not be captured, and why; `passing`: the next one may be."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


class Captures:
    """Whether a step is being captured, and who is told where it cannot be."""

    def __init__(self) -> None:
        self.capturing = False
        self.say: Callable[[str], None] = _warn


class _Captured:
    """A graph, where it finds its data and where it leaves what it gives.

    Arrays of the graph are reused by the next launch, so that outputs are copied. Its memory is its own: other code
    would be given what the graph still writes to.
    """

    def __init__(self, b: CudaBackend, graph: Any, pool: Any, feed: Feed, outputs: Outputs) -> None:
        self._backend, self._graph, self._pool = b, graph, pool
        self._feed, self._outputs = feed, outputs

    def __call__(self, arrays: Sequence[Any]) -> Outputs:
        """The step again, on other arrays."""
        with self._backend.running():
            self._feed(arrays)
            return self.launch()

    def launch(self) -> Outputs:
        """The step on the data that is there."""
        self._graph.launch(self._backend.stream)
        return tuple(None if y is None else y.copy() for y in self._outputs)


class CapturedStep(RepeatedStep):
    """A step on a GPU with kernels. What cannot be captured is said once, and run as it is from then on."""

    def __init__(
        self,
        b: CudaBackend,
        step: Callable[[Batches], Outputs],
        prepare: Callable[[Batches], Batches],
        made_of: Callable[[], Iterable[object]],
        name: str = "steps",
    ) -> None:
        super().__init__(step, prepare, made_of)
        self.backend, self.fed, self.name = b, (np.ndarray, b.xp.ndarray), name
        self._told: set[str] = set()

    def around(self) -> AbstractContextManager[Any]:
        """On the GPU and its stream."""
        return self.backend.running()

    def refused(self, reason: str) -> None:
        """Say it, once."""
        if reason not in self._told:
            self._told.add(reason)
            self.backend.captures.say(f"{self.name} are not captured as a CUDA graph, and are slower: {reason}")

    def catch(self, batches: Batches) -> tuple[Outputs, Replay | str | None]:
        """Capture the step, and launch it."""
        b = self.backend
        held = [self._copied(batch) for batch in self.prepare(batches)]
        pool = own_pool(b.xp)
        b.xp.get_default_memory_pool().free_all_blocks()  # what steps run as they are have left there
        try:
            graph, outputs = captured(b, lambda: self.step(held), pool)
        except Exception as error:
            reason = _reason(error)
        else:
            replay = _Captured(b, graph, pool, Feed(b.xp, [a for _, a in arrays_of(held)]), outputs)
            return replay.launch(), replay
        del pool  # with what the capture took, which the step may need
        if reason is not None:
            self.refused(reason)
        return self.step(held), reason

    def _copied(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._copied(a) if isinstance(a, Mapping) else a.copy(order="C") for name, a in batch.items()}


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=2)


def captured(b: CudaBackend, work: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
    """A graph of what `work` does on the backend's stream, on memory of `pool`; and what it returned."""
    stream = b.stream
    # What is garbage may wait for the device when it goes: libraries, graphs and modules of another backend.
    with garbage.kept(), b.xp.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        b.captures.capturing = True
        try:
            result = work()
        except BaseException:
            with suppress(Exception):  # the capture is invalid, which its end says again
                stream.end_capture()
            raise
        finally:
            b.captures.capturing = False
        return stream.end_capture(), result


def timed(b: CudaBackend, call: Callable[[], None], repeats: int = 8) -> float:
    """How many seconds the GPU takes for a call. Waits.

    It is timed within a graph, as it will be run: what is small Python launches more slowly than the GPU does it.
    """
    call()  # the first may load its code, and choose

    def again() -> None:
        for _ in range(repeats):
            call()

    pool = own_pool(b.xp)
    try:
        graph, _ = captured(b, again, pool)
    except Exception:  # what cannot be captured: the step it is part of will say so
        run = again
    else:
        run = partial(graph.launch, b.stream)
    event = b.xp.cuda.Event
    start, stop = event(), event()
    run()  # the first launch brings a graph to the GPU
    start.record(b.stream)
    run()
    stop.record(b.stream)
    stop.synchronize()
    return float(b.xp.cuda.get_elapsed_time(start, stop)) / repeats / 1000


def own_pool(cupy: Any) -> Any:
    """Memory for one graph. When the GPU is full a pool of CuPy's gives back what is free at that moment, which work
    that is captured already will write to: this one gives nothing back."""
    held: list[Any] = []

    def grow(size: int) -> Any:
        held.append(cupy.cuda.Memory(size))
        return cupy.cuda.MemoryPointer(held[-1], 0)

    return cupy.cuda.MemoryPool(grow)


def _reason(error: Exception) -> str | None:
    """Why steps of these shapes are not captured, None: the next one may be."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, Refused):
        return None if error.passing else reason
    return f"{_place(error)}: {reason}"


def _place(error: Exception) -> str:
    """The function of the package where an error came up: an op's, a layer's or an optimizer's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(frame.filename).parents]
    named = [frame for frame in frames if not frame.name.startswith("<")]
    told = [frame for frame in named if Path(frame.filename).parent.name in ("ops", "nn", "optim")]
    last = (told or named or frames)[-1]
    return f"{last.name} ({Path(last.filename).name}:{last.lineno})"
