"""From a source file to functions that can be launched.

Arguments are device arrays, C-contiguous, and NumPy scalars; a missing array is NULL. Nothing checks them on a GPU,
where a kernel gets addresses and bytes: the test device does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

FOLDER = Path(__file__).parent
NULL = np.uint64(0)
Size: TypeAlias = tuple[int, ...]  #: (x,), (x, y) or (x, y, z)


#: C++'s names of the dtypes that kernels compute on; `common.cuh` has the short ones.
REAL = {"float32": "float", "float64": "double", "bfloat16": "bfloat16", "float16": "float16"}
EXACT = ("float32", "float64")
#: CuPy adds the GPU's own, -ftz=true (float32 below 1.2e-38 is 0) and --device-as-default-execution-space, without
#: which CUDA 12's NVRTC takes a lambda in a kernel for a function of the host.
OPTIONS = ("-std=c++17",)


class Source(NamedTuple):
    """A .cu file of this folder and its kernels, as C++ names them: `{real}` stands for the type of their numbers."""

    file: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...] = tuple(REAL)  #: what it is compiled for


class Driver:
    """Compiles by CuPy, whose NVRTC needs no compiler on the machine; what it gives is kept in CuPy's cache on disk.

    CuPy compiles all code, ours and its own, with -ftz=true: denormal float32 numbers are zeros there.
    """

    def __init__(self, cupy: Any, folder: Path = FOLDER) -> None:
        self._cupy, self.folder = cupy, folder
        self._found: dict[tuple[str, str, str], Callable[..., None]] = {}

    def function(self, source: Source, name: str, real: str) -> Callable[..., None]:
        """The kernel of this name for numbers of C++'s type `real`: function(grid, block, args), on the current stream.

        All kernels of a source are compiled at once, at the first sight of one.
        """
        if (found := self._found.get((source.file, name, real))) is None:
            names = {name: name.format(real=real) for name in source.names}
            code = text(source.file, self.folder)
            module = self._cupy.RawModule(code=code, options=OPTIONS, name_expressions=tuple(names.values()))
            for each, full in names.items():
                self._found[source.file, each, real] = module.get_function(full)
            found = self._found[source.file, name, real]
        return found


def text(file: str, folder: Path = FOLDER) -> str:
    """A source with the folder's own headers in it.

    CuPy's cache knows a source by its text: with an #include it would go on with what an older header gave.
    """

    def header(found: re.Match[str]) -> str:
        after = source.count("\n", 0, found.start()) + 2
        return f'{text(found[1], folder)}\n#line {after} "{file}"'

    source = (folder / file).read_text(encoding="utf-8")
    return f'#line 1 "{file}"\n' + re.sub(r'^#include "(\w+\.cuh)"$', header, source, flags=re.MULTILINE)
