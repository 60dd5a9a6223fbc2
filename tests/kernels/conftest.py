from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _kernels_are_wanted():
    if os.environ.get("GPUBACKPROP_KERNELS") == "reference":
        pytest.skip("GPUBACKPROP_KERNELS=reference: kernels are turned off")
