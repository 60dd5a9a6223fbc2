"""What the GPU, its driver and its libraries are: python -m scripts.gpu.machine, in a process that ends thereafter."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata, util
from typing import Any

from scripts.gpu import ROOT

#: what is named in the results, by distribution; of CuPy one wheel or another
PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "cupy", "torch", "triton", "nvidia-cudnn-frontend", "ml_dtypes")
#: by module, what is not there for lack of it
OPTIONAL = {
    "torch": "the comparison with PyTorch",
    "pydantic": "bench, and the tests that read configs",
    "ruamel.yaml": "bench, and the tests that read configs",
    "pytest": "the test suite",
    "hypothesis": "some tests",
    "ml_dtypes": "bfloat16",
    "cudnn": "cuDNN's convolutions, norms and attention (nvidia-cudnn-frontend)",
    "scipy": "the error function",
    "safetensors": "the tests that write checkpoints",
    "typer": "the tests of the command line",
    "sklearn": "the tests on the digits",
}


class NoGpuError(Exception):
    """There is no GPU that can be used, for the reason that is its text."""


def look() -> dict[str, Any]:
    """The description. Raises NoGpuError with CUDA's own reason."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.gpu.machine"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no word"]
        raise NoGpuError(said[-1].strip())
    return dict(json.loads(lines[-1]))


def missing() -> dict[str, str]:
    """By module that is not installed, what cannot be had without it."""
    return {module: what for module, what in OPTIONAL.items() if not there(module)}


def there(module: str) -> bool:
    """Whether it is installed."""
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def commit() -> str:
    """Of the checkout, with a + where files were changed; where Git does not tell, `unknown`."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    name = _output("git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return (name or "unknown") + ("+" if changed else "")


def _output(*command: str) -> str | None:
    """The first line of what a program says; None where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.splitlines() or [""])[0].strip() if done.returncode == 0 else None


def describe() -> dict[str, Any]:
    """Of this process's GPU."""
    from gpubackprop.backend import choose

    backend, words = choose("cuda")
    runtime = backend.xp.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "gpu": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "memory": properties["totalGlobalMem"],
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion()},
        "backend": words,
        "processors": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
    }


if __name__ == "__main__":
    try:
        print(json.dumps(describe()))
    except Exception as error:  # of CuPy, CUDA and our own, whatever they raise: this is where it is told
        print((str(error) or type(error).__name__).splitlines()[0], file=sys.stderr)
        sys.exit(1)
