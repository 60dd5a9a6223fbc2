"""Why a machine has no usable GPU, and the line that mends it. A `Machine` is judged; nothing is probed here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from gpubackprop.backend.machine import Card, Machine, dotted

DRIVERS = {12: "525", 13: "580"}  #: the oldest driver on Linux for each major version of CUDA, by its release notes
OLDEST = (7, 5)  #: compute capability: what CUDA 13 still knows, and the kernels are compiled for in tests

#: What installs a library of `Machine.libraries`, and the headers; for CUDA 12 with -cu12 behind it.
PACKAGES = {
    "nvrtc": "nvidia-cuda-nvrtc",
    "cublasLt": "nvidia-cublas",
    "cublas": "nvidia-cublas",
    "headers": "nvidia-cuda-runtime",
}

#: What helps where the driver does not start, by the error of cuInit.
REFUSALS = {
    "CUDA_ERROR_STUB_LIBRARY": "libcuda.so.1 is the toolkit's stub: take its folder out of LD_LIBRARY_PATH",
    "CUDA_ERROR_UNKNOWN": "sudo nvidia-modprobe -u (it loads nvidia_uvm), or restart the machine",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver was updated under a running kernel: restart the machine",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "take the folder of cuda-compat out of LD_LIBRARY_PATH",
    "CUDA_ERROR_SYSTEM_NOT_READY": "sudo systemctl start nvidia-fabricmanager",
    "CUDA_ERROR_OPERATING_SYSTEM": "this user may not open /dev/nvidia*: see ls -l /dev/nvidia*",
}


class Fault(NamedTuple):
    """What is wrong, and what mends it; `fatal` unless GPUs can be used all the same."""

    reason: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


def faults(machine: Machine) -> Iterator[Fault]:
    """All that can be told, what has to be mended first before the others."""
    if (driver := of_driver(machine)) is not None:
        yield driver
    if (wheel := of_wheels(machine)) is not None:
        yield wheel
        return
    yield from of_libraries(machine)
    yield from of_cards(machine)


def install(machine: Machine) -> str:
    """The line that installs CuPy and what belongs to it, for this machine's driver."""
    return f"pip install '.[{_extra(machine)}]' in a checkout of gpubackprop"


def of_driver(machine: Machine) -> Fault | None:
    """What stands between CUDA and the GPUs."""
    driver, container = machine.driver, machine.container
    if driver is not None and not driver.refusal:
        return _too_old(machine, driver.cuda)
    if container and not machine.nodes:
        toolkit = "docker run --gpus all … (podman: --device nvidia.com/gpu=all), with NVIDIA's Container Toolkit"
        if machine.module:
            return Fault("the container was started without the GPU", toolkit)
        return Fault("this container sees no NVIDIA driver", f"install it on the host, and start with {toolkit}")
    if driver is None and machine.module is None:
        newest, oldest = DRIVERS[13], DRIVERS[12]
        return Fault(
            "no NVIDIA driver",
            f"install it from https://www.nvidia.com/drivers ({newest} or newer for CUDA 13, {oldest} for CUDA 12)",
        )
    if driver is None:
        if container:
            return Fault(
                "the container has the GPU without libcuda.so.1",
                "docker run --gpus all --env NVIDIA_DRIVER_CAPABILITIES=compute,utility …",
            )
        return Fault(
            "the driver's library libcuda.so.1 is missing",
            f"install the driver {machine.module} whole (Debian: apt install libcuda1; Ubuntu: libnvidia-compute)",
        )
    return _refused(machine, driver.refusal)


def _refused(machine: Machine, refusal: str) -> Fault:
    if refusal == "CUDA_ERROR_NO_DEVICE" and machine.visible is not None:
        return Fault(
            f"CUDA_VISIBLE_DEVICES={machine.visible!r} hides every GPU",
            "unset CUDA_VISIBLE_DEVICES, or name there a number that nvidia-smi lists",
        )
    if machine.nodes and not machine.readable:
        return Fault(f"the driver says {refusal}", REFUSALS["CUDA_ERROR_OPERATING_SYSTEM"])
    if refusal == "CUDA_ERROR_NO_DEVICE" and not machine.module:
        return Fault("the driver's kernel module is not loaded", "sudo modprobe nvidia, or restart the machine")
    return Fault(f"the driver says {refusal}", REFUSALS.get(refusal, "nvidia-smi shows what the driver sees"))


