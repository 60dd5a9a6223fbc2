"""NVIDIA's package for cuDNN: whether it is there, and the GPU as its plans are made for."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend.cuda import INSTALL
from gpubackprop.errors import DeviceError
from gpubackprop.kernels.cuda import cudnn_attention, cudnn_conv, cudnn_norm  # noqa: F401  # they enter their pairs
from gpubackprop.kernels.cuda.cudnn import Cudnn, kept_plans


def import_cudnn() -> Any:
    """The package `cudnn` with the library behind it, or a DeviceError that says what is missing."""
    try:
        import cudnn
    except ImportError as error:
        raise DeviceError(f"no cuDNN: nvidia-cudnn-frontend is missing ({error}); {INSTALL}") from error
    try:
        cudnn.backend_version_string()
    except Exception as error:  # the binding's own classes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"no cuDNN: its library, nvidia-cudnn-cu13 or -cu12, can't be loaded ({reason}); {INSTALL}"
        ) from error
    return cudnn


def describe() -> str:
    """`cuDNN 9.28.1 (nvidia-cudnn-frontend 1.28.0)`, or why there is none and what to install."""
    try:
        cudnn = import_cudnn()
    except DeviceError as error:
        return str(error)
    return f"cuDNN {cudnn.backend_version_string()} (nvidia-cudnn-frontend {cudnn.__version__})"


def cudnn_for(b: Any, float32: str = "float32") -> Cudnn:
    """cuDNN on the GPU of a CudaBackend, which is the current one. Raises DeviceError where there is none."""
    library = import_cudnn()
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return Cudnn(
        library,
        address=lambda array: int(array.data.ptr),
        empty=lambda count: b.empty((count,), cupy.dtype(cupy.uint8)),
        stream=lambda: int(cupy.cuda.get_current_stream().ptr),
        machine=f"{properties['name'].decode()} {properties['multiProcessorCount']}",
        handle=library.create_handle(),
        folder=kept_plans(),
        float32=float32,
    )
