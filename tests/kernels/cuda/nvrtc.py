"""NVRTC by ctypes: the compiler that CuPy calls, with nothing but the source in sight. It needs no GPU."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from typing import NamedTuple

#: What CuPy 14.2 gives it besides the driver's options and folders of headers, which no source includes.
CUPY = ("-ftz=true", "--device-as-default-execution-space")

TYPES = {
    "nvrtcVersion": (POINTER(c_int), POINTER(c_int)),
    "nvrtcGetErrorString": (c_int,),
    "nvrtcCreateProgram": (POINTER(c_void_p), c_char_p, c_char_p, c_int, c_void_p, c_void_p),
    "nvrtcDestroyProgram": (POINTER(c_void_p),),
    "nvrtcAddNameExpression": (c_void_p, c_char_p),
    "nvrtcCompileProgram": (c_void_p, c_int, POINTER(c_char_p)),
    "nvrtcGetProgramLogSize": (c_void_p, POINTER(c_size_t)),
    "nvrtcGetProgramLog": (c_void_p, c_char_p),
    "nvrtcGetLoweredName": (c_void_p, c_char_p, POINTER(c_char_p)),
}


class CompileError(Exception):
    """The compiler's log."""


class Compiled(NamedTuple):
    """What came of a source."""

    log: str
    symbols: list[str]  #: of the kernels asked for, in their order

    @property
    def entries(self) -> list[str]:
        """The symbols of all kernels, if ptxas was to tell (`--ptxas-options=-v`)."""
        return re.findall(r"Compiling entry function '(\w+)'", self.log)

    @property
    def spills(self) -> list[int]:
        """Bytes, of stores and loads in turn, as above."""
        return [
            int(n) for pair in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", self.log) for n in pair
        ]


def find() -> str | None:
    """Where NVRTC lies, if pathfinder finds it in a wheel or on the system."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return str(load_nvidia_dynamic_lib("nvrtc").abs_path)
    except (ImportError, RuntimeError, OSError):  # pathfinder's own error is a RuntimeError
        return None


def compiled(library: str, source: str, names: Sequence[str], card: int, options: Sequence[str]) -> Compiled:
    """The kernels of these names for sm_<card>, as CuPy has them compiled. Raises CompileError."""
    nvrtc = ctypes.CDLL(library)
    for name, types in TYPES.items():
        nvrtc[name].argtypes = types
    nvrtc.nvrtcGetErrorString.restype = c_char_p

    def call(name: str, *args: object) -> None:
        if code := nvrtc[name](*args):
            raise CompileError(f"{name}: {nvrtc.nvrtcGetErrorString(code).decode()}\n{log()}")

    def log() -> str:
        size = c_size_t()
        if nvrtc.nvrtcGetProgramLogSize(program, byref(size)):
            return ""
        text = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, text)
        return text.value.decode()

    def symbol(name: str) -> str:
        found = c_char_p()
        call("nvrtcGetLoweredName", program, name.encode(), byref(found))
        return (found.value or b"").decode()

    program = c_void_p()
    call("nvrtcCreateProgram", byref(program), source.encode(), None, 0, None, None)
    try:
        for name in names:
            call("nvrtcAddNameExpression", program, name.encode())
        given = [option.encode() for option in (*options, *CUPY, f"-arch=sm_{card}")]
        call("nvrtcCompileProgram", program, len(given), (c_char_p * len(given))(*given))
        return Compiled(log(), [symbol(name) for name in names])
    finally:
        nvrtc.nvrtcDestroyProgram(byref(program))
