"""Devices: one object per device, chosen when a model is built. See `base.Backend`."""

from __future__ import annotations

import os
import re
from importlib import import_module

from gpubackprop.backend import garbage
from gpubackprop.backend.base import Array, Backend, HostArray, NumpyBackend
from gpubackprop.errors import DeviceError, UsageError
from gpubackprop.registry import did_you_mean

__all__ = ["Array", "Backend", "HostArray", "NumpyBackend", "choose", "named"]


def named(device: str) -> str:
    """`device` itself. Raises UsageError where it is no device's name; whether the device is there is not asked."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        known = ("auto", "cpu", "cuda")
        hint = "; did you mean 'cuda'?" if "gpu" in device.lower() else did_you_mean(device, known)
        raise UsageError(f"unknown device {device!r}; known: auto, cpu, cuda, cuda:N{hint}")
    return device


#: Where kernels are; by name, since they stand above all floors that choose a backend.
KERNELS, GPU_KERNELS = "gpubackprop.kernels.cpu", "gpubackprop.kernels.cuda"


def cpu(kernels: str = "auto") -> tuple[Backend, str]:
    """The CPU's backend, and what to say of its kernels: `auto` takes them where they can be had, `reference` never.

    The environment variable GPUBACKPROP_KERNELS=reference does as `reference`. Raises UsageError for an unknown value,
    of the variables of kernels too.
    """
    if reference(kernels):
        return NumpyBackend(), "reference kernels, as asked"
    slower = "plain NumPy, without kernels and slower: "
    try:
        with garbage.kept():
            import_module("numba")
    except Exception as error:  # of a NumPy that it does not know, it raises others than ImportError too
        return NumpyBackend(), f"{slower}Numba cannot be imported: {error}"
    try:
        with garbage.kept():
            backend: Backend = import_module(KERNELS).load()
    except ImportError as error:
        if (error.name or "gpubackprop").startswith("gpubackprop"):
            raise  # a mistake of our own, to be seen
        return NumpyBackend(), f"{slower}{error}"
    return backend, backend.describe()


def gpu(index: int, kernels: str = "auto") -> tuple[Backend, str]:
    """The backend of GPU number `index`, and what to say of it and of its kernels; `kernels` as in `cpu`.

    Raises DeviceError where it cannot be used; UsageError as `cpu` does.
    """
    from gpubackprop.backend.cuda import CupyBackend

    plain = CupyBackend(index)
    if reference(kernels):
        return plain, f"{plain.describe()}, reference kernels, as asked"
    try:
        backend: Backend = import_module(GPU_KERNELS).load(index)
    except DeviceError as error:
        return plain, f"{plain.describe()}, plain CuPy, without kernels and slower: {error}"
    return backend, backend.describe()


def reference(kernels: str) -> bool:
    """Whether kernels are turned off, by `kernels: reference` or GPUBACKPROP_KERNELS=reference. Raises UsageError."""
    if kernels not in ("auto", "reference"):
        raise UsageError(f"unknown kernels {kernels!r}; known: auto, reference")
    around = os.environ.get("GPUBACKPROP_KERNELS", "auto")
    if around not in ("auto", "reference"):
        raise UsageError(f"GPUBACKPROP_KERNELS={around}: known: auto, reference")
    return "reference" in (kernels, around)


def choose(device: str, kernels: str = "auto") -> tuple[Backend, str]:
    """The backend for `auto`, `cpu`, `cuda` or `cuda:N`, and one line that says what was chosen and why.

    Raises DeviceError where a GPU was asked for and cannot be used; `auto` falls back to the CPU and says so.
    """
    if device == "cpu":
        backend, words = cpu(kernels)
        return backend, f"device: cpu, as asked; on the CPU: {words}"
    if device == "strict":
        from gpubackprop.backend.strict import StrictBackend

        return StrictBackend(), "device: strict, the test device"
    if device == "auto":
        try:
            backend, words = gpu(0, kernels)
        except DeviceError as error:
            reason = str(error).partition(";")[0]  # the remedy is for those who asked for a GPU; doctor gives it too
            backend, words = cpu(kernels)
            return backend, f"device: cpu, because auto found no GPU ({reason}); on the CPU: {words}"
        return backend, f"device: {words}, because auto found a GPU"
    backend, words = gpu(int(named(device).partition(":")[2] or 0), kernels)
    return backend, f"device: {words}, as asked"
