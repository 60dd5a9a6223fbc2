"""A candidate in a process of its own, told by lines of JSON when to make steps.

So its threads are its own (two pools in one process spin against each other), and so are its memory and the time from
its start to its first step. Between slices it waits for a line and uses no processor. Both ends are here; only the
standard library, since PyTorch's process imports it too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from gpubackprop.errors import GpubackpropError
from gpubackprop.run.bench.task import CHECKED
from gpubackprop.run.bench.timing import Slice, timed


class BenchError(GpubackpropError):
    """A candidate that was to be measured ended with an error."""


class CannotError(Exception):
    """Raised inside a candidate's process: it cannot be measured here, for the reason that is its text."""


class Steps(Protocol):
    """What a candidate's process offers."""

    def step(self) -> float | None:
        """Make a step, wait until it is done and return its loss, None where nothing is learned."""

    def about(self) -> dict[str, Any]:
        """What else the comparison wants to know of it, as plain values."""


class Begun(Steps, Protocol):
    """The same where a device works on while Python goes on."""

    def launch(self) -> None:
        """Begin a step."""

    def wait(self) -> None:
        """Until all steps are done."""


# --- in the candidate's process ---------------------------------------------------------------------------------------


def serve(make: Callable[[], Steps | Begun], *libraries: str) -> None:
    """Import the libraries, make the candidate and its first step, then slices as they are asked for, until the pipe is
    closed.
    """
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the lines

    def say(**values: Any) -> None:
        lines.write(json.dumps(values) + "\n")
        lines.flush()

    try:
        for library in libraries:
            import_module(library)
        imported = _status("VmRSS")
        steps = make()
        loss = steps.step()
    except CannotError as error:
        say(cannot=str(error))
        return
    say(first=loss)
    losses = [loss, *(steps.step() for _ in range(CHECKED - 1))]
    say(imported=imported, losses=losses, **steps.about())
    for line in sys.stdin:
        asked = json.loads(line)
        if "slice" in asked:
            begin, wait = getattr(steps, "launch", None) or steps.step, getattr(steps, "wait", None)
            say(**asdict(timed(begin, asked["slice"], wait=wait)))
        else:
            # Not ru_maxrss, which begins with the memory of the process that started this one.
            say(peak=_status("VmHWM"))


def _status(key: str) -> int | None:
    """Bytes of memory that this process holds (VmRSS), or held at most (VmHWM); None where the system does not tell."""
    try:
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))
    except (OSError, StopIteration):
        return None


# --- in the process that compares -------------------------------------------------------------------------------------


def _path() -> str:
    """Where Python is to look first: beside this package, so that the processes run the same one."""
    root = str(Path(__file__).parents[3])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


class Candidate:
    """A candidate's process. `first_step` is seconds from its start to the end of its first step; `about` what it says
    of itself; `cannot` why it cannot be measured, and then nothing else is known.

    command      what to run in it: a module after `python -m`, and its arguments
    environment  variables for it, over those of this process

    Raises BenchError with the last line of its stderr where it ends by itself. Use it in a `with` block.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = " ".join(command)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": _path(), **(environment or {})},
        )
        try:
            said = self._hear()
            self.first_step = time.perf_counter() - start
            self.cannot: str | None = said.get("cannot")
            self.about: dict[str, Any] = {} if self.cannot else self._hear()
        except BaseException:
            self.close()
            raise

    def slice(self, seconds: float) -> Slice:
        """Make steps for so long."""
        return Slice(**self._ask(slice=seconds))

    def memory(self) -> dict[str, int | None]:
        """Bytes: held after the imports, and at most so far."""
        return {"imported": self.about["imported"], "peak": self._ask(memory=True)["peak"]}

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and self._process.stdout is not None:
            self._process.stdin.close()
            self._process.stdout.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; what it says last is told by `_hear`
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = ([each for each in self._errors.read().splitlines() if each.strip()] or ["no word"])[-1]
            raise BenchError(f"{self.name}: ended with code {self._process.wait()}: {last}")
        return dict(json.loads(line))
