"""The test device: the GPU's own backend, on doubles of CuPy and cuBLASLt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any
from unittest import mock

import pytest

from gpubackprop.backend.strict import StrictArray
from gpubackprop.kernels import cuda
from gpubackprop.kernels.cuda import cublaslt
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import FOLDER
from tests.kernels.cuda.cublaslt_double import CublasLtDouble
from tests.kernels.cuda.cupy_double import CupyDouble
from tests.kernels.cuda.host import ASAN, COMPILER, ORDERS, LaunchError

__all__ = ["ASAN", "COMPILER", "ORDERS", "CudaBackend", "LaunchError", "TestDevice", "doubles", "inside_step"]

for module in iter_modules(cuda.__path__):  # so that the table is whole
    import_module(f"{cuda.__name__}.{module.name}")


@contextmanager
def doubles(order: str = "forward", sanitize: bool = False, cudnn: Any = None) -> Iterator[CupyDouble]:
    """Inside it this machine has a GPU: the double of CuPy is what is imported, that of cuBLASLt what is loaded.

    cudnn: what stands for its package, None: it is not installed. Nothing is timed: of several ways each call takes
    a second by the first, without being done.
    """
    double = CupyDouble(order, sanitize)
    double.products = products = CublasLtDouble(device=double.device)
    with (
        pytest.MonkeyPatch.context() as patch,  # of single modules: what is first imported inside stays imported
        mock.patch.object(cublaslt, "load", return_value=cublaslt.Library(products)),
        mock.patch.object(CudaBackend, "seconds", return_value=1.0),
        mock.patch.object(StrictArray, "watcher", double.device),
    ):
        patch.setitem(sys.modules, "cupy", double)
        patch.setitem(sys.modules, "cudnn", cudnn)
        patch.setenv("GPUBACKPROP_KERNELS", "auto")  # they are what is tested, whatever is asked for around
        yield double


def TestDevice(order: str = "forward", folder: Path = FOLDER, sanitize: bool = False) -> Any:
    """A CudaBackend on the doubles; its arrays can be used outside of `doubles`, where nothing watches them."""
    with doubles(order, sanitize) as double:
        backend: Any = cuda.load()
    backend.driver.folder, backend.double = folder, double
    backend.seconds = lambda call: 1.0  # as in `doubles`
    return backend


TestDevice.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name


def inside_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, in which nothing may wait for the device."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        StrictArray.inside_step = True
        try:
            return function(*args, **kwargs)
        finally:
            StrictArray.inside_step = False

    return guarded
