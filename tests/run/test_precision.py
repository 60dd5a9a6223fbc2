"""Runs in tf32, bfloat16 and float16: what they say, log, keep and go on with."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

import gpubackprop as gbp
from gpubackprop.errors import DivergedError, UsageError
from gpubackprop.optim import LossScale
from gpubackprop.run import summary
from gpubackprop.run.check import make_plan
from tests.run import toy


@pytest.fixture(scope="module", params=["bfloat16", "float16", "tf32"])
def run(request, data, tmp_path_factory):
    """A run's precision, its directory, what was said, and the run in float32 beside it."""
    folder, said = tmp_path_factory.mktemp(request.param), []
    shape = {"model": toy.CNN, "training": {"epochs": 8, "log_every": 2}}
    found = gbp.train(toy.config(data, precision=request.param, **shape), run_dir=folder / "run", say=said.append)
    return request.param, found, said, gbp.train(toy.config(data, **shape), run_dir=folder / "float32")


def test_learns_as_in_float32(run):
    precision, found, _, plain = run
    assert found.metrics["test/accuracy"] > plain.metrics["test/accuracy"] - 0.1
    ours, theirs = (
        [line["train/loss"] for line in toy.metrics(each.directory) if "train/loss" in line] for each in (found, plain)
    )
    assert ours[-1] == pytest.approx(theirs[-1], rel=0.1)
    assert (ours == theirs) == (precision == "tf32")


def test_says_in_one_line_what_it_is_on_the_cpu(run):
    precision, found, said, _ = run
    wanted = {
        "tf32": "precision: tf32 is for GPUs; on the CPU it is float32",
        "bfloat16": "precision: bfloat16 is stored, and computed in float32 on the CPU: slower than float32, "
        "for trying out",
    }
    lines = [line for line in said if line.startswith("precision")]
    assert lines == [wanted.get(precision, wanted["bfloat16"].replace("bfloat16", precision))]
    assert lines[0] in (found.directory / "train.log").read_text()


def test_checkpoints_are_in_float32_and_can_be_used(run):
    precision, found, _, _ = run
    weights = load_file(found.directory / "checkpoints/last/model.safetensors")
    assert weights["0.weight"].dtype == weights["1.running_mean"].dtype == np.float32
    last = gbp.load(found.directory, "last")
    assert last.parameters().dtype.name == {"tf32": "float32"}.get(precision, precision)
    np.testing.assert_array_equal(last.state_dict()["0.weight"], weights["0.weight"])
    assert found.evaluate("test")["test/accuracy"] == pytest.approx(found.metrics["test/accuracy"])
    x = np.load(found.config.data.options["path"])["x_test"][:5]
    np.save(found.directory / "new.npy", x)
    rows = found.predict([str(found.directory / "new.npy")]).rows()
    assert all(0 < row["probability"] <= 1 for row in rows)


def test_a_loss_scale_is_logged_and_kept(run):
    precision, found, _, _ = run
    lines = [line for line in toy.metrics(found.directory) if "train/loss" in line]
    kept = load_file(found.directory / "checkpoints/last/optimizer.safetensors")
    if precision != "float16":
        assert not any("loss_scale" in line or "skipped_steps" in line for line in lines)
        assert not any(key.startswith("loss_scale.") for key in kept)
        return
    assert all(line["loss_scale"] == 65536 and line["skipped_steps"] == 0 for line in lines)
    assert kept["loss_scale.scale"] == 65536


def test_a_run_goes_on_in_another_precision(run):
    _, found, _, _ = run
    resumed = gbp.resume(found.directory, {"precision": "float16", "training.epochs": 9})
    assert resumed.model.parameters().dtype == np.float16
    gbp.resume(found.directory, {"precision": "float32", "training.epochs": 10})


def test_many_steps_left_out_in_a_row_are_told(data, tmp_path, monkeypatch):
    monkeypatch.setattr(LossScale, "SMALLEST", 2.0**90)
    said, first = [], LossScale.__init__
    monkeypatch.setattr(LossScale, "__init__", lambda self, b: first(self, b, 2.0**100))
    gbp.train(toy.config(data, precision="float16"), run_dir=tmp_path / "run", say=said.append)
    warnings = [line for line in said if line.startswith("warning")]
    assert warnings[0].startswith("warning: the last 10 steps were left out, since their gradients are not finite")
    assert toy.metrics(tmp_path / "run")[-2]["skipped_steps"] == 18


def test_divergence_in_float16_names_its_range(data, tmp_path):
    config = toy.config(data, precision="float16", optimizer={"type": "sgd", "lr": 1e9}, training={"epochs": 20})
    with pytest.raises(DivergedError, match="a warmup, or precision bfloat16: float16 ends at 65504"):
        gbp.train(config, run_dir=tmp_path / "run")


def test_without_its_package_nothing_is_begun(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UsageError, match="precision bfloat16 needs the package ml_dtypes"):
        gbp.train(toy.config(data, precision="bfloat16"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("precision", "parameters", "outputs"),
    [
        ("float32", "(2 KiB)", "1.719 KiB"),
        ("bfloat16", "(1 KiB, 2 KiB as they are updated)", "880 B"),
    ],
)
def test_summary_counts_bytes(data, precision, parameters, outputs):
    lines = summary.lines(make_plan(toy.config(data, precision=precision)))
    found = {line[:22].strip(): line[22:] for line in lines}
    assert found["parameters"].endswith(parameters)
    assert found["gradients"] == "2 KiB"
    assert found["optimizer state"].startswith("4 KiB")
    assert found["layer outputs"].startswith(outputs)
