"""Exit codes 0 1 2 3 4 130 143, and what stands on stderr with each."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from gpubackprop.backend import machine
from tests.run import toy


def end_of(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err
    return process.returncode, out, err.splitlines()


def created(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".yaml", ".npz"))


class TestMistakes:
    def test_five_in_a_config_are_five_lines(self, tmp_path):
        toy.write_arrays(tmp_path)
        (tmp_path / "five.yaml").write_text("""\
data: {type: arrays, path: toy.npz, bacth_size: 8}
model:
  - flatten
  - linear: 0
  - rleu
  - linear: 3
loss: cross_entropyy
optimizer: {type: adam, lr: -1}
""")
        # A bad config goes before a device that is missing.
        code, out, err = end_of(toy.command("train", "five.yaml", "--device", "cuda:7", cwd=tmp_path))
        assert (code, out) == (2, "")
        places = [line.split(": ")[:2] for line in err]
        assert places == [
            ["five.yaml:1:37", "data.bacth_size"],
            ["five.yaml:4:13", "model.1.linear.out_features"],
            ["five.yaml:5:5", "model.2.rleu"],
            ["five.yaml:7:7", "loss"],
            ["five.yaml:8:29", "optimizer.lr"],
        ]
        assert created(tmp_path) == []

    @pytest.mark.parametrize("arguments", [[], ["a.yaml", "--resume", "b"], ["--resume", "b", "--run-dir", "c"]])
    def test_train_takes_a_config_or_a_run(self, gb, arguments):
        code, out, (line,) = gb("train", *arguments)
        assert (code, out) == (2, "")
        assert line.startswith("error: ")

    def test_a_path_that_is_nearly_right(self, gb, tmp_path):
        path = toy.write_config(tmp_path, name="network.yaml")
        code, _, (line,) = gb("train", tmp_path / "netwrk.yaml")
        assert code == 2
        assert line == f"{tmp_path / 'netwrk.yaml'}: no such file; similar: {path}"

    def test_a_template_with_the_ending_of_a_file(self, gb, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, _, (line,) = gb("train", "digits_mlp.yaml")
        assert code == 2
        assert line.startswith("error: digits_mlp.yaml: no such file; the template of that name is meant by")

    def test_batches_larger_than_the_data(self, gb, tmp_path):
        path = toy.write_config(tmp_path)
        code, _, (line,) = gb("validate", path, "--set", "data.drop_last=true", "--set", "data.batch_size=49")
        assert code == 2
        assert "drop_last leaves nothing: 48 training samples" in line

    def test_missing_data(self, gb, tmp_path):
        path = toy.write_config(tmp_path)
        (tmp_path / "toy.npz").unlink()
        code, _, (line,) = gb("train", path)
        assert code == 2
        assert line.startswith(f"{path}:")
        assert "toy.npz: no such file or folder" in line
        assert created(tmp_path) == []

    def test_long_messages_are_one_line(self, tmp_path):
        long = "x" * 300
        code, _, (line,) = end_of(toy.command("train", f"{long}.yaml", COLUMNS="40"))
        assert code == 2
        assert long in line

    def test_a_directory_that_cannot_be_written(self, gb, tmp_path):
        path = toy.write_config(tmp_path)
        for where in (path / "below", tmp_path):
            code, out, (line,) = gb("train", path, "--run-dir", where)
            assert (code, out) == (2, "")
            assert line.startswith(f"error: {where}: ")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_without_permission(self, gb, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o500)
        code, _, (line,) = gb("train", toy.write_config(tmp_path), "--run-dir", tmp_path / "locked/run")
        assert (code, "not writable" in line) == (2, True)

    def test_click_errors_have_no_box(self, gb):
        for arguments in (["trian"], ["train", "--resme", "x"], ["evaluate"], ["train", "x", "y"]):
            code, out, (line,) = gb(*arguments)
            assert (code, out) == (2, "")
            assert line.startswith("error: ")

    def test_debug_shows_the_traceback_and_keeps_the_code(self, gb, tmp_path):
        code, _, err = gb("--debug", "train", tmp_path / "none.yaml")
        assert code == 2
        assert "Traceback" in err[0]
        assert err[-1].startswith(f"{tmp_path / 'none.yaml'}: no such file")


class TestDevice:
    def test_cuda_without_a_gpu(self, gb, tmp_path, monkeypatch):
        """CUDA's own reason, from a CuPy that finds no device."""
        monkeypatch.setitem(sys.modules, "cupy", NoDevice)
        monkeypatch.setattr(machine, "look", machine.Machine)
        path = toy.write_config(tmp_path)
        code, out, err = gb("train", path, "--device", "cuda", "--run-dir", tmp_path / "run")
        assert (code, out) == (4, "")
        reason = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
        remedy = "install it from https://www.nvidia.com/drivers"
        assert err[0].startswith(f"error: no usable NVIDIA GPU: {reason} (no NVIDIA driver); {remedy}")
        assert len(err) == 1
        assert created(tmp_path) == []

    def test_cuda_without_cupy(self, gb, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
        monkeypatch.setattr(machine, "look", machine.Machine)
        code, _, (line,) = gb("train", toy.write_config(tmp_path), "--device", "cuda")
        assert code == 4
        assert line.startswith("error: device cuda needs CuPy")
        assert "): first, no NVIDIA driver: install it" in line
        assert line.endswith("; then pip install '.[cuda13]' in a checkout of gpubackprop")

    def test_no_such_device_is_bad_usage(self, gb, tmp_path):
        code, _, (line,) = gb("train", toy.write_config(tmp_path), "--device", "tpu")
        assert code == 2
        assert line == "error: unknown device 'tpu'; known: auto, cpu, cuda, cuda:N; did you mean 'cpu'?"


class NoDevice:
    class cuda:
        class runtime:
            @staticmethod
            def getDeviceCount():
                raise RuntimeError(
                    "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
                )


class TestDiverged:
    def test_a_loss_that_is_not_finite(self, gb, tmp_path):
        path = toy.write_config(tmp_path, optimizer={"type": "sgd", "lr": 1e30})
        code, out, err = gb("train", path, "--run-dir", tmp_path / "run")
        assert (code, out) == (3, "")
        assert err[-1].startswith("error: training diverged at step ")
        assert not any("Warning" in line for line in err)

    def test_an_internal_error_is_one_line_and_1(self, gb, tmp_path, monkeypatch):
        monkeypatch.setattr("gpubackprop.run.check.make_plan", lambda *_: 1 / 0)
        code, _, (line,) = gb("validate", tmp_path)
        assert (code, line) == (1, "error: internal error: ZeroDivisionError: division by zero; --debug shows where")

    def test_a_full_disk(self, gb, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device", "model.safetensors")

        monkeypatch.setattr("gpubackprop.training.checkpoint.save", full)
        code, _, err = gb("train", toy.write_config(tmp_path), "--run-dir", tmp_path / "run")
        assert (code, err[-1]) == (1, "error: model.safetensors: No space left on device")


LONG = {"epochs": 100_000, "log_every": 20, "checkpoint": {"every": 5, "keep": 1}}


class TestSignals:
    def begun(self, tmp_path):
        """A training that is well under way in a process of its own."""
        path = toy.write_config(tmp_path, training=LONG)
        process = toy.command("train", path, "--run-dir", tmp_path / "run", cwd=tmp_path)
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/checkpoints/last/state.json").exists():
            assert time.monotonic() < deadline, process.communicate()
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        return process

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_checkpoint_then_the_line_that_goes_on(self, gb, tmp_path, number, code):
        process = self.begun(tmp_path)
        process.send_signal(number)
        found, out, err = end_of(process)
        assert (found, out) == (code, "")
        state = json.loads((tmp_path / "run/checkpoints/last/state.json").read_text())
        resume = err[-1].rpartition("go on with: ")[2]
        assert err[-1] == f"stopped by {number.name} at step {state['step']}; go on with: {resume}"
        words = shlex.split(resume)
        assert words == ["gpubackprop", "train", "--resume", str(tmp_path / "run")]
        epochs = state["step"] // 6 + 1
        code, out, err = gb(*words[1:], "--set", f"training.epochs={epochs}")
        assert code == 0
        assert any(line.endswith(f"going on from step {state['step']:,}") for line in err)
        assert toy.metrics(tmp_path / "run")[-1]["epoch"] == epochs

    def test_killed(self, gb, tmp_path):
        process = self.begun(tmp_path)
        process.kill()
        process.communicate()
        state = json.loads((tmp_path / "run/checkpoints/last/state.json").read_text())
        assert state["step"] % 5 == 0
        steps = state["step"] + 7
        changes = ["--set", f"training.steps={steps}"]
        assert gb("train", "--resume", tmp_path / "run", *changes)[0] == 0
        whole = toy.write_config(tmp_path, training=LONG | {"epochs": None, "steps": steps})
        assert gb("train", whole, "--run-dir", tmp_path / "whole")[0] == 0
        assert toy.traces(tmp_path / "run") == toy.traces(tmp_path / "whole")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_while_data_loads_nothing_is_left(self, tmp_path, number, code):
        (tmp_path / "slow.py").write_text(SLOW)
        section = {"type": "test_slow", "marker": str(tmp_path / "loading")}
        path = toy.write_config(tmp_path, plugins=["slow.py"], data=section)
        process = toy.command("train", path, cwd=tmp_path)
        deadline = time.monotonic() + 60
        while not (tmp_path / "loading").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        found, out, err = end_of(process)
        assert (found, out, err) == (code, "", ["error: interrupted" if code == 130 else "error: terminated"])
        assert not (tmp_path / "runs").exists()


SLOW = """
import pathlib, time
import numpy as np
from gpubackprop.data.source import DataInfo, Source, sources


@sources.register("test_slow")
class Slow(Source):
    def __init__(self, marker: str):
        self.marker = marker

    def info(self):
        return DataInfo((6, 6, 1), "uint8", (), "int64", ["0", "1", "2"], {"train": 30})

    def read(self, name):
        pathlib.Path(self.marker).touch()
        time.sleep(60)
"""


def test_a_reader_that_went_away_is_no_traceback(tmp_path):
    process = toy.command("schema")
    process.stdout.close()
    process.stdout = None
    code, _, err = end_of(process)
    assert (code, err) == (1, [])


def test_a_training_goes_on_when_nobody_reads_its_messages_any_more(tmp_path):
    config, run = toy.write_config(tmp_path), tmp_path / "run"
    command = f"{shlex.quote(sys.executable)} -m gpubackprop train {config} --run-dir {run} 2>&1 >/dev/null | head -n 1"
    heard = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert heard.stdout.startswith("device: cpu, as asked; on the CPU: ")
    assert json.loads((run / "checkpoints/last/state.json").read_text())["finished"]
