"""Kernels for NVIDIA GPUs: CUDA C++ beside the Python that launches it, compiled at first use.

**Nothing in this folder has ever run on a GPU.** What has been run: all of it, on a double of CuPy and of cuBLASLt
(tests/kernels/cuda), which compiles the same `.cu` files with the C++ compiler, executes a block's threads as fibers
and puts captured work off as CUDA does; and NVIDIA's compiler, for sm_75 to sm_100. What has not: CuPy itself, so that
it takes sources and arguments as they are given here is read, not seen; what only hardware does, as warps that really
run at once; and every choice of grid and block as to its speed.

A family is a `.cu` file and the `.py` file of its name, which enters pairs and rules into the table of `kernel.py`;
`common.cuh` is what the sources share, `philox.cuh` draws random numbers, `lines.cuh` sums down columns, `columns.cuh`
is for threads that go down rows of channels, `totals.cuh` says how losses count. What works on the flat buffers does so
by the tables of `chunks.py`, all params in a launch. `driver.py` compiles, `capture.py` makes a step a CUDA graph,
`feed.py` brings it data, `cublaslt.py` and `matmul*.py` multiply. `cudnn*.py` does what cuDNN has plans for, where it
is installed; `candidates.py` asks a measurement whether that is quicker.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from gpubackprop.backend import Backend


def load(index: int = 0) -> Backend:
    """GPU number `index` with all kernels. Raises DeviceError where it, or a library, cannot be used."""
    for module in iter_modules(__path__):  # each family enters its own into the table
        import_module(f"{__name__}.{module.name}")
    from gpubackprop.kernels.cuda.backend import CudaBackend

    return CudaBackend(index)
