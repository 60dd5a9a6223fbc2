"""What this machine has, and what is missing for the rest."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from gpubackprop.backend import NumpyBackend, cpu
from gpubackprop.errors import DeviceError
from gpubackprop.run.directory import version_of

Findings = list[tuple[str, str]]

MINIMUM_DRIVER = {12: "525", 13: "580"}  #: of Linux drivers, by CUDA major version (CUDA's release notes)


def report() -> tuple[Findings, list[str]]:
    """(name, value) pairs, and the remedies of what is missing, each one line."""
    findings: Findings = [
        ("gpubackprop", version_of("gpubackprop") or "not installed (run from a checkout)"),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        ("processor", f"{processor()}, {os.cpu_count()} logical cores, {usable()} usable"),
        ("memory", _memory()),
        *_blas(),
        *_kernels(),
        *((name, version_of(name) or "not installed") for name in ("safetensors", "tensorboardX")),
    ]
    gpu, remedies = _gpu()
    found, words = cpu()
    if type(found) is NumpyBackend and "as asked" not in words:
        reason = words.partition(": ")[2]
        install = "; pip install 'numba>=0.68,<0.70'" if reason.startswith("Numba cannot be imported") else ""
        remedies = [f"CPU: several times slower without compiled kernels: {reason}{install}", *remedies]
    return findings + gpu, remedies


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def usable() -> int:
    """How many logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * size / 2**30:.1f} GiB"


def _blas() -> Findings:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))  # the library is known once it is loaded
    findings = [("NumPy", np.__version__)]
    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            name = f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'unknown')})"
            findings.append(("BLAS", f"{name}, {pool['num_threads']} threads"))
            break
    set_ = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ]
    return [*findings, ("thread variables", " ".join(set_) or "none set")]


def _kernels() -> Findings:
    """What compiles the CPU's kernels, and how its threads are run."""
    backend, words = cpu()
    found = [("Numba", version_of("numba") or "not installed"), ("CPU kernels", words)]
    if type(backend) is NumpyBackend:
        return found
    return [*found, ("kernel cache", _kernel_cache()), ("thread library", _thread_library())]


def _kernel_cache() -> str:
    """Where compiled kernels are kept, of this version and of others."""
    from gpubackprop.kernels.cpu import jit  # needs Numba

    if jit.FOLDER is None:
        return "none: no folder is writable, so they are compiled at every start; name one in GPUBACKPROP_CACHE"
    size = sum(path.stat().st_size for path in jit.FOLDER.parent.rglob("*") if path.is_file())
    return f"{jit.FOLDER.parent} ({size / 2**20:.1f} MiB, writable)"


def _thread_library() -> str:
    """The one that Numba takes, by its own order."""
    for name, module in (("tbb", "tbbpool"), ("OpenMP", "omppool"), ("workqueue", "workqueue")):
        try:
            import_module(f"numba.np.ufunc.{module}")
        except ImportError:
            continue
        slow = "; small layers gain from OpenMP: install libgomp1 (Debian) or libgomp" if name == "workqueue" else ""
        return f"{name}{slow}"
    return "none"


def _gpu() -> tuple[Findings, list[str]]:
    """Driver, wheels and GPUs; and the one remedy that comes first."""
    driver = _driver()
    wheels = sorted(
        f"{found.metadata['Name']} {found.version}"
        for found in metadata.distributions()
        if re.fullmatch(r"cupy|cupy-cuda\d+x|cupy-rocm.*", found.metadata["Name"] or "")
    )
    findings = [
        ("NVIDIA driver", driver or "none"),
        ("CuPy", ", ".join(wheels) or "not installed"),
    ]
    extra = "cuda12" if driver and int(driver.split(".")[0]) < int(MINIMUM_DRIVER[13]) else "cuda13"
    if len(wheels) > 1:
        names = " ".join(wheel.split()[0] for wheel in wheels)
        line = f"pip uninstall -y {names} && pip install 'gpubackprop[{extra}]'"
        return [*findings, ("GPU", "unknown: two CuPy wheels shadow each other")], [f"GPU: keep one CuPy wheel: {line}"]
    if not wheels:
        reason = "" if driver else "; and this machine shows no NVIDIA driver"
        findings.append(("GPU", "not usable: CuPy is not installed" + reason))
        return findings, [f"GPU: to train on one: pip install 'gpubackprop[{extra}]'{_driver_line(driver)}"]
    return _devices(findings, driver, wheels[0].split()[0])


def _devices(findings: Findings, driver: str | None, wheel: str) -> tuple[Findings, list[str]]:
    from gpubackprop.backend.cuda import CupyBackend, device_count

    libraries, missing = _libraries()
    findings += libraries
    try:
        count = device_count()
    except DeviceError as error:
        findings.append(("GPU", f"not usable: {error}"))
        if driver and "cudaErrorInsufficientDriver" in str(error):
            older = f"pip uninstall -y {wheel} && pip install 'gpubackprop[cuda12]'"
            instead = f", or {older}" if wheel == "cupy-cuda13x" else ""
            return findings, [f"GPU: driver {driver} is too old for this CuPy: update it{instead}"]
        if "lib" in str(error) or "not installed" in str(error):
            return findings, [f"GPU: a CUDA library is missing: pip install --force-reinstall '{wheel}[ctk]'"]
        return findings, [f"GPU: CUDA sees none{_driver_line(driver)}"]
    findings += [("GPU", CupyBackend(index).describe()) for index in range(count)]
    if missing:
        return findings, [f"GPU: {', '.join(missing)} cannot be loaded: pip install --force-reinstall '{wheel}[ctk]'"]
    return findings, []


def _libraries() -> tuple[Findings, list[str]]:
    """The CUDA libraries that CuPy loads when they are first needed, where they are; and those that are not there."""
    try:
        from cuda import pathfinder
    except ImportError:  # CuPy's own dependency since version 14
        return [("CUDA libraries", "unknown: cuda-pathfinder is not installed")], []
    findings, missing = [], []
    for name in ("cudart", "nvrtc", "cublas", "curand"):
        try:
            findings.append((name, str(pathfinder.load_nvidia_dynamic_lib(name).abs_path)))
        except (RuntimeError, OSError):  # not found, or found and not to be loaded
            findings.append((name, "not found"))
            missing.append(name)
    return findings, missing


def _driver_line(driver: str | None) -> str:
    if driver:
        return ""
    return (
        f"; install NVIDIA's driver first ({MINIMUM_DRIVER[13]} or newer for CUDA 13, {MINIMUM_DRIVER[12]} for CUDA 12)"
    )


def _driver() -> str | None:
    """The version of the kernel driver, or what its library says of itself."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        words = []
    version = next((word for word in words if word[0].isdigit() and word.count(".") >= 1), None)
    if version:
        return version
    try:
        library: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    cuda = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(cuda))
    return f"0 (its kernel module is not loaded; libcuda speaks CUDA {cuda.value // 1000})"
