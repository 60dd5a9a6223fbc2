"""What this machine has for CuPy, found without it: driver, GPUs, packages, CUDA's libraries. `faults` judges it."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

#: What of CUDA is loaded, by its own names. CuPy brings the runtime, Thrust and CUB; the other libraries are for random
#: numbers, FFT, solvers and sparse matrices, which are not used here.
LIBRARIES = ("nvrtc", "cublasLt", "cublas")


class Card(NamedTuple):
    """A GPU as the driver knows it."""

    name: str
    capability: tuple[int, int]  #: compute capability, (9, 0) for an H100
    memory: int  #: bytes


class Driver(NamedTuple):
    """What the driver's library, libcuda.so.1, says."""

    cuda: int  #: the newest CUDA that it knows, 13010 for 13.1
    refusal: str  #: the name of its error where it does not start, else ""
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Machine:
    """All that is to be known of a machine, to say why it has no usable GPU; tests make machines of every kind."""

    module: str | None = None  #: the version of the driver's kernel module
    driver: Driver | None = None  #: None: there is no libcuda.so.1
    nodes: bool = False  #: whether there is a /dev/nvidia0 or the like
    readable: bool = True  #: whether this user may open it
    container: bool = False
    visible: str | None = None  #: CUDA_VISIBLE_DEVICES
    wheels: tuple[str, ...] = ()  #: CuPy's distributions, "cupy-cuda13x 14.2.0"
    libraries: Mapping[str, str] = field(default_factory=dict)  #: where those of LIBRARIES are that can be loaded
    headers: bool = False  #: whether cuda_fp16.h is there, which CuPy compiles with where there are 16-bit floats
    compiles: int = 0  #: the newest compute capability that NVRTC knows, 121 for 12.1; 0: unknown

    @property
    def wheel(self) -> str:
        """The name of CuPy's distribution, "" where it is not installed."""
        return self.wheels[0].split()[0] if self.wheels else ""

    @property
    def major(self) -> int:
        """The CUDA that CuPy was built for; 0 where that is not known, of builds from source and of conda."""
        found = re.search(r"cuda(\d+)x", self.wheel)
        return int(found[1]) if found else 0


def dotted(version: int) -> str:
    """ "13.1" of 13010, as CUDA counts."""
    return f"{version // 1000}.{version % 1000 // 10}"


def look() -> Machine:
    """This machine."""
    nodes = sorted(Path("/dev").glob("nvidia[0-9]*")) + [path for path in (Path("/dev/dxg"),) if path.exists()]
    found = libraries()
    return Machine(
        module=module_version(),
        driver=ask_driver(),
        nodes=bool(nodes),
        readable=all(os.access(node, os.R_OK | os.W_OK) for node in nodes),
        container=in_container(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        wheels=wheels(),
        libraries=found,
        headers=headers(),
        compiles=newest_known(found.get("nvrtc")),
    )


def module_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """ "580.65.06"; containers see it too."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)*\b", path.read_text())
    except OSError:
        return None
    return found[0] if found else None


def in_container(root: Path = Path("/")) -> bool:
    """Whether Docker, Podman or Kubernetes says so."""
    marks = (root / ".dockerenv", root / "run/.containerenv", root / "var/run/secrets/kubernetes.io")
    return any(mark.exists() for mark in marks)


def ask_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver | None:
    """The driver's own words; it makes no context on a GPU."""
    try:
        cuda = load("libcuda.so.1")
    except OSError:
        return None
    number = partial(_number, cuda)
    version = number("cuDriverGetVersion")
    if code := cuda.cuInit(0):
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(name))
        return Driver(version, (name.value or f"error {code}".encode()).decode(), ())
    return Driver(version, "", tuple(_card(cuda, index) for index in range(number("cuDeviceGetCount"))))


def _card(cuda: Any, index: int) -> Card:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (_number(cuda, "cuDeviceGetAttribute", attribute, device) for attribute in (75, 76))
    return Card(name.value.decode(), (major, minor), memory.value)


def _number(library: Any, function: str, *arguments: Any) -> int:
    found = ctypes.c_int()
    getattr(library, function)(ctypes.byref(found), *arguments)
    return found.value


def wheels() -> tuple[str, ...]:
    """CuPy's distributions; more than one shadow each other."""
    named = {((found.metadata["Name"] or "").replace("_", "-"), found.version) for found in metadata.distributions()}
    return tuple(sorted(f"{name} {v}" for name, v in named if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name)))


def libraries() -> dict[str, str]:
    """Where CUDA's libraries are that can be loaded, as CuPy and this package look for them."""
    try:
        from cuda import pathfinder
    except ImportError:  # CuPy's own dependency since version 14
        return {}
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = str(pathfinder.load_nvidia_dynamic_lib(name).abs_path)
        except (RuntimeError, OSError):  # not found, or found and not to be loaded
            continue
    return found


def headers() -> bool:
    """Whether CUDA's headers are there."""
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError:
        return False
    folder = find_nvidia_header_directory("cudart")
    return folder is not None and Path(folder, "cuda_fp16.h").exists()


def newest_known(nvrtc: str | None) -> int:
    """The newest compute capability that a library compiles for, 0 where it does not say."""
    if nvrtc is None:
        return 0
    library = ctypes.CDLL(nvrtc)
    count = _number(library, "nvrtcGetNumSupportedArchs")
    known = (ctypes.c_int * count)()
    library.nvrtcGetSupportedArchs(known)
    return max(known, default=0)
