from __future__ import annotations

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
