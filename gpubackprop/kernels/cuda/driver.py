"""From a source file to functions that can be launched. The test device has its own driver, behind the same interface.

Arguments are device arrays, C-contiguous, and NumPy scalars; a missing array is NULL. Nothing checks them on a GPU,
where a kernel gets addresses and bytes: the test device does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

FOLDER = Path(__file__).parent
NULL = np.uint64(0)
Size: TypeAlias = tuple[int, ...]  #: (x,), (x, y) or (x, y, z)


#: C++'s names of the dtypes that kernels compute on; `common.cuh` has the short ones.
REAL = {"float32": "float", "float64": "double", "bfloat16": "bfloat16", "float16": "float16"}
EXACT = ("float32", "float64")


class Source(NamedTuple):
    """A .cu file of this folder and its kernels, as C++ names them: `{real}` stands for the type of their numbers."""

    file: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...] = tuple(REAL)  #: what it is compiled for


class Function(Protocol):
    """A compiled kernel."""

    def __call__(self, grid: Size, block: Size, args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
        """Run it on the current stream; `shared_mem` in bytes."""


class Driver(Protocol):
    """Compiles."""

    def functions(self, file: str, names: Sequence[str]) -> Mapping[str, Function]:
        """The kernels of a .cu file, by name; with template arguments."""


class CupyDriver:
    """The GPU's driver, by CuPy: NVRTC compiles, and what it gives is kept in CuPy's cache on disk."""

    def functions(self, file: str, names: Sequence[str]) -> Mapping[str, Function]:
        """As Driver.functions."""
        import cupy

        module = cupy.RawModule(code=text(file), options=("-std=c++17",), name_expressions=tuple(names))
        return {name: module.get_function(name) for name in names}


def text(file: str, folder: Path = FOLDER) -> str:
    """A source with the folder's own headers in it.

    CuPy's cache knows a source by its text: with an #include it would go on with what an older header gave.
    """

    def header(found: re.Match[str]) -> str:
        after = source.count("\n", 0, found.start()) + 2
        return f'{text(found[1], folder)}\n#line {after} "{file}"'

    source = (folder / file).read_text(encoding="utf-8")
    return f'#line 1 "{file}"\n' + re.sub(r'^#include "(\w+\.cuh)"$', header, source, flags=re.MULTILINE)
