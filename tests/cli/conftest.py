from __future__ import annotations

import signal

import pytest

from tests.run.conftest import data, finished, stop_at  # noqa: F401  # fixtures are found by their names


@pytest.fixture
def gb(capfd):
    """gb("train", …) -> (exit code, what went to stdout, lines of stderr), in this process."""
    from gpubackprop.cli import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(map(str, arguments)))
        out, err = capfd.readouterr()
        return end.value.code, out, err.splitlines()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
