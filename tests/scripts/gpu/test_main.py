"""scripts/gpu_check.py as it is called: usage, no GPU, what is missing, what is left, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpubackprop.backend.cuda import device_count
from gpubackprop.errors import DeviceError
from scripts.gpu import ROOT, machine, main
from scripts.gpu.main import DONE, LEFT, NO_GPU, SOME_FAILED, USAGE, Stage
from scripts.gpu.worker import Work

SCRIPT = ROOT / "scripts" / "gpu_check.py"
TOY = str(Path(__file__).with_name("toy_worker.py"))
FOUND = {"gpu": "NVIDIA A-1 (big)", "driver": "1.2", "backend": "device: cuda:0", "packages": {"numpy": "2"}}


def call(*given):
    return subprocess.run([sys.executable, str(SCRIPT), *given], capture_output=True, text=True, check=False, cwd="/")


def without_gpu():
    try:
        device_count()
    except DeviceError:
        return True
    return False


@pytest.mark.skipif(not without_gpu(), reason="there is a GPU here")
def test_without_a_gpu_it_says_why_and_nothing_is_written(tmp_path):
    done = call("--part", "kernels", "--results", str(tmp_path / "x.json"))
    assert done.returncode == NO_GPU == 4
    assert done.stderr.startswith("gpu_check: nothing was run: ")
    assert "CuPy" in done.stderr or "GPU" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "--part tests, kernels or bench"),
        (["--part", "all"], "invalid choice"),
        (["--part", "bench", "--only", "gtp"], "known: digits_mlp, fashion_mlp, big"),
        (["--part", "bench", "--minutes", "0"], "more than 0"),
        (["--part", "bench", "--minutes", "nan"], "more than 0"),
        (["--part", "kernels", "--seed", "-3"], "0 or more"),
        (["--report", "--results", "/no/such.json"], "does not exist"),
        (["--report", "--results", "/"], "/: cannot be read: Is a directory; name another file"),
        (["--part", "tests", "--results", str(SCRIPT)], "no JSON"),
        (["--parts", "tests"], "usage: gpu_check.py --part tests|kernels|bench"),
    ],
)
def test_usage(given, words, capsys):
    try:
        code = main.main(given)
    except SystemExit as error:
        code = error.code
    assert code == USAGE
    assert words in capsys.readouterr().err


def test_without_results_or_numpy_it_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(main, "RESULTS", tmp_path)
    with pytest.raises(SystemExit):
        main.main(["--report"])
    assert "no results yet: run --part" in capsys.readouterr().err
    monkeypatch.setattr(machine, "there", lambda module: module != "numpy")
    assert main.main(["--part", "bench"]) == SOME_FAILED
    assert "pip install numpy" in capsys.readouterr().err


def test_help_says_what_there_is():
    done = call("--help")
    assert done.returncode == 0
    for option in ("--part", "--only", "--again", "--minutes", "--results", "--report", "--seed", "Exit codes"):
        assert option in done.stdout


@pytest.fixture
def calls(monkeypatch, tmp_path, capsys):
    """calls(*command of a worker, given=options): (exit code, stdout, stderr, the JSON)."""
    monkeypatch.setattr(machine, "look", lambda: FOUND)
    path = tmp_path / "gpu.json"

    def called(*command, part="tests", needs=(), given=()):
        monkeypatch.setattr(main, "stages", lambda call: [Stage("toy", Work(command, 30, {}), needs)])
        code = main.main(["--part", part, "--results", str(path), *given])
        out, err = capsys.readouterr()
        return code, out, err, json.loads(path.read_text())

    return called


def test_a_call_goes_on_where_the_last_one_stopped(calls):
    code, out, err, content = calls(TOY, "hangs", "c", given=["--minutes", "0.1"])
    assert code == LEFT
    assert "give the same command again" in err
    before = content["parts"]["tests"]
    assert {"a", "b"} <= set(before)
    code, out, err, content = calls(TOY)
    assert code == DONE
    after = content["parts"]["tests"]
    assert after["a"] == before["a"], "it was not done again"
    assert after["c"]["process"] != before["a"]["process"]
    assert "== tests: 4 passed" in out
    assert content["machine"]["gpu"] == FOUND["gpu"]
    code, out, err, content = calls(TOY, part="kernels")
    assert content["parts"]["tests"] == after, "the parts are merged"
    assert "tests" not in out
    code, out, err, content = calls(TOY, given=["--again", "--only", "b"])
    changed = [name for name, item in content["parts"]["tests"].items() if item != after[name]]
    assert changed == ["b"]


def test_what_failed_and_what_is_called_wrongly(calls):
    code, out, err, content = calls(TOY, "dies", "b")
    assert code == SOME_FAILED
    assert "failed: b: ended by SIGABRT: out of luck" in err
    assert "FAILED: b" in out
    assert calls(TOY, "empty", given=["--only", "x"])[0] == USAGE
    code, out, err, content = calls("-c", "raise SystemExit('no worker')", part="kernels")
    assert code == SOME_FAILED
    assert content["parts"]["kernels"]["toy"]["reason"] == "ended with code 1: no worker"
    assert calls(TOY, part="kernels")[0] == DONE, "a worker that works again is no failure"


def test_what_is_missing_is_named_and_its_part_not_run(calls, monkeypatch):
    right = machine.there
    monkeypatch.setattr(machine, "there", lambda module: module not in ("torch", "a.package") and right(module))
    code, out, err, content = calls(TOY, needs=("numpy", "a.package"))
    assert code == SOME_FAILED
    assert "nothing of part tests could run" in err
    assert "NOT INSTALLED: torch: without it no the comparison with PyTorch" in err
    assert "torch" in content["machine"]["missing"]
    assert content["parts"]["tests"]["toy"]["status"] == "not run"
    assert "NOT RUN: 1 for: a.package not installed" in out
    monkeypatch.setattr(machine, "there", right)
    code, out, err, content = calls(TOY, needs=("numpy",))
    assert "toy" not in content["parts"]["tests"]


def test_the_parts_have_workers_that_exist():
    for part, names in (("tests", ["suite", "sanitizer"]), ("kernels", ["kernels"]), ("bench", ["bench"])):
        stages = main.stages(main.Call(part, None, 7))
        assert [stage.name for stage in stages] == names
        for stage in stages:
            module = stage.work.command[1]
            assert module == "pytest" or (ROOT / (module.replace(".", "/") + ".py")).exists()
    assert main.stages(main.Call("kernels", "gelu", 7))[0].work.environment == {
        "GPU_CHECK_SEED": "7",
        "GPU_CHECK_ONLY": "gelu",
    }
    assert [stage.name for stage in main.stages(main.Call("tests", "rows", 7))] == ["suite"]


def test_the_machine_is_asked_in_another_process(monkeypatch):
    def ran(code, out, err=""):
        done = subprocess.CompletedProcess([], code, out, err)
        monkeypatch.setattr(machine.subprocess, "run", lambda *args, **options: done)

    ran(0, 'a warning\n{"gpu": "it"}\n')
    assert machine.look() == {"gpu": "it"}
    for code, out, err in ((1, "", "Traceback\ncudaErrorNoDevice: none\n"), (0, "", ""), (-11, "", "")):
        ran(code, out, err)
        with pytest.raises(machine.NoGpuError, match="cudaErrorNoDevice" if err else "no word"):
            machine.look()


def test_names():
    assert main.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert not machine.there("no_such_package.inside")
    assert machine.there("json.decoder")
