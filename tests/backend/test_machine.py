"""The probes, on what stands for a machine's files and libraries."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import types

import pytest

from gpubackprop.backend import machine
from gpubackprop.backend.machine import Card, Driver

COMPILER = shutil.which("cc") or shutil.which("g++")

#: The part of NVIDIA's driver that is asked, with the signatures of cuda.h: two GPUs.
LIBCUDA = """
#include <stddef.h>
#include <string.h>
int cuDriverGetVersion(int* version) { *version = 13010; return 0; }
int cuInit(unsigned flags) { return REFUSED; }
int cuGetErrorName(int code, const char** name) { *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : 0; return 0; }
int cuDeviceGetCount(int* count) { *count = 2; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 10 + ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) {
  strncpy(name, device == 10 ? "one" : "two", length);
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)80 << 30; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? device - 1 : attribute == 76 ? 3 : -1;
  return 0;
}
"""
LIBNVRTC = """
int nvrtcGetNumSupportedArchs(int* count) { *count = 3; return 0; }
int nvrtcGetSupportedArchs(int* archs) { archs[0] = 75; archs[1] = 121; archs[2] = 90; return 0; }
"""


@pytest.fixture
def build(tmp_path):
    if COMPILER is None:
        pytest.skip("no C compiler for a stand-in of NVIDIA's driver")

    def built(code, *options):
        (tmp_path / "code.c").write_text(code)
        path = tmp_path / f"lib{len([*tmp_path.iterdir()])}.so"
        command = [COMPILER, "-x", "c", "-shared", "-fPIC", *options, "-o", path, tmp_path / "code.c"]
        subprocess.run(command, check=True)
        return str(path)

    return built


def test_a_driver_with_two_gpus(build):
    path = build(LIBCUDA, "-DREFUSED=0")
    asked = []
    found = machine.ask_driver(lambda name: asked.append(name) or ctypes.CDLL(path))
    assert asked == ["libcuda.so.1"]
    assert found == Driver(13010, "", (Card("one", (9, 3), 80 << 30), Card("two", (10, 3), 80 << 30)))


@pytest.mark.parametrize(("code", "name"), [(100, "CUDA_ERROR_NO_DEVICE"), (4242, "error 4242")])
def test_a_driver_that_refuses(build, code, name):
    path = build(LIBCUDA, f"-DREFUSED={code}")
    assert machine.ask_driver(lambda _: ctypes.CDLL(path)) == Driver(13010, name, ())


def test_no_driver():
    def load(name):
        raise OSError(f"{name}: cannot open shared object file")

    assert machine.ask_driver(load) is None


def test_what_nvrtc_knows(build):
    assert machine.newest_known(build(LIBNVRTC)) == 121
    assert machine.newest_known(None) == 0


def test_the_module(tmp_path):
    path = tmp_path / "version"
    assert machine.module_version(path) is None
    path.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:16:57 UTC 2025\nGCC 12.2.0"
    )
    assert machine.module_version(path) == "580.65.06"
    path.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build")
    assert machine.module_version(path) == "570.124.06"


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container(tmp_path, mark):
    assert not machine.in_container(tmp_path)
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    assert machine.in_container(tmp_path)


def test_wheels(tmp_path, monkeypatch):
    before = machine.wheels()
    for name in ("cupy-cuda12x", "cupy_cuda13x", "cupy-xarray", "cupyx"):
        place = tmp_path / f"{name.replace('-', '_')}-14.2.0.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14.2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(machine.wheels()) - set(before) == {"cupy-cuda12x 14.2.0", "cupy-cuda13x 14.2.0"}


def test_libraries_are_where_pathfinder_finds_them(monkeypatch, tmp_path):
    def load(name):
        if name == "nvrtc":
            raise RuntimeError("no such library")
        return types.SimpleNamespace(abs_path=f"/cuda/lib{name}.so.13")

    pathfinder = types.ModuleType("cuda.pathfinder")
    pathfinder.load_nvidia_dynamic_lib, pathfinder.find_nvidia_header_directory = load, lambda name: str(tmp_path)
    cuda = types.ModuleType("cuda")
    cuda.pathfinder = pathfinder
    monkeypatch.setitem(sys.modules, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    assert machine.libraries() == {"cublasLt": "/cuda/libcublasLt.so.13", "cublas": "/cuda/libcublas.so.13"}
    assert not machine.headers()
    (tmp_path / "cuda_fp16.h").touch()
    assert machine.headers()
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    assert (machine.libraries(), machine.headers()) == ({}, False)


def test_this_machine_is_looked_at():
    found = machine.look()
    assert found.driver is None or found.driver.cuda > 9000
    assert set(found.libraries) <= set(machine.LIBRARIES)
