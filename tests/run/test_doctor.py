"""What doctor says on machines of many kinds."""

from __future__ import annotations

import sys
import types

import pytest

from gpubackprop.run import doctor


def wheel(folder, name, version="14.2.0"):
    """An installed distribution, as far as its metadata goes."""
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(wheels, driver=…, count=…): what doctor finds, as a dict, and its remedies."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def describe(*wheels, driver=None, count=None):
        for name in wheels:
            wheel(tmp_path, name)
        monkeypatch.setattr(doctor, "_driver", lambda: driver)
        cupy = types.SimpleNamespace(
            __version__="14.2.0", cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=count))
        )
        monkeypatch.setitem(sys.modules, "cupy", cupy if count else None)
        findings, remedies = doctor.report()
        return dict(findings), remedies

    return describe


def fails(reason):
    def count():
        raise RuntimeError(reason)

    return count


def test_names_what_every_machine_has(machine):
    found, _ = machine()
    for name in ("Python", "platform", "processor", "memory", "NumPy", "BLAS", "Numba", "safetensors"):
        assert found[name]
        assert "not installed" not in found[name]
    assert found["memory"].endswith("GiB")
    assert "logical cores" in found["processor"]


def test_no_cupy_and_no_driver(machine):
    found, (remedy,) = machine()
    assert found["GPU"] == "not usable: CuPy is not installed; and this machine shows no NVIDIA driver"
    assert "pip install 'gpubackprop[cuda13]'" in remedy
    assert "install NVIDIA's driver first (580 or newer for CUDA 13, 525 for CUDA 12)" in remedy


@pytest.mark.parametrize(("driver", "extra"), [("580.65.06", "cuda13"), ("570.124.06", "cuda12")])
def test_no_cupy_the_extra_goes_by_the_driver(machine, driver, extra):
    found, (remedy,) = machine(driver=driver)
    assert found["NVIDIA driver"] == driver
    assert remedy == f"GPU: to train on one: pip install 'gpubackprop[{extra}]'"


def test_two_cupy_wheels(machine):
    found, (remedy,) = machine("cupy-cuda12x", "cupy-cuda13x", driver="580.65.06")
    assert found["CuPy"] == "cupy-cuda12x 14.2.0, cupy-cuda13x 14.2.0"
    assert remedy == (
        "GPU: keep one CuPy wheel: pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install 'gpubackprop[cuda13]'"
    )


def test_a_driver_that_is_too_old(machine):
    reason = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    found, (remedy,) = machine("cupy-cuda13x", driver="550.54.15", count=fails(reason))
    assert found["GPU"] == f"not usable: no usable NVIDIA GPU: {reason}"
    assert "driver 550.54.15 is too old" in remedy
    # Two CuPy wheels would shadow each other.
    assert remedy.endswith("or pip uninstall -y cupy-cuda13x && pip install 'gpubackprop[cuda12]'")


def test_a_driver_that_is_too_old_for_any(machine):
    reason = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    _, (remedy,) = machine("cupy-cuda12x", driver="470.57.02", count=fails(reason))
    assert remedy == "GPU: driver 470.57.02 is too old for this CuPy: update it"


def test_a_library_that_is_missing(machine):
    reason = "libcudart.so.13: cannot open shared object file: No such file or directory"
    found, (remedy,) = machine("cupy-cuda13x", driver="580.65.06", count=fails(reason))
    assert reason in found["GPU"]
    assert "pip install --force-reinstall 'cupy-cuda13x[ctk]'" in remedy


def test_cuda_libraries_are_looked_for_before_they_are_needed(machine, monkeypatch):
    def load(name):
        if name == "nvrtc":
            raise RuntimeError("no such library")
        return types.SimpleNamespace(abs_path=f"/cuda/lib{name}.so")

    cuda = types.SimpleNamespace(pathfinder=types.SimpleNamespace(load_nvidia_dynamic_lib=load))
    monkeypatch.setitem(sys.modules, "cuda", cuda)
    monkeypatch.setattr("gpubackprop.backend.cuda.CupyBackend.__init__", lambda self, index: None)
    monkeypatch.setattr("gpubackprop.backend.cuda.CupyBackend.describe", lambda self: "cuda:0 (a GPU)")
    found, (remedy,) = machine("cupy-cuda13x", "cupy-xarray", driver="580.65.06", count=lambda: 1)
    assert found["cublas"] == "/cuda/libcublas.so"
    assert found["nvrtc"] == "not found"
    assert found["GPU"] == "cuda:0 (a GPU)"
    assert remedy == "GPU: nvrtc cannot be loaded: pip install --force-reinstall 'cupy-cuda13x[ctk]'"


def test_a_driver_without_a_device(machine):
    found, (remedy,) = machine("cupy-cuda13x", driver="580.65.06", count=lambda: 0)
    assert "cudaErrorNoDevice" in found["GPU"]
    assert remedy.startswith("GPU: CUDA sees none")


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
