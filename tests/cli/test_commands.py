"""What every command answers, and where."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
from PIL import Image

from tests.run import toy

COMMANDS = [
    "init",
    "validate",
    "schema",
    "summary",
    "doctor",
    "train",
    "evaluate",
    "predict",
    "generate",
    "gradcheck",
    "bench",
]


class TestHelp:
    def test_lists_the_commands_that_are_built(self, gb):
        code, out, err = gb("--help")
        listed = out.split("Commands:\n")[1].splitlines()
        assert (code, err) == (0, [])
        assert [line.split()[0] for line in listed] == COMMANDS
        for line in listed:
            assert len(line.split()) > 3
            assert line.endswith(".")
            assert not line.endswith("..."), "the first sentence is too long for the list"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_each_command_says_what_it_does_and_documents_its_options(self, gb, name):
        code, out, _ = gb(name, "--help")
        assert code == 0
        assert not any(corner in out for corner in "╭│─")
        options = [line for line in out.splitlines() if line.startswith("  -")]
        assert options
        assert all(len(line.split("  ")) > 2 or len(line) > 70 for line in options), out

    def test_no_arguments_is_bad_usage_answered_by_the_help(self, gb):
        code, out, err = gb()
        assert (code, out) == (2, "")
        assert err[0].startswith("Usage: gpubackprop")

    def test_version(self, gb):
        assert gb("--version")[:2] == (0, "gpubackprop 0.1.0\n")

    def test_module_and_command_are_the_same(self):
        process = toy.command("--help")
        out, _ = process.communicate()
        assert process.returncode == 0
        assert out.startswith("Usage: gpubackprop [OPTIONS]")

    @pytest.mark.parametrize("module", ["gpubackprop", "gpubackprop.cli"])
    def test_imports_are_light(self, module):
        code = f"import sys, {module}; print(*sys.modules)"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=too_deep(), check=True)
        heavy = {"numpy", "pydantic", "rich", "sklearn", "scipy", "ruamel", "PIL", "safetensors", "cupy", "torch"}
        assert not heavy & set(out.stdout.split())


def too_deep():
    return str(toy.ROOT)


class TestInit:
    def test_lists_templates_that_are_all_valid_names(self, gb):
        code, out, err = gb("init")
        assert (code, err) == (0, [])
        names = [line.split()[0] for line in out.splitlines()]
        assert names[0] == "digits_mlp"
        assert set(names) == {path.stem for path in (toy.ROOT / "configs").glob("*.yaml")}

    def test_writes_the_template_and_never_over_a_file(self, gb, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert gb("init", "digits_mlp")[0] == 0
        assert (tmp_path / "digits_mlp.yaml").read_bytes() == (toy.ROOT / "configs/digits_mlp.yaml").read_bytes()
        assert gb("init", "digits_mlp") == (
            2,
            "",
            ["error: digits_mlp.yaml: exists already; choose another name with -o"],
        )
        assert gb("init", "digits_mlp", "-o", "mine.yaml")[0] == 0
        assert gb("validate", "mine.yaml")[0] == 0

    def test_mistakes(self, gb, tmp_path):
        code, _, (line,) = gb("init", "digit_mlp")
        assert code == 2
        assert line.endswith("did you mean 'digits_mlp'?")
        assert gb("init", "-o", tmp_path / "x.yaml")[0] == 2
        assert gb("init", "digits_mlp", "-o", tmp_path / "no/x.yaml")[0] == 2


class TestValidateSchemaSummary:
    def test_validate(self, gb, tmp_path):
        path = toy.write_config(tmp_path)
        assert gb("validate", path) == (0, f"{path}: ok (4 layers; 48 train, 12 validation, 30 test)\n", [])
        assert [file.name for file in tmp_path.iterdir() if file.suffix not in (".yaml", ".npz")] == []

    def test_validate_notes_what_is_hardly_meant(self, gb, tmp_path):
        path = toy.write_config(tmp_path, schedule={"type": "constant", "warmup": 100})
        code, _, (note,) = gb("validate", path)
        assert code == 0
        assert note.startswith("note: schedule.warmup is 100 steps")

    def test_schema(self, gb):
        code, out, err = gb("schema")
        assert (code, err) == (0, [])
        jsonschema.Draft202012Validator.check_schema(json.loads(out))

    def test_summary(self, gb, tmp_path):
        path = toy.write_config(tmp_path, model=toy.CNN)
        code, out, err = gb("summary", path)
        assert (code, err) == (0, [])
        rows = [line.split() for line in out.split("\n\n")[0].splitlines()[2:]]
        positions, weights = 6 * 6, 3 * 3 * 1 * 4
        assert [(row[1], row[2], row[3]) for row in rows] == [
            ("Conv2d", "6×6×4", str(weights + 4)),
            ("BatchNorm", "6×6×4", "8"),
            ("ReLU", "6×6×4", "0"),
            ("MaxPool2d", "3×3×4", "0"),
            ("Flatten", "36", "0"),
            ("Dropout", "36", "0"),
            ("Linear", "3", str(36 * 3 + 3)),
        ]
        assert rows[0][4] == f"{2 * weights * positions:,}"
        assert rows[6][4] == str(2 * 36 * 3)
        assert "parameters            159 (" in out

    def test_templates_go_by_their_names(self, gb):
        assert gb("validate", "digits_mlp")[0] == 0


class TestTrain:
    def test_answers_on_stdout_and_tells_on_stderr(self, gb, tmp_path):
        code, out, err = gb("train", toy.write_config(tmp_path), "--run-dir", tmp_path / "run")
        assert code == 0
        names = [line.split()[0] for line in out.splitlines()]
        assert names == ["val/loss", "val/accuracy", "test/loss", "test/accuracy", "run"]
        assert out.splitlines()[-1] == f"run directory: {tmp_path / 'run'}"
        assert err[0].startswith("device: cpu, as asked; on the CPU: ")
        assert [line for line in err[1:] if not line.startswith("compiling kernels")] == [
            "toy: 323 parameters, 48 train, 12 validation, 30 test, 18 steps, 6 an epoch",
            f"run directory: {tmp_path / 'run'}",
            "best checkpoint: step 18, val/accuracy 1",
        ]

    def test_auto_says_what_it_chose_and_why(self, gb, tmp_path, monkeypatch):
        from gpubackprop.backend import cuda
        from gpubackprop.errors import DeviceError

        def no_gpu(*_):
            raise DeviceError("cudaErrorNoDevice: none here")

        monkeypatch.setattr(cuda, "CupyBackend", no_gpu)
        path = toy.write_config(tmp_path, device="auto", training={"steps": 1})
        code, _, err = gb("train", path, "--run-dir", tmp_path / "run")
        assert code == 0
        assert err[0].startswith("device: cpu, because auto found no GPU (cudaErrorNoDevice: none here); on the CPU: ")
        assert "cudaErrorNoDevice" in json.loads((tmp_path / "run/environment.json").read_text())["device"]

    def test_set_and_device(self, gb, tmp_path):
        path = toy.write_config(tmp_path, device="cuda")
        arguments = ("--device", "cpu", "--set", "training.steps=2", "--set", "training.epochs=null")
        code, _, err = gb("train", path, *arguments, "--run-dir", tmp_path / "run")
        assert (code, "2 steps" in err[1]) == (0, True)

    def test_progress_on_a_terminal(self, tmp_path):
        for no_color in (False, True):
            run = tmp_path / f"run-{no_color}"
            shown = on_terminal("train", toy.write_config(tmp_path), "--run-dir", run, no_color=no_color)
            assert "18/18" in shown
            for word in ("epoch 3.0", "loss 0", "samples/s ", "val/accuracy 0.", "0:00:00"):
                assert word in shown
            assert ("\x1b[32m" in shown) is not no_color


def on_terminal(*arguments, no_color):
    pty = pytest.importorskip("pty")
    pid, terminal = pty.fork()
    if not pid:
        os.environ |= {"PYTHONPATH": str(toy.ROOT), "COLUMNS": "120", "TERM": "xterm"}
        os.environ.pop("NO_COLOR", None)
        os.environ |= {"NO_COLOR": "1"} if no_color else {}
        os.execv(sys.executable, [sys.executable, "-m", "gpubackprop", *map(str, arguments)])
    shown = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:
            break
        if not read:
            break
        shown += read
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    return shown.decode()


class TestEvaluate:
    def test_json_is_one_object(self, gb, finished):
        code, out, err = gb("evaluate", finished.directory, "--json")
        found = json.loads(out)
        assert (code, err) == (0, [])
        assert list(found) == ["checkpoint", "split", "samples", "test/loss", "test/accuracy"]
        assert (found["checkpoint"], found["split"], found["samples"]) == ("best", "test", 30)
        assert {name: found[name] for name in ("test/loss", "test/accuracy")} == {
            name: finished.metrics[name] for name in ("test/loss", "test/accuracy")
        }

    def test_a_figure_that_is_no_number(self, gb, tmp_path, rng):
        x, y = rng.normal(size=(30, 4)), np.arange(30) % 3
        np.savez(tmp_path / "toy.npz", x_train=x, y_train=y, x_test=np.full((6, 4), 3e38), y_test=y[:6])
        path = toy.write_config(tmp_path, model=[{"linear": 3}], training={"steps": 2})
        code, out, _ = gb("train", path, "--run-dir", tmp_path / "run")
        assert code == 0
        assert "test/loss nan" in out.splitlines()
        found = json.loads(gb("evaluate", tmp_path / "run", "--json")[1], parse_constant=pytest.fail)
        assert found["test/loss"] is None

    def test_other_splits_and_checkpoints(self, gb, finished):
        out = gb("evaluate", finished.directory, "--split", "validation", "--checkpoint", "last", "--json")[1]
        last = toy.metrics(finished.directory)[-2]
        wanted = {"checkpoint": "last", "split": "validation", "samples": 12}
        assert json.loads(out) == wanted | {name: last[name] for name in ("val/loss", "val/accuracy")}
        assert json.loads(gb("evaluate", finished.directory, "--split", "train", "--json")[1])["samples"] == 48
        lines = gb("evaluate", finished.directory)[1].splitlines()
        assert lines[:3] == ["checkpoint best", "split test", "samples 30"]

    def test_other_data(self, gb, finished, data, tmp_path):
        with np.load(data) as arrays:
            np.savez(tmp_path / "more.npz", x_test=arrays["x_test"][:7], y_test=arrays["y_test"][:7])
            np.savez(tmp_path / "wrong.npz", x_test=arrays["x_test"][:7, :5], y_test=arrays["y_test"][:7])
        code, out, _ = gb("evaluate", finished.directory, "--data", tmp_path / "more.npz", "--json")
        assert (code, json.loads(out)["samples"]) == (0, 7)
        code, _, (line,) = gb("evaluate", finished.directory, "--data", tmp_path / "wrong.npz")
        assert code == 2
        assert "wrong.npz: samples of shape (5, 6, 1); the model takes (6, 6, 1)" in line

    def test_mistakes(self, gb, finished, tmp_path):
        code, _, (line,) = gb("evaluate", tmp_path)
        assert (code, line) == (2, f"error: {tmp_path}: not a run directory (it holds no config.resolved.yaml)")
        code, _, (line,) = gb("evaluate", finished.directory / "config.yaml")
        assert (code, "config.yaml: not a run directory" in line) == (2, True)
        code, _, (line,) = gb("evaluate", finished.directory, "--checkpoint", "lst")
        assert code == 2
        assert line.endswith("did you mean 'last'?")
        code, _, (line,) = gb("evaluate", finished.directory, "--split", "tset")
        assert (code, "known: train, validation, test" in line) == (2, True)
        assert gb("evaluate", finished.directory, "--data", tmp_path / "none.npz")[0] == 2


HALVED = """
from gpubackprop.data import Transform, transforms


