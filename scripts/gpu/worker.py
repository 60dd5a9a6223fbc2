"""A part runs in a process of its own, which says line by line what it found: a kernel may take its process along.

The process has the names of what is done already in a file, $GPU_CHECK_DONE, and writes JSON to the pipe
$GPU_CHECK_LINES: {"total": n}, {"begin": name}, {"item": name, "status": …}, {"end": true}. Where it dies or says
nothing for too long, what it was at has failed, and another process does the rest.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scripts.gpu import ROOT
from scripts.gpu.record import FAILED, NOT_RUN, Budget, Item

DONE, LINES = "GPU_CHECK_DONE", "GPU_CHECK_LINES"
#: The GPU answers nothing but these from then on: the process has to be another one.
LOST = (
    *("IllegalAddress", "ILLEGAL_ADDRESS", "LaunchFailure", "LAUNCH_FAILED", "LaunchTimeout", "LAUNCH_TIMEOUT"),
    *("MisalignedAddress", "MISALIGNED_ADDRESS", "IllegalInstruction", "ILLEGAL_INSTRUCTION", "cudaErrorAssert"),
    *("HardwareStackError", "InvalidAddressSpace", "InvalidPc", "ECCUncorrectable", "ECC_UNCORRECTABLE"),
)
TIME, NOTHING = "out of time", "nothing is called so"
WHOLE = 0.9  #: of the budget: what took longer than this and did not end is not tried again


@dataclass(frozen=True)
class Work:
    """What is to be run: `python *command` in the checkout.

    patience  seconds without a line after which it hangs
    """

    command: Sequence[str]
    patience: float
    environment: Mapping[str, str]


def run(
    work: Work, done: Iterable[str], budget: Budget, put: Callable[[str, Item], None], said: Callable[[str], None]
) -> str | None:
    """Do all items but those `done`; `put(name, item)` hears of each. Why it is not finished: TIME, NOTHING where there
    is no item at all, or in words; None: it is.
    """
    finished = list(done)
    while budget.left:
        before = len(finished)
        with _Process(work, finished) as process:
            current, began = "", 0.0
            for line in process.lines(budget):
                if "begin" in line:
                    current, began = line["begin"], budget.left
                elif "item" in line:
                    name = line.pop("item")
                    put(name, line)
                    finished.append(name)
                    current = ""
                elif line.get("total") == 0:
                    return NOTHING
                elif "end" in line:
                    return None
            reason = process.why()
        if reason is None:  # out of time
            if current and began > WHOLE * budget.whole:
                put(current, {"status": NOT_RUN, "reason": f"it takes more than {began:.0f} s; give it more --minutes"})
            return TIME
        if current:
            put(current, {"status": FAILED, "reason": reason})
            finished.append(current)
        if len(finished) == before:
            return reason
        said(f"going on in another process: {reason}")
    return TIME


class _Process:
    def __init__(self, work: Work, done: Iterable[str]) -> None:
        self._patience = work.patience
        self._done = tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8")  # noqa: SIM115  # closed below
        json.dump(list(done), self._done)
        self._done.flush()
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # as above
        reading, writing = os.pipe()
        self._pipe, self._end = reading, "died"
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {DONE: self._done.name, LINES: str(writing), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, *work.command],
            cwd=ROOT,
            env={**os.environ, **work.environment, **own},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            start_new_session=True,  # so that what it started ends with it
        )
        os.close(writing)

    def lines(self, budget: Budget) -> Iterator[dict[str, Any]]:
        """What it says, until it ends, is silent for too long or the time is over."""
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while True:
                if not selector.select(min(self._patience, budget.left)):
                    self._end = "hung" if budget.left else "time"
                    return
                if not (read := os.read(self._pipe, 1 << 16)):
                    return
                *whole, rest = (rest + read).split(b"\n")
                for each in whole:
                    yield json.loads(each)
                if not budget.left:
                    self._end = "time"
                    return

    def why(self) -> str | None:
        """Why it did not do all that it should; None: the time was over."""
        if self._end == "time":
            return None
        if self._end == "hung":
            return f"nothing for {self._patience:.0f} s: it hangs"
        code = self._process.wait()
        self._log.seek(0)
        last = ([each.strip() for each in self._log if each.strip()] or ["no word"])[-1]
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"{how}: {last}"

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            try:
                self._process.wait(1 if self._end == "died" else 0)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        os.close(self._pipe)
        self._log.close()
        self._done.close()


# --- in the process itself --------------------------------------------------------------------------------------------


class Lines:
    """What a process has to say."""

    def __init__(self) -> None:
        self.done: frozenset[str] = frozenset(json.loads(Path(os.environ[DONE]).read_text(encoding="utf-8")))
        self._pipe = os.fdopen(int(os.environ[LINES]), "w", encoding="utf-8")

    def say(self, **values: Any) -> None:
        """A line."""
        self._pipe.write(json.dumps(values) + "\n")
        self._pipe.flush()

    def item(self, name: str, status: str, reason: str = "", **values: Any) -> None:
        """One is done. Where the GPU was lost on the way, the process ends."""
        self.say(item=name, status=status, **({"reason": reason} if reason else {}), **values)
        if lost(reason):
            os._exit(1)


def lost(reason: str) -> bool:
    """Whether nothing works any more in a process after an error of this text."""
    return any(word in reason for word in LOST)
