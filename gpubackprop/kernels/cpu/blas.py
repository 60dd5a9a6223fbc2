"""Matrix products inside compiled functions: NumPy's own OpenBLAS on one thread, called by address.

The kernels own the threads: each thread multiplies its own part. With two owners, OpenBLAS and Numba, the pools would
spin against each other, which measured six times slower.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from threading import RLock
from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import overload

_REMEDY = "get the wheel from PyPI: pip install --force-reinstall --only-binary :all: 'numpy>=2'"
_ROW_MAJOR, _PLAIN, _TRANSPOSED = np.int32(101), np.int32(111), np.int32(112)


def _library() -> ctypes.CDLL:
    """NumPy's OpenBLAS, 64-bit integers. Raises ImportError where NumPy was built with another BLAS."""
    folder = Path(np.__file__).parent
    for place in (folder.parent / "numpy.libs", folder / ".dylibs"):
        for path in sorted(place.glob("libscipy_openblas64_*")):
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                raise ImportError(f"NumPy's OpenBLAS cannot be loaded ({error}); {_REMEDY}", name="OpenBLAS") from error
    raise ImportError(f"this NumPy does not bring its own OpenBLAS; {_REMEDY}", name="OpenBLAS")


def _function(name: str) -> Any:
    """A function of OpenBLAS. Raises ImportError where it has none of that name."""
    try:
        return getattr(_LIBRARY, name)
    except AttributeError:
        raise ImportError(f"NumPy's OpenBLAS has no {name}; {_REMEDY}", name="OpenBLAS") from None


_LIBRARY = _library()
_threads = _function("scipy_openblas_set_num_threads64_")
_threads.argtypes, _threads.restype = [ctypes.c_int], None
_count = _function("scipy_openblas_get_num_threads64_")


_turn = RLock()


def _nobodys_turn() -> None:
    global _turn
    _turn = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_nobodys_turn)  # the thread whose turn it was may not be in the child


class one_thread:  # used like a function; a generator would cost twice the time
    """OpenBLAS on one thread meanwhile: the user's own products have all of theirs again afterwards.

    Several Python threads take turns here. The pool of threads is one, Numba's `workqueue` ends the process when two
    use it at once, and so are OpenBLAS's number of threads and the memory of a model that several use.
    """

    __slots__ = ("before", "turn")

    def __enter__(self) -> None:
        self.turn = _turn
        self.turn.acquire()
        self.before = _count()
        if self.before != 1:
            _threads(1)

    def __exit__(self, *error: object) -> None:
        if self.before != 1:
            _threads(self.before)
        self.turn.release()


def _external(letter: str, number: Any) -> Any:
    """cblas_sgemm or cblas_dgemm as a function that compiled code calls. By name, so that its callers are cached."""
    name = f"gpubackprop_{letter}gemm"
    address = ctypes.cast(_function(f"scipy_cblas_{letter}gemm64_"), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(name, address)
    enum, size, pointer = types.int32, types.int64, types.uintp
    return types.ExternalFunction(
        name,
        types.void(enum, enum, enum, size, size, size, number, pointer, size, pointer, size, number, pointer, size),
    )


_GEMM = {types.float32: _external("s", types.float32), types.float64: _external("d", types.float64)}


def gemm(a: Any, turn_a: bool, b: Any, turn_b: bool, c: Any, keep: bool) -> None:
    """c (M, N) = a b, on top of what is there where `keep`; `turn_a`, `turn_b`: a is (K, M), b is (N, K), transposed.

    For compiled functions. Rows of all three must be contiguous, and may lie apart: slices of columns are fine.
    """
    raise NotImplementedError("gemm is for compiled functions")


@overload(gemm)
def _gemm(a: Any, turn_a: Any, b: Any, turn_b: Any, c: Any, keep: Any) -> Any:
    external, number = _GEMM[c.dtype], np.float32 if c.dtype == types.float32 else np.float64

    def call(a: Any, turn_a: Any, b: Any, turn_b: Any, c: Any, keep: Any) -> None:
        rows, columns = c.shape
        inner = a.shape[0] if turn_a else a.shape[1]
        if rows > 0 and columns > 0:
            external(
                _ROW_MAJOR,
                _TRANSPOSED if turn_a else _PLAIN,
                _TRANSPOSED if turn_b else _PLAIN,
                rows,
                columns,
                inner,
                number(1),
                a.ctypes.data,
                max(a.strides[0] // a.itemsize, 1),
                b.ctypes.data,
                max(b.strides[0] // b.itemsize, 1),
                number(1 if keep else 0),
                c.ctypes.data,
                max(c.strides[0] // c.itemsize, 1),
            )

    return call
