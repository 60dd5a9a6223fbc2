"""An NVIDIA GPU, by CuPy. CuPy takes a second to import: only choosing this backend does."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy.typing as npt

from gpubackprop.backend import machine
from gpubackprop.backend.base import Array, Backend, HostArray
from gpubackprop.backend.faults import faults, install, of_driver, too_old
from gpubackprop.backend.machine import dotted
from gpubackprop.errors import DeviceError

INSTALL = "install the CUDA extra in a checkout: pip install '.[cuda13]' (CUDA 12 drivers: '.[cuda12]')"


class CupyBackend(Backend):
    """GPU number `index`. Raises DeviceError with CUDA's own reason where it cannot be used."""

    name = "cupy"
    asynchronous = True
    scratch = 256 << 20  # a GPU wants few large launches

    def __init__(self, index: int = 0) -> None:
        cupy = import_cupy()
        count = device_count()
        if index >= count:
            raise DeviceError(
                f"cuda:{index} does not exist: this machine has {count} GPU(s), cuda:0 to cuda:{count - 1}"
            )
        self._cupy, self._index = cupy, index
        found = cupy.cuda.runtime.getDeviceProperties(index)
        if (reason := too_old((found["major"], found["minor"]))) is not None:
            raise DeviceError(f"cuda:{index} ({found['name'].decode()}) is not supported: {reason}")
        self.device, self.xp = f"cuda:{index}", cupy
        cupy.cuda.Device(index).use()
        self._erf = cupy.ElementwiseKernel("T x", "T y", "y = erf(x)", "gpubackprop_erf")

    def erf(self, x: Array) -> Array:
        """The error function: CUDA's own. CuPy's would ask for SciPy."""
        return self._erf(x)

    def from_host(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """A copy in the GPU's memory."""
        with self.running():
            return self._cupy.asarray(array, dtype)

    def to_host(self, array: Array) -> HostArray:
        """A copy in the host's memory; waits for the GPU."""
        with self.running():
            return self._cupy.asnumpy(array)  # type: ignore[no-any-return]  # CuPy ships no types

    def owns(self, array: object) -> bool:
        """Whether this is a CuPy array."""
        return isinstance(array, self._cupy.ndarray)

    def running(self) -> AbstractContextManager[Any]:
        """On this GPU, whichever is the thread's own."""
        return self._cupy.cuda.Device(self._index)  # type: ignore[no-any-return]  # CuPy ships no types

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self._cupy.cuda.get_current_stream().synchronize()

    def capacity(self) -> tuple[int, int] | None:
        """As the driver counts: what other programs hold is not free either."""
        free, total = self._cupy.cuda.Device(self._index).mem_info
        return int(free), int(total)

    def describe(self) -> str:
        """`cuda:0 (NVIDIA H100, 79 GiB, compute capability 9.0, driver for CUDA 13.1, CuPy 14.2 for CUDA 13.0)`."""
        found, runtime = self._cupy.cuda.runtime.getDeviceProperties(self._index), self._cupy.cuda.runtime
        return (
            f"{self.device} ({found['name'].decode()}, {found['totalGlobalMem'] / 2**30:.0f} GiB, "
            f"compute capability {found['major']}.{found['minor']}, "
            f"driver for CUDA {dotted(runtime.driverGetVersion())}, "
            f"CuPy {self._cupy.__version__} for CUDA {dotted(runtime.runtimeGetVersion())})"
        )


def import_cupy() -> Any:
    """CuPy, or a DeviceError that says how to install it, and what else is missing."""
    try:
        import cupy
    except ImportError as error:
        found = machine.look()
        driver = of_driver(found)
        first = f": first, {driver}; then " if driver else "; "
        raise DeviceError(f"device cuda needs CuPy ({error}){first}{install(found)}") from error
    return cupy


def device_count() -> int:
    """How many GPUs CUDA sees; DeviceError with the runtime's own error name, and the remedy, where it sees none."""
    cupy = import_cupy()
    try:
        # cupy.is_available() swallows the reason; this call raises it.
        count: int = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's wheels raise different classes where the driver's library is missing
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DeviceError(f"no usable NVIDIA GPU: {reason}{_because()}") from error
    if count == 0:
        raise DeviceError(f"no usable NVIDIA GPU: cudaErrorNoDevice: CUDA sees no device{_because()}")
    return count


def _because() -> str:
    """The first of the machine's faults, and what mends it."""
    found = next((fault for fault in faults(machine.look()) if fault.fatal), None)
    return f" ({found.reason}); {found.remedy}" if found else "; `gpubackprop doctor` shows what is there"
