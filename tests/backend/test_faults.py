"""What is said of machines of every kind: one case, what is wrong first, and what mends it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpubackprop.backend.faults import REFUSALS, faults, install
from gpubackprop.backend.machine import Card, Driver, Machine

H100, CARD = Card("NVIDIA H100", (9, 0), 80 << 30), Card("a card of 2017", (7, 0), 16 << 30)
FOUND = {name: f"/site-packages/nvidia/cu13/lib/lib{name}.so.13" for name in ("nvrtc", "cublasLt", "cublas")}
GOOD = Machine(
    module="580.65.06",
    driver=Driver(13000, "", (H100,)),
    nodes=True,
    wheels=("cupy-cuda13x 14.2.0",),
    libraries=FOUND,
    headers=True,
    compiles=121,
)
NO_DEVICE = Driver(13000, "CUDA_ERROR_NO_DEVICE", ())
BARE = Machine(wheels=GOOD.wheels, libraries=FOUND, headers=True)
EXTRA = "pip install '.[cuda{}]' in a checkout of gpubackprop"
OLD_LIBRARIES = {name: f"/site-packages/nvidia/{name}/lib/lib{name}.so.12" for name in FOUND}
ALL, ALL12 = (f"nvidia-cuda-nvrtc{cu} nvidia-cublas{cu} nvidia-cuda-runtime{cu}" for cu in ("", "-cu12"))

CASES = {
    "no driver": (BARE, "no NVIDIA driver", "install it from https://www.nvidia.com/drivers (580 or newer for CUDA 13"),
    "no driver on the host of a container": (
        replace(BARE, container=True),
        "this container sees no NVIDIA driver",
        "install it on the host, and start with docker run --gpus all …",
    ),
    "a container without --gpus": (
        replace(GOOD, driver=None, nodes=False, container=True),
        "the container was started without the GPU",
        "docker run --gpus all …",
    ),
    "a container without the driver's library": (
        replace(GOOD, driver=None, container=True),
        "the container has the GPU without libcuda.so.1",
        "--env NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ),
    "no libcuda": (
        replace(GOOD, driver=None),
        "the driver's library libcuda.so.1 is missing",
        "install the driver 580.65.06 whole",
    ),
    "an old driver for this CuPy": (
        replace(GOOD, module="550.54.15", driver=Driver(12040, "", (H100,))),
        "the driver 550.54.15 knows CUDA up to 12.4, and cupy-cuda13x needs 13",
        f"update it to 580 or newer, or pip uninstall -y cupy-cuda13x {ALL} && {EXTRA.format(12)}",
    ),
    "an old driver for any": (
        replace(GOOD, module="470.57.02", driver=Driver(11040, "", (H100,))),
        "the driver 470.57.02 knows CUDA up to 11.4",
        "update it to 525 or newer, for CUDA 13 to 580",
    ),
    "hidden": (
        replace(GOOD, driver=NO_DEVICE, visible="-1"),
        "CUDA_VISIBLE_DEVICES='-1' hides every GPU",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    "no module": (
        replace(GOOD, driver=NO_DEVICE, module=None, nodes=False),
        "the driver's kernel module is not loaded",
        "sudo modprobe nvidia",
    ),
    "no permission": (
        replace(GOOD, driver=NO_DEVICE, readable=False),
        "the driver says CUDA_ERROR_NO_DEVICE",
        "this user may not open /dev/nvidia*",
    ),
    "no GPU": (replace(GOOD, driver=NO_DEVICE), "the driver says CUDA_ERROR_NO_DEVICE", "nvidia-smi shows"),
    "no CuPy": (replace(GOOD, wheels=()), "CuPy is not installed", EXTRA.format(13)),
    "no CuPy for an older driver": (
        replace(GOOD, wheels=(), driver=Driver(12080, "", (H100,))),
        "CuPy is not installed",
        EXTRA.format(12),
    ),
    "two CuPys": (
        replace(GOOD, wheels=("cupy-cuda12x 14.2.0", "cupy-cuda13x 14.2.0")),
        "2 CuPy packages shadow each other",
        f"pip uninstall -y cupy-cuda12x cupy-cuda13x {ALL12} && {EXTRA.format(13)}",
    ),
    "AMD's CuPy": (
        replace(GOOD, wheels=("cupy-rocm-5-0 13.0",)),
        "cupy-rocm-5-0 is for AMD's GPUs",
        "pip uninstall -y cupy-rocm-5-0 ",
    ),
    "CuPy for 12, libraries of 13": (
        replace(GOOD, wheels=("cupy-cuda12x 14.2.0",)),
        "nvrtc, cublasLt, cublas of CUDA 13 beside cupy-cuda12x",
        f"pip uninstall -y nvidia-cuda-nvrtc nvidia-cublas && pip install --force-reinstall {ALL12}",
    ),
    "CuPy for 13, libraries of 12": (
        replace(GOOD, libraries=OLD_LIBRARIES),
        "nvrtc, cublasLt, cublas of CUDA 12 beside cupy-cuda13x",
        f"pip uninstall -y nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12 && pip install --force-reinstall {ALL}",
    ),
    "no NVRTC": (
        replace(GOOD, libraries={name: path for name, path in FOUND.items() if name != "nvrtc"}),
        "nvrtc cannot be found",
        "pip install --force-reinstall nvidia-cuda-nvrtc",
    ),
    "no cuBLASLt": (
        replace(GOOD, wheels=("cupy-cuda12x 14",), libraries={"nvrtc": "/libnvrtc.so.12"}),
        "cublasLt, cublas cannot be found",
        "pip install --force-reinstall nvidia-cublas-cu12",
    ),
    "no headers": (
        replace(GOOD, headers=False),
        "CUDA's headers cannot be found",
        "pip install --force-reinstall nvidia-cuda-runtime",
    ),
    "an old GPU": (
        replace(GOOD, driver=Driver(13000, "", (H100, CARD))),
        "cuda:1 (a card of 2017): compute capability 7.0, and 7.5 (Turing) is the oldest supported",
        "take a newer GPU, or device: cpu",
    ),
    "a GPU newer than NVRTC": (
        replace(GOOD, compiles=89),
        "cuda:0 (NVIDIA H100) is newer than NVRTC, so that the driver translates the kernels",
        "pip install --upgrade nvidia-cuda-nvrtc nvidia-cublas",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_a_machine(case):
    machine, reason, remedy = CASES[case]
    first = next(faults(machine))
    assert first.reason == reason
    assert first.remedy.startswith(remedy) or remedy in first.remedy
    assert str(first) == f"{first.reason}: {first.remedy}"


def test_nothing_is_said_of_a_good_one():
    assert list(faults(GOOD)) == []
    assert list(faults(replace(GOOD, visible="0", container=True, module=None, nodes=False))) == [], "it works"
    twelve = replace(GOOD, wheels=("cupy-cuda12x 14.2.0",), libraries=OLD_LIBRARIES)
    assert list(faults(twelve)) == [], "a new driver takes an older CUDA"
    assert list(faults(replace(twelve, driver=Driver(12020, "", (H100,)), module="535.1"))) == []
    assert list(faults(replace(GOOD, wheels=("cupy 14.2.0",), libraries=OLD_LIBRARIES))) == [], "conda's CuPy"


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_driver_says_has_a_remedy(name):
    (fault,) = faults(replace(GOOD, driver=Driver(13000, name, ())))
    assert fault == (f"the driver says {name}", REFUSALS[name], True)


def test_the_driver_comes_before_the_packages():
    reasons = [fault.reason for fault in faults(Machine())]
    assert reasons == ["no NVIDIA driver", "CuPy is not installed"]
    assert install(Machine(module="550.54.15")) == EXTRA.format(12)
    assert install(Machine()) == EXTRA.format(13)
    assert [fault.fatal for fault in faults(CASES["an old GPU"][0])] == [False]
