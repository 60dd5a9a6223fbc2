"""A GPU with kernels: which of them stands in for an op, and how they are launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.backend.cuda import CupyBackend
from gpubackprop.kernels.cuda.driver import REAL, CupyDriver, Driver, Function, Size, Source
from gpubackprop.kernels.cuda.kernel import KERNELS, RULES
from gpubackprop.tape import Op, Slot


class CudaKernels(Backend):
    """What a backend with kernels of this folder has, whatever its arrays are and whoever compiles."""

    driver: Driver

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._compiled: dict[tuple[str, str], Mapping[str, Function]] = {}

    def pair(self, op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> Op:
        """The kernel for `op` where there is one that fits, else the reference."""
        kernel = KERNELS.get(op)
        return kernel if kernel is not None and kernel.fits(arrays, options) else op

    def rule(self, reference: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in for a function that is not an op, else the function itself."""
        return RULES.get(reference, reference)

    def launch(self, source: Source, name: str, dtype: Any, grid: Size, block: Size, *args: Any) -> None:
        """Run the kernel of this name for numbers of this dtype; all of a source are compiled at once."""
        if 0 in grid:  # nothing to do, and CUDA refuses it
            return
        real = REAL[dtype.name]
        if (source.file, real) not in self._compiled:
            names = [each.format(real=real) for each in source.names]
            self._compiled[source.file, real] = self.driver.functions(source.file, names)
        self._compiled[source.file, real][name.format(real=real)](grid, block, args)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array to be written before it is read."""
        return self.xp.empty(shape, dtype)

    def out(self, slot: Slot, shape: tuple[int, ...], dtype: Any) -> Array:
        """Where to write a gradient: where the slot says, if a kernel can write there."""
        given = slot.out
        return given if given is not None and given.flags.c_contiguous else self.empty(shape, dtype)

    def contiguous(self, x: Any) -> Any:
        """x itself where it is C-contiguous, as kernels take it, or None; else a copy."""
        if x is None or x.flags.c_contiguous:
            return x
        copy = self.empty(x.shape, x.dtype)
        self.assign(copy, x)
        return copy


class CudaBackend(CudaKernels, CupyBackend):
    """GPU number `index`, with kernels. Raises DeviceError with CUDA's own reason where it cannot be used."""

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        self.driver = CupyDriver()