@transforms.register("test_halved")
class Halved(Transform):
    def __call__(self, inputs):
        return inputs / 2
"""


class TestPredict:
    @pytest.fixture
    def inputs(self, data, tmp_path):
        """The first two test images as .npy, .png and .csv, and as the rows that predict should give."""
        with np.load(data) as arrays:
            x = arrays["x_test"][:2]
        np.save(tmp_path / "two.npy", x)
        Image.fromarray(x[0, :, :, 0]).save(tmp_path / "one.png")
        np.savetxt(tmp_path / "rows.csv", x.reshape(2, 36), fmt="%d", delimiter=",")
        return tmp_path

    def test_every_kind_of_file_to_csv(self, gb, finished, inputs):
        files = [inputs / name for name in ("two.npy", "one.png", "rows.csv")]
        code, out, err = gb("predict", finished.directory, *files)
        rows = list(csv.DictReader(io.StringIO(out)))
        assert (code, err) == (0, [])
        names = (f"{inputs}/two.npy[0]", f"{inputs}/two.npy[1]", f"{inputs}/one.png")
        assert [row["input"] for row in rows] == [*names, f"{inputs}/rows.csv:1", f"{inputs}/rows.csv:2"]
        found = [(row["prediction"], row["probability"]) for row in rows]
        assert found[0] == found[2] == found[3]
        assert found[1] == found[4]
        logits = finished.model(np.load(inputs / "two.npy")[:1].astype(np.float32) / 255)[0].astype(np.float64)
        assert found[0][0] == str(logits.argmax())
        assert float(found[0][1]) == pytest.approx((np.exp(logits) / np.exp(logits).sum()).max(), rel=1e-5)

    def test_a_transform_of_a_plugin(self, inputs):
        (inputs / "mine.py").write_text(HALVED)
        section = toy.config(inputs / "toy.npz")["data"] | {"transforms": ["test_halved"]}
        path = toy.write_config(inputs, plugins=["mine.py"], data=section, training={"steps": 1})
        for arguments in (
            ("train", path, "--run-dir", inputs / "run"),
            ("predict", inputs / "run", inputs / "two.npy"),
        ):
            process = toy.command(*arguments)  # of its own, where nobody has imported the plugin yet
            out, err = process.communicate()
            assert process.returncode == 0, err
        assert len(out.splitlines()) == 3

    def test_to_files(self, gb, finished, inputs):
        for name in ("p.csv", "p.jsonl"):
            code, out, err = gb("predict", finished.directory, inputs / "two.npy", "-o", inputs / name)
            assert (code, out, err) == (0, "", [f"wrote 2 predictions to {inputs / name}"])
        (first, _) = map(json.loads, (inputs / "p.jsonl").read_text().splitlines())
        assert list(first) == ["input", "prediction", "probability"]
        assert (inputs / "p.csv").read_text().splitlines()[0] == "input,prediction,probability"

    def test_to_a_terminal(self, finished, inputs):
        shown = on_terminal("predict", finished.directory, inputs / "two.npy", no_color=True)
        assert shown.count("two.npy[") == 2
        assert "probability" in shown

    def test_mistakes(self, gb, finished, inputs):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(inputs / "large.png")
        (inputs / "words.txt").write_text("some words")
        for name, reason in (("large.png", "9"), ("words.txt", "words.txt"), ("none.png", "no such file")):
            code, out, (line,) = gb("predict", finished.directory, inputs / name)
            assert (code, out) == (2, "")
            assert reason in line
        code, _, (line,) = gb("predict", finished.directory, inputs / "two.npy", "-o", "p.xml")
        assert (code, ".jsonl" in line) == (2, True)
        assert gb("predict", finished.directory, inputs / "large.png", "--resize")[0] == 0
