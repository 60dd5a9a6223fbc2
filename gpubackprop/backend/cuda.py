"""An NVIDIA GPU, by CuPy. CuPy takes a second to import: only choosing this backend does."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy.typing as npt

from gpubackprop.backend.base import Array, Backend, HostArray
from gpubackprop.errors import DeviceError

INSTALL = "install the CUDA extra: pip install 'gpubackprop[cuda13]' (CUDA 12 drivers: 'gpubackprop[cuda12]')"


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

    def describe(self) -> str:
        """`cuda:0 (NVIDIA H100, 79 GiB, CUDA 13.0, CuPy 14.2)`."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._index)
        cuda = self._cupy.cuda.runtime.runtimeGetVersion()
        memory = properties["totalGlobalMem"] / 2**30
        return (
            f"{self.device} ({properties['name'].decode()}, {memory:.0f} GiB, "
            f"CUDA {cuda // 1000}.{cuda % 1000 // 10}, CuPy {self._cupy.__version__})"
        )


def import_cupy() -> Any:
    """CuPy, or a DeviceError that says how to install it."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(f"device cuda needs CuPy ({error}); {INSTALL}") from error
    return cupy


def device_count() -> int:
    """How many GPUs CUDA sees; DeviceError with the runtime's own error name where it sees none."""
    cupy = import_cupy()
    try:
        # cupy.is_available() swallows the reason; this call raises it.
        count: int = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's wheels raise different classes where the driver's library is missing
        raise DeviceError(f"no usable NVIDIA GPU: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if count == 0:
        raise DeviceError(
            "no usable NVIDIA GPU: cudaErrorNoDevice: CUDA sees no device (is CUDA_VISIBLE_DEVICES empty?)"
        )
    return count
