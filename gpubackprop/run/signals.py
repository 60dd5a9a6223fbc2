"""SIGINT and SIGTERM during training: noted, so that the step that runs ends and a checkpoint is written."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Signals:
    """While it is entered, `received` is the first of the two signals that came, or None.

    A second SIGINT interrupts at once, as it would have before. Threads other than the main one are told of no signals,
    and signals that are ignored stay ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(signal.getsignal(number)) or signal.getsignal(number) == signal.SIG_DFL:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            before = self._before[number]
            (before if callable(before) else signal.default_int_handler)(number, frame)
        self.received = self.received or number
