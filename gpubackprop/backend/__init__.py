"""Devices: one object per device, chosen when a model is built. See `base.Backend`."""

from __future__ import annotations

import re

from gpubackprop.backend.base import Array, Backend, HostArray, NumpyBackend
from gpubackprop.errors import DeviceError, UsageError
from gpubackprop.registry import did_you_mean

__all__ = ["Array", "Backend", "HostArray", "NumpyBackend", "choose", "named"]


def named(device: str) -> str:
    """`device` itself. Raises UsageError where it is no device's name; whether the device is there is not asked."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        known = ("auto", "cpu", "cuda")
        raise UsageError(f"unknown device {device!r}; known: auto, cpu, cuda, cuda:N{did_you_mean(device, known)}")
    return device


def choose(device: str) -> tuple[Backend, str]:
    """The backend for `auto`, `cpu`, `cuda` or `cuda:N`, and one line that says what was chosen and why.

    Raises DeviceError where a GPU was asked for and cannot be used; `auto` falls back to the CPU and says so.
    """
    if device == "cpu":
        return NumpyBackend(), "device: cpu, as asked"
    if device == "strict":
        from gpubackprop.backend.strict import StrictBackend

        return StrictBackend(), "device: strict, the test device"
    from gpubackprop.backend.cuda import CupyBackend

    if device == "auto":
        try:
            backend: Backend = CupyBackend()
        except DeviceError as error:
            reason = str(error).partition(";")[0]  # the remedy is for those who asked for a GPU; doctor gives it too
            return NumpyBackend(), f"device: cpu, because auto found no GPU ({reason})"
        return backend, f"device: {backend.describe()}, because auto found a GPU"
    backend = CupyBackend(int(named(device).partition(":")[2] or 0))
    return backend, f"device: {backend.describe()}, as asked"
