"""What this machine has, and what is missing for the rest."""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module
from pathlib import Path

from gpubackprop.backend import NumpyBackend, cpu, gpu, machine
from gpubackprop.backend.cuda import device_count
from gpubackprop.backend.faults import Fault, faults
from gpubackprop.backend.machine import Machine, dotted
from gpubackprop.errors import DeviceError
from gpubackprop.kernels.cuda import cudnn_library
from gpubackprop.run.directory import version_of

Findings = list[tuple[str, str]]


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
    """Driver, packages, libraries and GPUs; and what is wrong with them, what is to be mended first before the rest."""
    found = machine.look()
    wrong, cudnn = list(faults(found)), cudnn_library.describe().partition(";")[0]
    findings = [
        ("NVIDIA driver", _driver(found)),
        ("CuPy", ", ".join(found.wheels) or "not installed"),
        *((name, found.libraries.get(name, "not found")) for name in machine.LIBRARIES),
        ("CUDA headers", "found" if found.headers else "not found"),
        ("cuDNN", cudnn),
    ]
    if found.visible is not None:
        findings.append(("CUDA_VISIBLE_DEVICES", repr(found.visible)))
    try:
        findings += [("GPU", _tried(index)) for index in range(device_count())]
    except DeviceError as error:
        fault = next((each for each in wrong if each.fatal), None)
        findings.append(("GPU", f"not usable: {fault.reason if fault else error}"))
        wrong += [] if fault else [Fault("CUDA sees none", str(error))]
    if found.wheels and cudnn.startswith("no cuDNN"):
        packages = f"nvidia-cudnn-cu{found.major or 13} 'nvidia-cudnn-frontend==1.28.*'"
        wrong.append(Fault("without cuDNN own kernels do convolutions and attention", f"pip install {packages}"))
    return findings, [f"GPU: {each}" for each in wrong]


def _driver(found: Machine) -> str:
    driver = found.driver
    if driver is None:
        return f"{found.module}, without libcuda.so.1" if found.module else "none"
    knows = f"for CUDA up to {dotted(driver.cuda)}"
    return f"{found.module}, {knows}" if found.module else f"{knows}, its kernel module is not seen"


def _tried(index: int) -> str:
    """GPU number `index` in words, after a kernel was compiled and run on it."""
    try:
        backend, words = gpu(index)
        with backend.running():
            backend.to_host(backend.erf(backend.from_host([0.5], "float32")))
    except Exception as error:  # whatever goes wrong is what is asked for
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"cuda:{index} is not usable: {reason}"
    return f"{words}; a kernel was compiled and run"
