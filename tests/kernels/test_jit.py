"""How kernels are compiled, shared among threads, and kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba, which compiles the kernels, is not installed")
from gpubackprop.kernels.cpu import jit  # behind the check that Numba is there
from gpubackprop.kernels.cpu.backend import CpuBackend  # behind the check that Numba is there
from gpubackprop.kernels.cpu.jit import parallel, prange  # as above


@parallel
def _two_loops(done, sums, passes, threads):  # (2, n), (2,), (1,)
    passes[0] += 1
    for t in prange(threads):
        done[0, t] += t + 1
    for i in range(done.shape[1]):
        sums[0] += done[0, i]
    if done.shape[1]:
        for t in prange(done.shape[1]):
            done[1, t] += sums[0]
    sums[1] = done[1].sum()


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_each_part_of_each_loop_runs_once_and_what_lies_between_too(threads):
    done, sums, passes = np.zeros((2, threads)), np.zeros(2), np.zeros(1)
    CpuBackend(threads=threads).launch(_two_loops, done, sums, passes, cost=1e9)
    total = threads * (threads + 1) / 2
    assert done.tolist() == [[t + 1 for t in range(threads)], [total] * threads]
    assert sums.tolist() == [total, threads * total]
    assert passes == 1


def test_on_one_thread_the_loop_has_all_its_parts():
    done, sums, passes = np.zeros((2, 5)), np.zeros(2), np.zeros(1)
    b = CpuBackend(threads=5)
    b.shared = 1e12
    b.launch(_two_loops, done, sums, passes)
    assert done.tolist() == [[1, 0, 0, 0, 0], [1] * 5]


def _multiples(factor):
    @parallel
    def multiples(out, threads):
        for t in prange(threads):
            out[t] = t * factor

    return multiples


def test_what_a_function_has_from_around_it_is_its_own():
    for factor in (2, 3):
        out = np.zeros(4)
        CpuBackend(threads=4).launch(_multiples(factor), out, cost=1e9)
        assert out.tolist() == [t * factor for t in range(4)]


def test_the_folder_is_the_one_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path))
    assert tmp_path in jit._folder().parents
    monkeypatch.delenv("GPUBACKPROP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" in jit._folder().parents


def test_the_folder_is_absolute_and_in_the_home_where_that_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("~/kept", "home/kept"):
        monkeypatch.setenv("GPUBACKPROP_CACHE", name)
        assert tmp_path / "home" / "kept" in jit._folder().parents
    monkeypatch.delenv("GPUBACKPROP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert tmp_path / "home" / ".cache" in jit._folder().parents


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No cache folder can be written, the temporary one is here."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"gpubackprop-{os.getuid()}"


def test_without_a_writeable_home_it_is_a_private_one_below_the_temporary_folder(nowhere):
    with pytest.warns(RuntimeWarning, match=r"GPUBACKPROP_CACHE=.*file/cache: .* kept there \(.*\); they are kept in "):
        folder = jit._folder()
    assert nowhere in folder.parents
    assert nowhere.stat().st_mode & 0o777 == 0o700
    with pytest.warns(RuntimeWarning, match=str(folder)):
        assert jit._folder() == folder


def test_of_a_folder_that_nobody_asked_for_nothing_is_said(nowhere, tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert nowhere in jit._folder().parents


def test_a_temporary_folder_that_others_can_write_is_not_taken(nowhere):
    nowhere.mkdir()
    nowhere.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="compiled anew at every start"):
        assert jit._folder() is None


def test_a_link_in_the_temporary_folder_is_not_followed(nowhere, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    nowhere.symlink_to(tmp_path / "theirs")
    with pytest.warns(RuntimeWarning, match="compiled anew at every start"):
        assert jit._folder() is None


_TRAIN = """
import numpy as np
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.glue import scale
b, x = CpuBackend(threads=2), np.arange(4, dtype=np.float32)
announcing = b.announcing(print)
announcing.__enter__()
b.launch(scale, x, np.full(1, 2, np.float32), cost=1e9)
b.launch(scale, x.astype(np.float64), np.full(1, 2.0), cost=1e9)
print(x.tolist())
"""


def _start(cache: Path, temporary: Path | None = None) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    env = {**os.environ, "GPUBACKPROP_CACHE": str(cache), "PYTHONPATH": str(root), "TMPDIR": str(temporary or cache)}
    return subprocess.Popen([sys.executable, "-c", _TRAIN], env=env, text=True, stdout=-1, stderr=-1)


def test_two_processes_compile_at_once_and_a_third_finds_it_compiled(tmp_path):
    halves = "[0.0, 0.5, 1.0, 1.5]"
    for process in [_start(tmp_path / "cache") for _ in range(2)]:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        first, second = out.splitlines()  # two functions are compiled, which is said once
        assert "compiling" in first
        assert str(tmp_path / "cache") in first
        assert second == halves
    assert _start(tmp_path / "cache").communicate(timeout=300)[0].splitlines() == [halves]


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / f"gpubackprop-{os.getuid()}").touch()
    out, error = _start(tmp_path / "file" / "cache", tmp_path).communicate(timeout=300)
    assert "not kept" in out, error
    assert out.endswith("[0.0, 0.5, 1.0, 1.5]\n")


def test_a_damaged_file_of_the_cache_is_compiled_anew(tmp_path):
    halves = "[0.0, 0.5, 1.0, 1.5]"
    assert _start(tmp_path / "cache").communicate(timeout=300)[0].endswith(f"{halves}\n")
    for number, path in enumerate(sorted((tmp_path / "cache").rglob("*.nb?"))):
        path.write_bytes(path.read_bytes()[: 100 * (number % 2)])
    out, error = _start(tmp_path / "cache").communicate(timeout=300)
    assert out.endswith(f"{halves}\n"), error
