"""Workers that do well, die, hang or run out of time; and the plugin by which pytest is one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scripts.gpu.record import Budget
from scripts.gpu.worker import NOTHING, TIME, Work, run

TOY = str(Path(__file__).with_name("toy_worker.py"))


def does(*command, done=(), patience=60.0, seconds=60.0):
    """Why it is not finished, the items in order, what was said."""
    found, said = {}, []
    why = run(Work(command, patience, {}), done, Budget(seconds), found.__setitem__, said.append)
    return why, found, said


def test_all_is_done_but_what_was_done_before():
    why, found, _ = does(TOY, done=["b", "other"])
    assert why is None
    assert list(found) == ["a", "c", "d"]
    assert {item["status"] for item in found.values()} == {"passed"}


def test_where_it_dies_another_process_does_the_rest():
    why, found, said = does(TOY, "dies", "b")
    assert why is None
    assert found["b"] == {"status": "failed", "reason": "ended by SIGABRT: out of luck"}
    assert found["a"]["process"] != found["c"]["process"] == found["d"]["process"]
    assert len(said) == 1


def test_where_the_gpu_is_lost_another_process_does_the_rest():
    why, found, _ = does(TOY, "loses", "c")
    assert why is None
    assert found["c"]["status"] == "failed"
    assert "ILLEGAL_ADDRESS" in found["c"]["reason"]
    assert found["b"]["process"] != found["d"]["process"]


def test_where_it_hangs_it_is_killed():
    why, found, _ = does(TOY, "hangs", "c", patience=3.0)
    assert why is None
    assert found["c"] == {"status": "failed", "reason": "nothing for 3 s: it hangs"}
    assert list(found) == ["a", "b", "c", "d"]


def test_out_of_time():
    start = time.monotonic()
    why, found, _ = does(TOY, "hangs", "c", seconds=4.0)
    assert time.monotonic() - start < 30
    assert why == TIME
    assert "c" not in found or found["c"]["status"] == "not run"
    # Alone in its call it would never end: that is said, and it is not waited for again and again.
    why, found, _ = does(TOY, "hangs", "a", seconds=4.0, done=["b", "c", "d"])
    assert why == TIME
    if found:  # the process was up within a tenth of the time
        assert found == {"a": {"status": "not run", "reason": found["a"]["reason"]}}
        assert found["a"]["reason"].endswith("give it more --minutes")


def test_one_that_does_nothing_is_told_of():
    assert does(TOY, "empty")[0] == NOTHING
    assert does(TOY, "mute", done="abcd") == ("ended with code 3: a library that prints", {}, [])
    assert does("-m", "no_such_module")[0].endswith("No module named no_such_module")


TESTS = """
import os, pytest
pytestmark = pytest.mark.gpu
def test_passes(): pass
def test_fails(): assert [1, 2] == [1, 3]
def test_skips(): pytest.skip("no cuDNN here")
@pytest.fixture
def broken(): raise OSError("no disk")
def test_errs(broken): pass
def test_loses(): raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access")
def test_comes_after(): pass
"""


def test_pytest_is_a_worker(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: it\naddopts = --import-mode=importlib\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_lacks.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "test_wrong.py").write_text("1 / 0\n")
    (tmp_path / "test_wants.py").write_text("from json import no_such_name\n")  # behind test_lacks.py
    (tmp_path / "test_asks.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    options = ["-m", "gpu", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    command = ["-m", "pytest", "-p", "scripts.gpu.pytest_lines", *options, "--rootdir", str(tmp_path)]
    why, found, said = does(*command, "-c", str(tmp_path / "pytest.ini"), str(tmp_path), done=["test_it.py::test_done"])
    assert why is None
    assert len(said) == 1, "the GPU was lost once"
    got = {name.rpartition("::")[2]: (item["status"], item.get("reason", "")) for name, item in found.items()}
    assert got["test_passes"] == got["test_comes_after"] == ("passed", "")
    assert got["test_fails"] == ("failed", "assert [1, 2] == [1, 3]")
    assert got["test_skips"] == ("not run", "no cuDNN here")
    assert got["test_errs"] == ("failed", "OSError: no disk")
    assert got["test_loses"][0] == "failed"
    assert got["test_lacks.py"][0] == "not run"
    assert "a_package_that_is_not_there" in got["test_lacks.py"][1]
    assert got["test_wants.py"][0] == "not run"
    assert got["test_asks.py"] == ("not run", "could not import 'no_such_package': No module named 'no_such_package'")
    assert got["test_wrong.py"] == ("failed", "ZeroDivisionError: division by zero")
    again = does(*command, "-c", str(tmp_path / "pytest.ini"), str(tmp_path), "-k", "passes", done=list(found))
    assert again[0] is None
    assert not [name for name in again[1] if "::" in name]


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_at_all(seconds):
    assert does(TOY, seconds=seconds) == (TIME, {}, [])
