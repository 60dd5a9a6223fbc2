"""A first start compiles on two processors: a copy of the process runs ahead, and compiles from the step's end on.

What a step launches follows from shapes alone, so the copy, a fork, leaves all launches out and has the list of them in
a moment. What it has compiled it puts where compiled kernels are kept, and the process finds it there. Of the package's
own Python code the rest of the step runs in the copy too; steps with others' code are not copied.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from numba.core.dispatcher import Dispatcher

from gpubackprop.kernels.cpu import jit

LIMIT = 300  # seconds, after which a copy ends whose process was killed
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
_tried = False
_number: int | None = None  # of the copy's process
#: In the copy, the launches that it left out; whoever launches there, on whichever backend.
copy: Copy | None = None


class Copied(BaseException):
    """Raised in the copy, to leave the compiler that it was in when it came to be."""


class Copy:
    """What the copy does instead of launching."""

    def __init__(self) -> None:
        self.launches: dict[tuple[Any, Any], None] = {}

    def leave_out(self, function: Any, args: tuple[Any, ...]) -> None:
        """Note a function and the types of its arguments."""
        if isinstance(function, Dispatcher):
            self.launches[function, tuple(map(function.typeof_pyval, args))] = None

    def compile(self) -> NoReturn:
        """From the last on; what the process was at before is only loaded. The copy ends with it."""
        try:
            for function, kinds in reversed(self.launches):
                function.compile(kinds)
        finally:
            os._exit(0)


@contextmanager
def running_ahead() -> Iterator[None]:
    """Around a step: at the first kernel that has to be compiled a copy starts, which never gets out of here.

    Once in a process: later steps lack a kernel or two.
    """
    global _number
    jit.on_miss = _start_copy if not _tried and _may_copy() else None
    try:
        yield
    finally:
        jit.on_miss = None
        if copy is not None:
            copy.compile()
        if _number:
            with suppress(OSError):  # it ended by itself, and somebody else has waited for it
                os.kill(_number, signal.SIGKILL)
                os.waitpid(_number, 0)
            _number = None


def _may_copy() -> bool:
    """Whether there are another processor, a folder for what is compiled, and forks as safe as Linux's."""
    return sys.platform == "linux" and jit.FOLDER is not None and len(os.sched_getaffinity(0)) > 1


def _start_copy() -> None:
    """Raises Copied in the copy. Where none can be had all goes on without."""
    global _number, _tried, copy
    jit.on_miss, _tried = None, True
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the copy needs none of them
            _number = os.fork()
        if _number == 0:
            copy = Copy()
            _be_quiet()
    except OSError:
        if copy is not None:
            os._exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if copy is not None:
        raise Copied


def _be_quiet() -> None:
    """No output, no handlers of the user's, and an end in any case."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    for number in _SIGNALS:
        with suppress(ValueError):  # where another than the main thread was copied
            signal.signal(number, signal.SIG_DFL)
    signal.alarm(LIMIT)
