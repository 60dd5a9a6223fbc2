"""Kernels for the CPU, compiled by Numba."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from gpubackprop.backend import Backend


def load() -> Backend:
    """The CPU with all kernels of this folder.

    Raises ImportError that says what they lack here, UsageError for a variable with an unknown value.
    """
    from numba import config

    if config.DISABLE_JIT:
        raise ImportError("NUMBA_DISABLE_JIT turns Numba's compiler off; unset it", name="numba")
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")  # each file enters its kernels into the table
    from gpubackprop.kernels.cpu.backend import CpuBackend
    from gpubackprop.kernels.cpu.conv import asked

    asked()
    return CpuBackend()
