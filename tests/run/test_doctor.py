"""What doctor says on machines of many kinds."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from gpubackprop.backend import choose
from gpubackprop.backend import machine as machines
from gpubackprop.errors import DeviceError
from gpubackprop.run import doctor
from tests.backend.test_faults import GOOD
from tests.kernels.cuda.device import COMPILER, doubles


@pytest.fixture
def machine():
    """machine(found, cupy): what doctor finds on a machine, as a dict, and its remedies."""

    def describe(found=None, cupy=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machines, "look", lambda: found or machines.Machine())
            patch.setitem(sys.modules, "cupy", cupy)
            findings, remedies = doctor.report()
        return dict(findings), remedies

    return describe


class NoDevice:
    class cuda:
        class runtime:
            @staticmethod
            def getDeviceCount():
                raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected\nmore")


def test_names_what_every_machine_has(machine):
    found, _ = machine()
    for name in ("Python", "platform", "processor", "memory", "NumPy", "BLAS", "Numba", "safetensors"):
        assert found[name]
        assert "not installed" not in found[name]
    assert found["memory"].endswith("GiB")
    assert "logical cores" in found["processor"]


def test_no_cupy_and_no_driver(machine):
    found, remedies = machine()
    assert (found["NVIDIA driver"], found["CuPy"], found["GPU"]) == (
        "none",
        "not installed",
        "not usable: no NVIDIA driver",
    )
    driver, wheel = remedies
    assert driver.startswith("GPU: no NVIDIA driver: install it from")
    assert wheel == "GPU: CuPy is not installed: pip install '.[cuda13]' in a checkout of gpubackprop"


def test_what_is_there_is_named(machine):
    hidden = replace(GOOD, driver=machines.Driver(13010, "CUDA_ERROR_NO_DEVICE", ()), visible="")
    found, (remedy, cudnn) = machine(hidden, NoDevice)
    assert found["NVIDIA driver"] == "580.65.06, for CUDA up to 13.1"
    assert found["CuPy"] == "cupy-cuda13x 14.2.0"
    assert found["nvrtc"].endswith("libnvrtc.so.13")
    assert found["CUDA headers"] == "found"
    assert found["CUDA_VISIBLE_DEVICES"] == "''"
    assert found["GPU"] == "not usable: CUDA_VISIBLE_DEVICES='' hides every GPU"
    assert remedy.startswith("GPU: CUDA_VISIBLE_DEVICES='' hides every GPU: unset CUDA_VISIBLE_DEVICES")
    assert cudnn.endswith("pip install nvidia-cudnn-cu13 'nvidia-cudnn-frontend==1.28.*'")


def test_what_cuda_alone_knows(machine):
    found, (remedy, _) = machine(GOOD, NoDevice)
    assert "cudaErrorNoDevice: no CUDA-capable device is detected" in found["GPU"]
    assert remedy.startswith("GPU: CUDA sees none: no usable NVIDIA GPU: cudaErrorNoDevice")


def test_a_driver_in_pieces(machine):
    assert machine(replace(GOOD, driver=None))[0]["NVIDIA driver"] == "580.65.06, without libcuda.so.1"
    without = replace(GOOD, module=None)
    assert machine(without)[0]["NVIDIA driver"] == "for CUDA up to 13.0, its kernel module is not seen"


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the test device executes kernels by it")
def test_a_gpu_is_tried(machine):
    with doubles() as cupy:
        found, _ = machine(GOOD, cupy)
        assert found["GPU"].startswith(
            "cuda:0 (a double, 80 GiB, compute capability 9.0, driver for CUDA 13.1, CuPy 14.2"
        )
        assert found["GPU"].endswith("no cuDNN (doctor says why), own kernels); a kernel was compiled and run")
        cupy.ElementwiseKernel = None
        assert machine(GOOD, cupy)[0]["GPU"].startswith("cuda:0 is not usable: ")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the test device executes kernels by it")
def test_a_gpu_that_is_too_old_is_refused(monkeypatch):
    with doubles() as cupy:
        old = {"name": b"a card of 2017", "major": 7, "minor": 0}
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda index: old)
        with pytest.raises(
            DeviceError, match=r"cuda:0 \(a card of 2017\) is not supported: compute capability 7.0, and 7.5"
        ):
            choose("cuda")


def test_the_command(capsys):
    from gpubackprop.cli.config import doctor as command

    command()
    out, err = capsys.readouterr()
    assert (out.startswith("gpubackprop"), err) == (True, "")  # the remedies are part of the answer
    findings, remedies = doctor.report()
    assert out.splitlines()[len(findings) :] == remedies


def test_the_kernel_cache(machine, monkeypatch, tmp_path):
    pytest.importorskip("numba", reason="Numba, which compiles the kernels, is not installed")
    monkeypatch.delenv("GPUBACKPROP_KERNELS", raising=False)
    from gpubackprop.kernels.cpu import jit  # behind the check that Numba is there

    folder = tmp_path / "kernels" / "digest"
    folder.mkdir(parents=True)
    (folder / "kept").write_bytes(bytes(3 << 19))
    monkeypatch.setattr(jit, "FOLDER", folder)
    assert machine()[0]["kernel cache"] == f"{folder.parent} (1.5 MiB, writable)"
    monkeypatch.setattr(jit, "FOLDER", None)
    found, remedies = machine()
    assert found["kernel cache"].startswith("none: no folder is writable")
    assert found["kernel cache"].endswith("GPUBACKPROP_CACHE")
    assert not [line for line in remedies if line.startswith("CPU")]
    monkeypatch.setenv("GPUBACKPROP_KERNELS", "reference")
    assert "kernel cache" not in machine()[0]
