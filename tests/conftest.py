from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

# Before Numba and PyTorch read them: four threads, so that work is shared on any machine, and waiting ones that sleep,
# since there may be fewer cores.
os.environ.setdefault("NUMBA_NUM_THREADS", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with Ctrl-C ignored, and what is ignored a run leaves ignored: tests send it.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; tests that use it are skipped where it is missing."""
    folder = Path(os.environ.get("GBP_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here; set GBP_TEST_DATA to their folder")
    return folder
