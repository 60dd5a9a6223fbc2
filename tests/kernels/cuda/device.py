"""The test device: a stand-in for the GPU's driver, which compiles the same .cu files with the C++ compiler.

It launches through the Python that a GPU would be launched by, and looks at what nothing looks at there: that each
argument is of the type of its parameter, that arrays are C-contiguous and written to only where they may be, that grid
and block are within CUDA's limits.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.backend.strict import StrictArray, StrictBackend
from gpubackprop.kernels.cuda import activation, class_loss, layer_norm, optimizer  # noqa: F401  # they enter their kernels
from gpubackprop.kernels.cuda.backend import CudaKernels
from gpubackprop.kernels.cuda.driver import FOLDER, text

COMPILER = shutil.which("g++")
ASAN = "-fsanitize=address"
HEADER = Path(__file__).with_name("cuda_host.hpp")
BUILDS = Path(__file__).parents[3] / ".pytest_cache" / "cuda_host"
ORDERS = ("forward", "reverse", "random")
MAX_GRID, MAX_BLOCK, MAX_THREADS = (2**31 - 1, 2**16 - 1, 2**16 - 1), (1024, 1024, 64), 1024


class LaunchError(Exception):
    """What would be an error on a GPU, or undefined there."""


class HostDriver:
    """Compiles for the CPU, and runs a block's threads in one of ORDERS.

    folder    where the sources are, for tests that break them
    sanitize  with AddressSanitizer; its library has to be loaded before Python's
    """

    def __init__(self, order: str = "forward", folder: Path = FOLDER, sanitize: bool = False) -> None:
        self.order, self.folder, self.sanitize, self.launches = order, folder, sanitize, 0

    def functions(self, file: str, names: Sequence[str]) -> Mapping[str, Any]:
        """As kernels/cuda/driver.py's Driver."""
        library = ctypes.CDLL(str(_built(text(file, self.folder), names, self.sanitize)))
        return {name: _Function(self, name, library, i) for i, name in enumerate(names)}


class _Function:
    def __init__(self, driver: HostDriver, name: str, library: ctypes.CDLL, number: int) -> None:
        signature, self._run = library[f"signature_{number}"], library[f"run_{number}"]
        signature.restype = self._run.restype = ctypes.c_char_p
        self._driver, self._name = driver, name
        self._parameters = signature().decode().split(",")[:-1]

    def __call__(self, grid: Any, block: Any, args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
        if shared_mem:
            raise NotImplementedError("the test device has no dynamic shared memory yet")
        sizes = _sizes(grid, MAX_GRID, f"{self._name}: grid") + _sizes(block, MAX_BLOCK, f"{self._name}: block")
        if np.prod(sizes[3:]) > MAX_THREADS:
            raise LaunchError(f"{self._name}: a block of {block}: more than {MAX_THREADS} threads")
        if len(args) != len(self._parameters):
            raise LaunchError(f"{self._name} has {len(self._parameters)} parameters, got {len(args)} arguments")
        values = [
            _value(argument, wanted, f"{self._name}: argument {i}")
            for i, (argument, wanted) in enumerate(zip(args, self._parameters, strict=True))
        ]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        order = ORDERS.index(self._driver.order)
        problem = self._run((ctypes.c_uint * 6)(*sizes), pointers, order, self._driver.launches).decode()
        self._driver.launches += 1
        if problem:
            raise LaunchError(f"{self._name}: {problem}")


def _sizes(size: tuple[int, ...], limits: tuple[int, ...], what: str) -> list[int]:
    sizes = [*size, *[1] * (3 - len(size))]
    if len(sizes) > 3 or any(type(n) is not int or not 1 <= n <= limit for n, limit in zip(sizes, limits, strict=True)):
        raise LaunchError(f"{what} of {size}: CUDA takes 1 to {limits}")
    return sizes


def _value(argument: Any, wanted: str, what: str) -> np.ndarray[Any, Any]:
    """The value that cuLaunchKernel would be given the address of: a number, or an array's own address."""
    if not wanted.endswith("*"):
        if not isinstance(argument, np.generic) or argument.dtype.name != wanted:
            raise LaunchError(f"{what}: the kernel takes a number of {wanted}, got {argument!r}")
        return np.array(argument)
    if isinstance(argument, np.uint64) and argument == 0:
        return np.array(argument)
    if not isinstance(argument, StrictArray) or argument.dtype.name != wanted.removeprefix("const ")[:-1]:
        raise LaunchError(f"{what}: the kernel takes an array of {wanted}, got {argument!r}")
    host = argument._host
    if not host.flags.c_contiguous:
        raise LaunchError(f"{what}: an array that is not C-contiguous; a kernel sees its address alone")
    if not (host.flags.writeable or wanted.startswith("const ")):
        raise LaunchError(f"{what}: the kernel takes {wanted}, and may write to what is read-only")
    return np.array(host.ctypes.data, np.uint64)


def _built(source: str, names: Sequence[str], sanitize: bool) -> Path:
    """The library of a source, compiled unless it was before; two processes may come at the same time."""
    exports = "\n".join(f"CUDA_HOST_EXPORT({i}, {name})" for i, name in enumerate(names))
    code = f'#include "{HEADER.name}"\n{source}\n{exports}\n'
    # Unique symbols would be shared with the libraries of other sources, broken ones among them.
    options = ["-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fno-gnu-unique", *([ASAN] if sanitize else [])]
    known = hashlib.sha256("\0".join((code, HEADER.read_text(), *options)).encode()).hexdigest()[:20]
    library = BUILDS / f"{known}.so"
    if not library.exists():
        BUILDS.mkdir(parents=True, exist_ok=True)
        assert COMPILER, "no g++"
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [COMPILER, *options, f"-I{HEADER.parent}", "-x", "c++", "-", "-o", str(unfinished)]
        done = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
        if done.returncode:
            raise LaunchError(f"the compiler refuses it:\n{done.stderr}")
        unfinished.replace(library)
    return library


class TestDevice(CudaKernels, StrictBackend):
    """A CudaBackend without a GPU: what is fresh in its memory is NaN."""

    __test__ = False  # no class of tests

    def __init__(self, order: str = "forward", **options: Any) -> None:
        super().__init__()
        self.driver: HostDriver = HostDriver(order, **options)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Full of NaN, or of a number that is none of ours."""
        kind = np.dtype(dtype).kind
        return StrictArray(np.full(shape, np.nan if kind in "fV" else 99 if kind != "b" else True, dtype))
