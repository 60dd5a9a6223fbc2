"""A first start compiles on two processors: a copy of the process runs ahead, and compiles from the step's end on.

What a step launches follows from shapes alone, so the copy, a fork, leaves all launches out and has the list of them in
a moment. What it has compiled it puts where compiled kernels are kept, and the process finds it there.
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
_copied: int | None = None  # the number of the copy's process


class Copied(BaseException):
    """Raised in the copy, to leave the compiler that it was in when it came to be."""


class Ahead:
    """The launches that the copy left out."""

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
def running_ahead(b: Any) -> Iterator[None]:
    """Around a step of `b`'s: at the first kernel that has to be compiled a copy starts, which ends with the step.

    Once in a process: later steps lack a kernel or two.
    """
    first = _copied is None and _may_copy()
    jit.on_miss = _copy if first else None
    try:
        yield
    finally:
        jit.on_miss = None
        if b.ahead is not None:
            b.ahead.compile()
        if first and _copied:
            with suppress(OSError):  # it ended by itself, and somebody else has waited for it
                os.kill(_copied, signal.SIGKILL)
                os.waitpid(_copied, 0)


def _may_copy() -> bool:
    """Whether there are another processor, a folder for what is compiled, and forks as safe as Linux's."""
    return sys.platform == "linux" and jit.FOLDER is not None and len(os.sched_getaffinity(0)) > 1


def _copy() -> None:
    """Raises Copied in the copy."""
    global _copied
    jit.on_miss = None
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forks beside threads: the copy neither has nor needs any
        _copied = os.fork()
    if _copied:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(LIMIT)
    raise Copied
