"""CUDA kernels on the CPU: a source is compiled by the C++ compiler, and a block's threads run as fibers.

Looks at what nothing looks at on a GPU: that each argument is of the type of its parameter, that arrays are
C-contiguous and written to only where they may be, that grid and block are within CUDA's limits.
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

from gpubackprop.backend.strict import StrictArray

COMPILER = shutil.which("g++")
ASAN = "-fsanitize=address"
HEADER = Path(__file__).with_name("cuda_host.hpp")
BUILDS = Path(__file__).parents[3] / ".pytest_cache" / "cuda_host"
ORDERS = ("forward", "reverse", "random")
MAX_GRID, MAX_BLOCK, MAX_THREADS = (2**31 - 1, 2**16 - 1, 2**16 - 1), (1024, 1024, 64), 1024


class LaunchError(Exception):
    """What would be an error on a GPU, or undefined there."""


class Launch:
    """A kernel with its arguments, ready to run; the same work each time."""

    def __init__(self, kernel: Kernel, sizes: list[int], values: list[Any], arrays: list[tuple[StrictArray, bool]]):
        self._kernel, self._sizes, self._values, self.arrays = kernel, sizes, values, arrays

    def run(self) -> None:
        """Execute all blocks. Raises LaunchError."""
        pointers = (ctypes.c_void_p * len(self._values))(*(value.ctypes.data for value in self._values))
        how = self._kernel.how
        sizes = (ctypes.c_uint * 6)(*self._sizes)
        problem = self._kernel.execute(sizes, pointers, ORDERS.index(how.order), how.launches).decode()
        how.launches += 1
        if problem:
            raise LaunchError(f"{self._kernel.name}: {problem}")


class Kernel:
    """A compiled kernel. `how` has the order of the threads, and counts launches."""

    def __init__(self, how: Any, name: str, library: ctypes.CDLL, number: int) -> None:
        signature, self.execute = library[f"signature_{number}"], library[f"run_{number}"]
        signature.restype = self.execute.restype = ctypes.c_char_p
        self.how, self.name = how, name
        self.parameters = signature().decode().split(",")[:-1]

    def prepare(self, grid: Any, block: Any, args: tuple[Any, ...], shared_mem: int = 0) -> Launch:
        """The launch of these arguments. Raises LaunchError for what a GPU would not take, or not see."""
        if shared_mem:
            raise NotImplementedError("the test device has no dynamic shared memory: no kernel uses any")
        sizes = _sizes(grid, MAX_GRID, f"{self.name}: grid") + _sizes(block, MAX_BLOCK, f"{self.name}: block")
        if np.prod(sizes[3:]) > MAX_THREADS:
            raise LaunchError(f"{self.name}: a block of {block}: more than {MAX_THREADS} threads")
        if len(args) != len(self.parameters):
            raise LaunchError(f"{self.name} has {len(self.parameters)} parameters, got {len(args)} arguments")
        together = list(enumerate(zip(args, self.parameters, strict=True)))
        values = [_value(argument, wanted, f"{self.name}: argument {i}") for i, (argument, wanted) in together]
        arrays = [(a, not wanted.startswith("const ")) for _, (a, wanted) in together if isinstance(a, StrictArray)]
        return Launch(self, sizes, values, arrays)


def _sizes(size: tuple[int, ...], limits: tuple[int, ...], what: str) -> list[int]:
    sizes = [*size, *[1] * (3 - len(size))]
    if len(sizes) > 3 or any(type(n) is not int or not 1 <= n <= limit for n, limit in zip(sizes, limits, strict=True)):
        raise LaunchError(f"{what} of {size}: CUDA takes 1 to {limits}")
    return sizes


def _value(argument: Any, wanted: str, what: str) -> np.ndarray[Any, Any]:
    """The value that cuLaunchKernel would be given the address of: a number, or an array's own address."""
    if not wanted.endswith("*"):
        # CuPy takes a struct as an array () of its dtype.
        if not isinstance(argument, np.generic | np.ndarray) or argument.shape or argument.dtype.name != wanted:
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


def compiled(code: str, names: Sequence[str], how: Any) -> Mapping[str, Kernel]:
    """The kernels of a source by name; `how`: `order` of the threads, whether to `sanitize`, count of `launches`."""
    library = ctypes.CDLL(str(_built(code, names, how.sanitize)))
    return {name: Kernel(how, name, library, i) for i, name in enumerate(names)}


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
