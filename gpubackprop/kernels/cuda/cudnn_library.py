"""NVIDIA's package for cuDNN: whether it is there, and the GPU as its plans are made for."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from gpubackprop.backend.cuda import INSTALL
from gpubackprop.errors import DeviceError
from gpubackprop.kernels.cuda.cudnn import Cudnn, kept_plans


def import_cudnn() -> Any:
    """The package `cudnn` with the library behind it, or a DeviceError that says what is missing."""
    try:
        import cudnn
    except ImportError as error:
        raise DeviceError(f"no cuDNN: nvidia-cudnn-frontend is missing ({error}); {INSTALL}") from error
    except Exception as error:  # it opens the library: OSError, and AssertionError where there are two
        raise DeviceError(f"no cuDNN: {_cannot_be_loaded(error)}") from error
    try:
        cudnn.backend_version_string()
    except Exception as error:  # the binding's own classes
        raise DeviceError(f"no cuDNN: {_cannot_be_loaded(error)}") from error
    return cudnn


def _cannot_be_loaded(error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"its library, nvidia-cudnn-cu13 or -cu12, can't be loaded ({reason}); {INSTALL}"


def describe() -> str:
    """`cuDNN 9.28.1 (nvidia-cudnn-frontend 1.28.0)`, or why there is none and what to install."""
    try:
        cudnn = import_cudnn()
    except DeviceError as error:
        return str(error)
    return f"cuDNN {cudnn.backend_version_string()} (nvidia-cudnn-frontend {cudnn.__version__})"


def cudnn_for(cupy: Any, index: int) -> Cudnn | None:
    """cuDNN on GPU number `index`, the current one, None where it cannot be used: `describe` says why, or a warning."""
    try:
        library = import_cudnn()
    except DeviceError:
        return None
    try:
        handle = library.create_handle()
    except Exception as error:  # the binding's own classes: a library that is too old for the driver, say
        warnings.warn(f"no cuDNN: it does not start ({error}); own kernels run in its place", RuntimeWarning, 2)
        return None
    properties = cupy.cuda.runtime.getDeviceProperties(index)
    capability = f"{properties['major']}.{properties['minor']}"
    return Cudnn(
        library,
        address=lambda array: int(array.data.ptr),
        empty=lambda count: cupy.empty((count,), np.uint8),
        stream=lambda: int(cupy.cuda.get_current_stream().ptr),
        machine=f"{properties['name'].decode()} {capability} {properties['multiProcessorCount']}",
        handle=handle,
        folder=kept_plans(),
    )
