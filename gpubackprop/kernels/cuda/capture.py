"""A training step as a CUDA graph: captured once, launched with new data from then on.

While a stream is captured nothing runs. So the first step on batches of some shapes runs as it is, which compiles
kernels and chooses algorithms; the second is captured and launched; the following ones are launched alone.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubackprop.kernels.cuda.feed import Feed
from gpubackprop.kernels.repeat import Batches, Outputs, RepeatedStep, Replay, arrays_of

if TYPE_CHECKING:
    from gpubackprop.kernels.cuda.backend import CudaBackend

PACKAGE = Path(__file__).parents[2]


class Refused(Exception):
    """A step says that it must not be captured, and why."""


class Captures:
    """Whether a step is being captured, and who is told where it cannot be."""

    def __init__(self) -> None:
        self.capturing = False
        self.say: Callable[[str], None] = _warn


class _Captured:
    """A graph, where it finds its data and where it leaves what it gives.

    Arrays of the graph are reused by the next launch, so that outputs are copied.
    """

    def __init__(self, b: CudaBackend, graph: Any, feed: Feed, outputs: Outputs) -> None:
        self._backend, self._graph, self._feed, self._outputs = b, graph, feed, outputs

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
    ) -> None:
        super().__init__(step, prepare, made_of)
        self.backend = b
        #: The memory of all graphs, which never run at once, and of nothing else: other code would be given what a
        #: graph still writes to.
        self.pool = b.xp.cuda.MemoryPool()

    def takes(self, array: Any) -> bool:
        """NumPy's arrays and CuPy's."""
        return self.backend.owns(array) or type(array).__module__ == "numpy"

    def around(self) -> AbstractContextManager[Any]:
        """On the GPU and its stream."""
        return self.backend.running()

    def catch(self, batches: Batches) -> tuple[Outputs, Replay | str]:
        """Capture the step, and launch it."""
        b = self.backend
        held = [self._copied(batch) for batch in self.prepare(batches)]
        try:
            graph, outputs = self._capture(held)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not isinstance(error, Refused):
                reason = f"{_place(error)}: {reason}"
            b.captures.say(f"steps are not captured as a CUDA graph, and are slower: {reason}")
            return self.step(held), reason
        replay = _Captured(b, graph, Feed(b.xp, [a for _, a in arrays_of(held)]), outputs)
        return replay.launch(), replay

    def _capture(self, held: Batches) -> tuple[Any, Outputs]:
        stream = self.backend.stream
        with self.backend.xp.cuda.using_allocator(self.pool.malloc):
            stream.begin_capture()
            self.backend.captures.capturing = True
            try:
                outputs = self.step(held)
            except BaseException:
                with suppress(Exception):  # the capture is invalid, which its end says again
                    stream.end_capture()
                raise
            finally:
                self.backend.captures.capturing = False
            return stream.end_capture(), outputs

    def _copied(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._copied(a) if isinstance(a, Mapping) else self.backend.contiguous(a.copy())
            for name, a in batch.items()
        }


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=2)


def _place(error: Exception) -> str:
    """The function of the package where an error came up: an op's, a layer's or an optimizer's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(frame.filename).parents]
    named = [frame for frame in frames if not frame.name.startswith("<")]
    told = [frame for frame in named if Path(frame.filename).parent.name in ("ops", "nn", "optim")]
    last = (told or named or frames)[-1]
    return f"{last.name} ({Path(last.filename).name}:{last.lineno})"
