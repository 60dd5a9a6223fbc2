from __future__ import annotations

import sys
from functools import cache

import pytest

from gpubackprop.backend import Backend, choose
from gpubackprop.errors import DeviceError


@cache
def backend_of(cupy: object) -> Backend:
    """One for all tests, since it compiles its kernels once; another where `cupy` is another module, a double."""
    return choose("cuda")[0]


@pytest.fixture
def cuda() -> Backend:
    """The GPU's backend; tests that ask for it are skipped where there is none."""
    try:
        return backend_of(sys.modules.get("cupy"))
    except DeviceError as error:
        pytest.skip(str(error))
