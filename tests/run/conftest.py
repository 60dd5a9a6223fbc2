from __future__ import annotations

import signal

import pytest

from tests.run import toy


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return toy.write_arrays(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """A run that has come to its end; nobody may change it."""
    import gpubackprop as gbp

    return gbp.train(toy.config(data), run_dir=tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def stop_at():
    """stop_at(step, act): call `act` right after that step, once."""
    from gpubackprop.run.observers import MetricsFile

    patch = pytest.MonkeyPatch()

    def arrange(step, act):
        def stepped(self, trainer):
            if trainer.state.step == step:
                patch.undo()
                act()

        patch.setattr(MetricsFile, "stepped", stepped)

    yield arrange
    patch.undo()


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
