"""A plugin of pytest, which says of each test what became of it: -p scripts.gpu.pytest_lines, as worker.py runs it."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.gpu.record import FAILED, NOT_RUN, PASSED
from scripts.gpu.worker import Lines


class Plugin:
    """Leaves out the tests that are done. One that was skipped did not run, for the reason that it gives."""

    def __init__(self) -> None:
        self.lines = Lines()
        self._status, self._reason, self._seconds, self._lacking = PASSED, "", 0.0, False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Behind the selection by marks and names."""
        self.lines.say(total=len(items))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.lines.done])
        items[:] = [item for item in items if item.nodeid not in self.lines.done]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported: most often for lack of a package; or that says itself that it cannot run."""
        if report.skipped:
            where: Any = report.longrepr  # (file, line, reason)
            self.lines.item(report.nodeid, NOT_RUN, str(where[2]).removeprefix("Skipped: "))
        if report.failed:
            reason = reason_of(report.longreprtext)
            self._lacking |= "ModuleNotFoundError" in reason
            lacks = self._lacking and "ImportError: cannot import name" in reason  # from a file that could not be read
            self.lines.item(report.nodeid, NOT_RUN if lacks or "ModuleNotFoundError" in reason else FAILED, reason)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """It begins."""
        self._status, self._reason, self._seconds = PASSED, "", 0.0
        self.lines.say(begin=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of its three phases."""
        self._seconds += report.duration
        if report.skipped and not hasattr(report, "wasxfail"):
            where: Any = report.longrepr  # (file, line, reason)
            self._status, self._reason = NOT_RUN, str(where[2]).removeprefix("Skipped: ")
        elif report.failed:
            self._status, self._reason = FAILED, reason_of(report.longreprtext)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """It has ended."""
        self.lines.item(nodeid, self._status, self._reason, seconds=round(self._seconds, 3))

    def pytest_sessionfinish(self) -> None:
        """All have."""
        self.lines.say(end=True)


def reason_of(text: str) -> str:
    """The line of a traceback that says what is wrong."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["no word"])[-1 if not errors else 0][:500]


def pytest_configure(config: pytest.Config) -> None:
    """Pytest's own entry."""
    config.pluginmanager.register(Plugin())
