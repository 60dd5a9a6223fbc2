from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


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
