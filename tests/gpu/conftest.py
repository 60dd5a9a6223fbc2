"""With GPUBACKPROP_TEST_GPU=double these tests run, slowly, on doubles of CuPy and cuBLASLt, with no GPU at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest

from gpubackprop.backend import Backend, choose
from gpubackprop.errors import DeviceError


@cache
def one() -> Backend:
    """For all tests, since a backend compiles its kernels once."""
    return choose("cuda")[0]


@pytest.fixture
def cuda() -> Iterator[Backend]:
    """The GPU's backend; tests that ask for it are skipped where there is none."""
    if os.environ.get("GPUBACKPROP_TEST_GPU") == "double":
        from tests.kernels.cuda.device import doubles

        with doubles():
            yield choose("cuda")[0]
        return
    try:
        backend = one()
    except DeviceError as error:
        pytest.skip(str(error))
    yield backend
