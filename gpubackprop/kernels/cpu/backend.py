"""The CPU with kernels: NumPy's arrays, memory that is used again, and compiled functions that own the threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np

from gpubackprop.backend import Array, NumpyBackend
from gpubackprop.kernels.cpu.jit import Parallel
from gpubackprop.kernels.cpu.kernel import KERNELS, RULES
from gpubackprop.kernels.cpu.memory import Pool
from gpubackprop.tape import Op, Slot

SHARED = 5000.0  # nanoseconds: what takes less is not worth waking the other threads for


class CpuBackend(NumpyBackend):
    """NumPy, with the kernels of this folder in the place of the references that they fit.

    threads  how many work on a large array; as many as Numba has unless given
    """

    def __init__(self, threads: int | None = None, poison: bool = False) -> None:
        self.threads = threads or numba.get_num_threads()
        self.memory = Pool(poison)
        self.shared = SHARED

    def pair(self, op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> Op:
        """The kernel for `op` where there is one that fits, else the reference."""
        kernel = KERNELS.get(op)
        return kernel if kernel is not None and kernel.fits(arrays, options) else op

    def rule(self, reference: Any) -> Any:
        """What stands in for a function that is not an op, else the function itself."""
        return RULES.get(reference, reference)

    def launch(self, function: Any, *args: Any, cost: float = 0.0) -> None:
        """Run a compiled function on C-contiguous arrays and on numbers.

        cost  nanoseconds that it would take one thread, roughly: says whether the others are woken
        """
        if isinstance(function, Parallel):
            shared = self.threads > 1 and cost > self.shared
            function, args = (function.together, (*args, self.threads)) if shared else (function.alone, (*args, 1))
        function(*args)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of step memory, to be written before it is read."""
        return self.memory.empty(shape, dtype)

    def out(self, slot: Slot, like: Array) -> Array:
        """Where to write a gradient of the shape of `like`: where the slot says, else step memory."""
        return slot.out if slot.out is not None else self.empty(like.shape, like.dtype)

    def contiguous(self, x: Any) -> Any:
        """x itself where it is C-contiguous and writeable, as compiled functions take it, or no array; else a copy."""
        if type(x) is not np.ndarray or (x.flags.c_contiguous and x.flags.writeable):
            return x
        copy = self.empty(x.shape, x.dtype)
        np.copyto(copy, x)
        return copy

    def describe(self) -> str:
        """The device in words."""
        return f"cpu, kernels on {self.threads} thread{'s' * (self.threads > 1)}"