def _too_old(machine: Machine, cuda: int) -> Fault | None:
    driver = f"the driver {machine.module}" if machine.module else "the driver"
    knows = f"{driver} knows CUDA up to {dotted(cuda)}"
    if cuda // 1000 < min(DRIVERS):
        return Fault(knows, f"update it to {DRIVERS[12]} or newer, for CUDA 13 to {DRIVERS[13]}")
    if cuda // 1000 < machine.major:
        update = f"update it to {DRIVERS.get(machine.major, 'the newest')} or newer"
        return Fault(f"{knows}, and {machine.wheel} needs {machine.major}", f"{update}, or {_change(machine)}")
    return None


def of_wheels(machine: Machine) -> Fault | None:
    """What is wrong with CuPy's distributions."""
    if not machine.wheels:
        return Fault("CuPy is not installed", install(machine))
    if len(machine.wheels) > 1:
        return Fault(f"{len(machine.wheels)} CuPy packages shadow each other", _change(machine))
    if "rocm" in machine.wheel:
        return Fault(f"{machine.wheel} is for AMD's GPUs", _change(machine))
    return None


def of_libraries(machine: Machine) -> Iterator[Fault]:
    """CUDA's libraries that are missing, or of another CUDA than CuPy's."""
    major = machine.major
    suffix = "" if major != 12 else "-cu12"
    wrong = [n for n in PACKAGES if (found := _major(machine.libraries.get(n))) and major and found != major]
    if wrong:
        # Of several CUDAs the newest is found first, so that the others have to go.
        others = " ".join(dict.fromkeys(f"{PACKAGES[name]}{'' if suffix else '-cu12'}" for name in wrong))
        needed = " ".join(dict.fromkeys(f"{PACKAGES[name]}{suffix}" for name in PACKAGES))
        yield Fault(
            f"{', '.join(wrong)} of CUDA {_major(machine.libraries[wrong[0]])} beside {machine.wheel}",
            f"pip uninstall -y {others} && pip install --force-reinstall {needed}",
        )
    missing = [name for name in PACKAGES if name not in machine.libraries and name != "headers"]
    missing += [] if machine.headers else ["headers"]
    if missing:
        needed = " ".join(dict.fromkeys(f"{PACKAGES[name]}{suffix}" for name in missing))
        named = ", ".join("CUDA's headers" if name == "headers" else name for name in missing)
        yield Fault(f"{named} cannot be found", f"pip install --force-reinstall {needed}")


def of_cards(machine: Machine) -> Iterator[Fault]:
    """GPUs that are too old, or newer than the compiler."""
    for index, card in enumerate(machine.driver.cards if machine.driver else ()):
        if (reason := too_old(card.capability)) is not None:
            yield Fault(f"cuda:{index} ({card.name}): {reason}", "take a newer GPU, or device: cpu", fatal=False)
        elif machine.compiles and _newer(card, machine.compiles):
            suffix = "-cu12" if machine.major == 12 else ""
            yield Fault(
                f"cuda:{index} ({card.name}) is newer than NVRTC, so that the driver translates the kernels",
                f"pip install --upgrade {PACKAGES['nvrtc']}{suffix} {PACKAGES['cublas']}{suffix}",
                fatal=False,
            )


def too_old(capability: tuple[int, int]) -> str | None:
    """Why a GPU of this compute capability is not supported, None where it is."""
    if capability >= OLDEST:
        return None
    return "compute capability {}.{}, and {}.{} (Turing) is the oldest supported".format(*capability, *OLDEST)


def _newer(card: Card, compiles: int) -> bool:
    return card.capability[0] * 10 + card.capability[1] > compiles


def _major(path: str | None) -> int:
    """13 of `/…/libnvrtc.so.13`; 0 where the name does not say."""
    found = re.search(r"\.so\.(\d+)", path or "")
    return int(found[1]) if found else 0


def _extra(machine: Machine) -> str:
    """The extra for this driver; the newest where there is none."""
    if machine.driver is not None and machine.driver.cuda:
        return "cuda12" if machine.driver.cuda < 13000 else "cuda13"
    return "cuda12" if machine.module and int(machine.module.split(".")[0]) < int(DRIVERS[13]) else "cuda13"


def _change(machine: Machine) -> str:
    """The line that puts the CuPy for this driver in the place of what is there, with CUDA's libraries."""
    extra = _extra(machine)
    other = dict.fromkeys(f"{name}{'' if extra == 'cuda12' else '-cu12'}" for name in PACKAGES.values())
    away = " ".join([*(wheel.split()[0] for wheel in machine.wheels), *other])
    return f"pip uninstall -y {away} && {install(machine)}"
