"""The CPU with kernels: NumPy's arrays, memory that is used again, and compiled functions that own the threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numba
import numpy as np

from gpubackprop.backend import Array, NumpyBackend
from gpubackprop.backend.precision import is_short
from gpubackprop.kernels.cpu import ahead, glue
from gpubackprop.kernels.cpu.blas import one_thread
from gpubackprop.kernels.cpu.host import HostOp, effect
from gpubackprop.kernels.cpu.jit import MAIN, Launched, announcing
from gpubackprop.kernels.cpu.kernel import CHOICES, KERNELS, RULES
from gpubackprop.kernels.cpu.memory import Pool
from gpubackprop.kernels.cpu.record import RecordedStep, Recording
from gpubackprop.kernels.cpu.share import ALONE
from gpubackprop.tape import Op, Slot

SPINS = "5000"
GLUE = 4096  # numbers: smaller arrays are NumPy's to add and to copy
SHARED = 20000.0  # nanoseconds: what takes less is not worth waking the other threads for, who may sleep


class CpuBackend(NumpyBackend):
    """NumPy, with the kernels of this folder in the place of the references that they fit.

    threads  how many work on a large array; as many as Numba has unless given
    """

    fuses = True

    def __init__(self, threads: int | None = None, poison: bool = False) -> None:
        available = _thread_count()
        self.threads = threads or available
        self.shared = SHARED
        self.usual = self.memory = Pool(poison)
        self.recording: Recording | None = None

    def pair(self, op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> Op:
        """The kernel for `op` where there is one that fits, else the reference."""
        kernel = KERNELS.get(op)
        if kernel is not None and kernel.fits(arrays, options):
            return kernel
        pair = super().pair(op, arrays, options)
        return HostOp(op) if pair is op and self.recording is not None else pair

    def rule(self, reference: Any) -> Any:
        """What stands in for a function that is not an op, else the function itself."""
        if reference not in RULES and self.recording is not None:
            return effect(self, reference)
        return RULES.get(reference, reference)

    def launch(self, function: Any, *args: Any, cost: float = 0.0) -> None:
        """Run a compiled function, or a NumPy one that writes into its last argument, on C-contiguous arrays.

        cost  nanoseconds that it would take one thread, roughly: says whether the others are woken
        """
        if isinstance(function, Launched):
            threads = self.threads if cost > self.shared else 1
            function, args = function.compiled, (*args, threads, MAIN)
        try:
            if ahead.copy is None:
                function(*args)
        except ahead.Copied:
            pass
        if ahead.copy is not None:
            return ahead.copy.leave_out(function, args)
        if self.recording is not None:
            self.recording.add(function, args)

    def only_once(self, reason: str, passing: bool = False) -> None:
        """What runs now is no launch: a step that it is part of cannot be replayed."""
        if self.recording is not None and self.recording.refused is None:
            self.recording.refused = reason

    def unlaunched(self, reason: str) -> None:
        """A recording holds launches alone."""
        self.only_once(reason)

    def repeated(self, step: Any, prepare: Any, made_of: Any, name: str = "steps") -> RecordedStep:
        """`step`, recorded at its second run on batches of the same shapes and replayed from the third."""
        return RecordedStep(self, step, prepare, made_of)

    @contextmanager
    def recording_into(self, recording: Recording) -> Iterator[None]:
        """Launches are recorded meanwhile, on memory that is the recorded step's alone: all the free one there is."""
        recording.memory.take(self.usual)
        self.memory, self.recording = recording.memory, recording
        try:
            yield
        finally:
            self.memory, self.recording = self.usual, None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is launched meanwhile is not recorded by itself, and not on the recorded step's memory."""
        held = self.memory, self.recording
        self.memory, self.recording = self.usual, None
        try:
            yield
        finally:
            self.memory, self.recording = held

    def running(self) -> AbstractContextManager[None]:
        """Around all that launches: the threads are the kernels' own meanwhile."""
        return one_thread()

    @property
    def choices(self) -> dict[str, str]:
        """What measurements chose so far."""
        return dict(CHOICES)

    def adopt(self, choices: Mapping[str, str]) -> None:
        """Choose as an earlier run did."""
        CHOICES.update(choices)

    def announcing(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Inside it `say` is told once when kernels have to be compiled."""
        return announcing(say)

    def add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """x + y of one shape, into `out` where it is given."""
        out = self.empty(x.shape, x.dtype) if out is None else out
        if out.size < GLUE or is_short(out.dtype) or not all(a.flags.c_contiguous for a in (x, y, out)):
            self.launch(np.add, x, y, out)
        elif out is x:
            self.launch(glue.add_to, out.reshape(-1), y.reshape(-1), cost=3 * glue.STREAM * out.size)
        else:
            self.launch(glue.add, x.reshape(-1), y.reshape(-1), out.reshape(-1), cost=3 * glue.STREAM * out.size)
        return out

    def divide(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """x / y, y of x's shape or 0-d, into `out` where it is given."""
        out = self.empty(x.shape, x.dtype) if out is None else out
        if y.ndim == 0 and out is x and out.flags.c_contiguous:
            self.launch(glue.scale, out.reshape(-1), y.reshape(1), cost=2 * glue.STREAM * out.size)
        elif x.ndim == y.ndim == 0:
            self.launch(glue.quotient, x.reshape(1), y.reshape(1), out.reshape(1))
        else:
            self.launch(np.divide, x, y, out)
        return out

    def assign(self, out: Array, x: Any) -> None:
        """out[...] = x, an array of its shape or a number."""
        flat = type(x) is np.ndarray and x.flags.c_contiguous and out.flags.c_contiguous
        if is_short(out.dtype) or (flat and is_short(x.dtype)):
            self.launch(_cast, x, out)
        elif flat and out.size >= GLUE and x.shape == out.shape:
            self.launch(glue.copy, out.reshape(-1), x.reshape(-1), cost=2 * glue.STREAM * out.size)
        else:
            self.launch(np.copyto, out, np.nan if x is None else x)  # as NumPy assigns what a faulty op gave

    def cast(self, x: Array, dtype: Any) -> Array:
        """x in another dtype; x itself where it is of it."""
        if x.dtype == dtype:
            return x
        out = self.empty(x.shape, dtype)
        self.launch(_cast, x, out)
        return out

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of step memory, to be written before it is read."""
        return self.memory.empty(shape, dtype)

    def out(self, slot: Slot, like: Array) -> Array:
        """Where to write a gradient of the shape of `like`: where the slot says, else step memory."""
        return self.out_of(slot, like.shape, like.dtype)

    def out_of(self, slot: Slot, shape: tuple[int, ...], dtype: Any) -> Array:
        """Where to write a gradient of this shape: where the slot says, else step memory."""
        return slot.out if slot.out is not None else self.empty(shape, dtype)

    def contiguous(self, x: Any) -> Any:
        """x itself where it is C-contiguous and writeable, as compiled functions take it, or no array; else a copy."""
        if type(x) is not np.ndarray or (x.flags.c_contiguous and x.flags.writeable):
            return x
        copy = self.empty(x.shape, x.dtype)
        self.assign(copy, x)
        return copy

    def describe(self) -> str:
        """The device in words."""
        if ALONE.value:
            return "kernels on 1 thread, since this process is a fork"
        return f"kernels on {self.threads} thread{'s' * (self.threads > 1)}"


def _cast(x: Any, out: Array) -> None:
    """out ← x, to or from a dtype that nothing is compiled for."""
    with np.errstate(over="ignore"):
        out[...] = x


def _thread_count() -> int:
    """How many threads Numba has, which are started here. Raises ImportError where it has none.

    OpenMP's threads spin for milliseconds when they wait, unless told otherwise before its library is loaded: beside
    another busy process that made steps fifteen times slower. Some ten microseconds reach from launch to launch.
    """
    ours = {"GOMP_SPINCOUNT": SPINS} if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ) else {}
    os.environ.update(ours)
    try:
        count = int(numba.get_num_threads())
    except ValueError as error:  # NUMBA_THREADING_LAYER names one that is not there
        raise ImportError(str(error).splitlines()[0], name="numba") from error
    finally:
        for name in ours:
            del os.environ[name]
    asked = os.environ.get("OMP_NUM_THREADS", "")  # what schedulers set; Numba's own variable goes before it
    return min(count, max(int(asked), 1)) if asked.isdigit() and "NUMBA_NUM_THREADS" not in os.environ else count
