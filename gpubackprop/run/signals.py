"""SIGINT and SIGTERM during training: noted, so that the step that runs ends and a checkpoint is written."""

from __future__ import annotations

import signal
import threading
from typing import Any, Self


class Signals:
    """While it is entered, `received` is the first of the two signals that came, or None.

    A second SIGINT interrupts at once, by KeyboardInterrupt. Threads other than the main one are told of no signals.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
