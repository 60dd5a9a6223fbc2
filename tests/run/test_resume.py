"""A run that was stopped anywhere and resumed is the run that was not: bit for bit, but for the clock."""

from __future__ import annotations

import json
import signal
from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import load_file

import gpubackprop as gbp
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.errors import CheckpointError, ConfigError, InterruptedRun, UsageError
from gpubackprop.run.directory import RunDirectory
from tests.run import toy

EVERYTHING = {
    "model": toy.CNN,
    "optimizer": {"type": "adamw", "lr": 0.02},
    "schedule": {"type": "plateau", "patience": 0, "factor": 0.5, "threshold": 0.3},
    "training": {
        "epochs": 12,
        "accumulate": 3,
        "clip_norm": 1.0,
        "log_every": 3,
        "monitor": "val/loss",
        "validate_every": 2,
        "early_stopping": {"patience": 3, "min_delta": 0.3},
        "checkpoint": {"every": 3, "keep": 2},
    },
}
CYCLE = {
    "model": toy.CNN,
    "precision": "float64",
    "optimizer": {"type": "sgd", "lr": 0.05, "momentum": 0.9},
    "schedule": {"type": "one_cycle", "cycle_momentum": True},
    "training": {"steps": 11, "log_every": 4, "checkpoint": {"every": 4}},
}
AVERAGED = {
    "model": toy.CNN,
    "optimizer": {
        "type": "sam",
        "optimizer": {
            "type": "lookahead",
            "k": 3,
            "optimizer": {
                "type": "muon",
                "lr": 0.01,
                "adamw_for": ["6.*"],
                "groups": [{"match": "*.bias", "lr": 0.003, "weight_decay": 0}, {"match": "1.weight", "frozen": True}],
                "layer_decay": 0.9,
            },
        },
    },
    "schedule": "cosine",
    "training": {
        "steps": 11,
        "accumulate": 2,
        "clip_norm": 1.0,
        "gradient_noise": {"eta": 0.01},
        "ema": {"decay": 0.9, "warmup": True},
        "log_every": 4,
        "checkpoint": {"every": 4},
    },
}
NUMBERS = {"optimizer": {"type": "nadam", "lr": 0.01}, "training": {"steps": 11, "ema": {"decay": 0.7}}}
RUNS = {
    "everything": EVERYTHING,
    "cycle": CYCLE,
    "averaged": AVERAGED,
    "numbers": NUMBERS,
    "bfloat16": {**AVERAGED, "precision": "bfloat16"},
    "float16": {**EVERYTHING, "precision": "float16"},
}


class Killed(BaseException):
    """The process is gone: nothing is saved."""


def kill():
    raise Killed


def settings(data, changes):
    section = toy.config(data)["data"] | {"augment": ["random_flip", {"random_crop": {"padding": 1}}]}
    return toy.config(data, data=section, **changes)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The runs without a break, by name."""
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for name, changes in RUNS.items():
        gbp.train(settings(data, changes), run_dir=folder / name)
        found[name] = toy.traces(folder / name)
    return found


@pytest.mark.parametrize("how", ["interrupted", "killed"])
@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(("everything", step) for step in (1, 2, 3, 5)),
        *(("cycle", step) for step in (3, 6, 10)),
        *(("averaged", step) for step in (1, 4, 5)),
        ("numbers", 7),
        ("bfloat16", 5),
        ("float16", 4),
    ],
)
def test_resumed_is_uninterrupted(name, step, how, data, whole, stop_at, tmp_path):
    stop_at(step, kill if how == "killed" else lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Killed if how == "killed" else InterruptedRun):
        gbp.train(settings(data, RUNS[name]), run_dir=tmp_path / "run")
    run = gbp.resume(tmp_path / "run")
    assert toy.traces(run.directory) == whole[name]


def stream(folder):
    """A stateful LSTM on a text: 5 batches of 4 rows an epoch, and one of the windows that are left."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 7)
    rest = {
        "data": {"type": "text", "path": str(folder / "text.txt"), "context": 11, "contiguous": True, "batch_size": 4},
        "model": [
            {"embedding": {"num_embeddings": 28, "embedding_dim": 6}},
            {"lstm": {"hidden_size": 5, "num_layers": 2, "stateful": True}},
            {"linear": 28},
        ],
        "metrics": [],
        "training": {"steps": 14, "log_every": 1},
    }
    return toy.config(folder, **rest)


@pytest.mark.parametrize("step", [4, 6, 9])
def test_states_of_stateful_layers_go_on_too(step, stop_at, tmp_path):
    gbp.train(stream(tmp_path), run_dir=tmp_path / "whole")
    stop_at(step, kill if step == 9 else lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Killed if step == 9 else InterruptedRun):
        gbp.train(stream(tmp_path), run_dir=tmp_path / "run")
    gbp.resume(tmp_path / "run")
    assert toy.traces(tmp_path / "run") == toy.traces(tmp_path / "whole")


def test_states_of_stateful_layers_matter(tmp_path):
    found = {}
    for stateful in (True, False):
        config = stream(tmp_path)
        config["model"][1]["lstm"]["stateful"] = stateful
        gbp.train(config, run_dir=tmp_path / str(stateful))
        found[stateful] = [line["train/loss"] for line in toy.metrics(tmp_path / str(stateful)) if "train/loss" in line]
    assert found[True][0] == found[False][0]
    assert found[True][1] != found[False][1]


def test_accumulating_states_is_the_large_batch(tmp_path):
    weights = []
    for size, accumulate in ((4, 1), (2, 2), (1, 4)):
        config = stream(tmp_path) | {"precision": "float64"}
        config["data"]["batch_size"] = size
        config["training"] = {"steps": 5, "accumulate": accumulate}  # those of whole batches
        weights.append(gbp.train(config, run_dir=tmp_path / str(size)).model.state_dict())
    for other in weights[1:]:
        for key, array in weights[0].items():
            np.testing.assert_allclose(other[key], array, rtol=1e-9, atol=1e-12)


def test_accumulated_states_are_those_of_the_large_batch(tmp_path):
    found = []
    for accumulate in (1, 2):
        config = stream(tmp_path)
        config["data"]["batch_size"] = 4 // accumulate
        config["training"]["accumulate"] = accumulate
        gbp.train(config, run_dir=tmp_path / str(accumulate))
        lines = toy.metrics(tmp_path / str(accumulate))
        found.append([line["train/loss"] for line in lines if "train/loss" in line])
    assert len(found[0]) == 14
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_interrupted_twice(data, whole, stop_at, tmp_path):
    for step, begin in ((2, lambda: gbp.train(settings(data, CYCLE), run_dir=tmp_path)), (7, None)):
        stop_at(step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(InterruptedRun) as error:
            begin() if begin else gbp.resume(tmp_path)
        assert error.value.exit_code == 143
        assert f"at step {step}; go on with: gpubackprop train --resume {tmp_path}" in str(error.value)
        assert json.loads((tmp_path / "checkpoints/last/state.json").read_text())["step"] == step
    assert toy.traces(gbp.resume(tmp_path).directory) == whole["cycle"]


def test_the_runs_compared_do_what_their_names_say(whole):
    everything = whole["everything"]
    stopped = everything["last/state"]
    assert 5 < stopped["step"] < 24  # early stopping
    assert stopped["schedule"]["reductions"] > 0  # plateau
    assert len({line["lr"] for line in whole["cycle"]["metrics"] if "lr" in line}) > 2


def test_an_early_stopped_run_is_finished(data, whole, tmp_path):
    run = gbp.train(settings(data, EVERYTHING), run_dir=tmp_path)
    said = []
    gbp.resume(tmp_path, say=said.append)
    assert said == [
        f"{tmp_path}: this run has come to its end, nothing to do; "
        "to train on, raise training.early_stopping.patience by --set: it had stopped early"
    ]
    with pytest.raises(UsageError, match=r"so that another training\.epochs would change nothing; .* stopped early"):
        gbp.resume(tmp_path, ["training.epochs=99"])
    assert toy.traces(run.directory) == whole["everything"]
    longer = gbp.resume(tmp_path, ["training.early_stopping.patience=4"])
    assert toy.traces(longer.directory)["last/state"]["step"] > whole["everything"]["last/state"]["step"]


def test_a_finished_run_is_left_as_it_is(finished):
    files = {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()}
    again = gbp.resume(finished.directory)
    assert {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()} == files
    assert again.metrics == finished.metrics


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"optimizer.lr": 0.5}, r"optimizer\.lr"),
        ({"training.epochs": 1}, r"training\.epochs"),
        ({"seed": 9, "model.1.linear.out_features": 9}, r"seed, model\.1\.linear\.out_features"),
    ],
)
def test_what_would_change_nothing_of_a_finished_run_is_refused(finished, overrides, key):
    before = finished.files.resolved.read_text()
    with pytest.raises(
        UsageError, match=rf"come to its end, so that another {key} would change nothing; to train on, "
    ):
        gbp.resume(finished.directory, overrides)
    assert finished.files.resolved.read_text() == before


def test_the_device_and_what_is_set_already_may_be_given_for_a_finished_run(finished):
    same = {"device": "cpu", "training.epochs": finished.config.training.epochs}
    assert gbp.resume(finished.directory, same).metrics == finished.metrics


def test_more_epochs_for_a_finished_run(data, tmp_path):
    gbp.train(toy.config(data), run_dir=tmp_path / "short")
    gbp.train(toy.config(data, training={"epochs": 5, "log_every": 2}), run_dir=tmp_path / "long")
    gbp.resume(tmp_path / "short", ["training.epochs=5"])
    assert toy.traces(tmp_path / "short") == toy.traces(tmp_path / "long")
    assert "epochs: 5" in (tmp_path / "short" / "config.resolved.yaml").read_text()


def test_the_test_figures_are_made_up_for_when_they_are_missing(data, tmp_path):
    run = gbp.train(toy.config(data), run_dir=tmp_path)
    lines = run.files.metrics.read_text()
    run.files.metrics.write_text("".join(lines.splitlines(keepends=True)[:-1]))
    assert gbp.resume(tmp_path).metrics == run.metrics
    assert "test/accuracy" in toy.metrics(tmp_path)[-1]


def test_a_line_cut_short_by_a_crash_is_written_again(data, whole, stop_at, tmp_path):
    stop_at(6, kill)
    with pytest.raises(Killed):
        gbp.train(settings(data, CYCLE), run_dir=tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "epo')
    assert toy.traces(gbp.resume(tmp_path).directory) == whole["cycle"]


def test_what_does_not_fit_the_checkpoint_is_refused(data, stop_at, tmp_path):
    stop_at(2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(InterruptedRun):
        gbp.train(toy.config(data), run_dir=tmp_path)
    before = (tmp_path / "config.resolved.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"last/model\.safetensors: 1\.bias: shape \(8,\)"):
        gbp.resume(tmp_path, ["model.1.linear.out_features=5"])
    with pytest.raises(CheckpointError, match=r"last/optimizer\.safetensors: the optimizer state does not fit SGD"):
        gbp.resume(tmp_path, ["optimizer.type=sgd"])
    with pytest.raises(CheckpointError, match=r"was written without training\.ema and cannot be gone on from with it"):
        gbp.resume(tmp_path, ["training.ema={decay: 0.9}"])
    with pytest.raises(ConfigError, match=r"--set: trainin: "):
        gbp.resume(tmp_path, ["trainin.epochs=5"])
    assert (tmp_path / "config.resolved.yaml").read_text() == before
    gbp.resume(tmp_path)


def test_everything_runs_on_the_strict_device(data, stop_at, monkeypatch, tmp_path):
    """It stands in for a GPU: whatever mixes host and device arrays, or waits inside a step, would fail on one."""
    import_module("gpubackprop.kernels.cuda.backend")  # which inherits from what is put aside here
    monkeypatch.setattr("gpubackprop.backend.cuda.CupyBackend", lambda index=0: StrictBackend())
    with np.load(data) as arrays:
        np.save(tmp_path / "x.npy", arrays["x_test"])
    for name, changes in RUNS.items():
        directory = tmp_path / name
        gbp.train(settings(data, changes), {"kernels": "reference"}, run_dir=tmp_path / f"{name} whole")
        stop_at(2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(InterruptedRun):
            gbp.train(settings(data, changes), {"device": "cuda"}, run_dir=directory)
        assert gbp.resume(directory).config.device == "cuda"
        found, wanted = toy.traces(directory)["metrics"], toy.traces(tmp_path / f"{name} whole")["metrics"]
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-6)
        run = gbp.Run(directory, "cuda")
        assert isinstance(run.model.built.backend, StrictBackend)
        assert run.evaluate()["test/loss"] == pytest.approx(run.metrics["test/loss"])
        assert len(run.predict([str(tmp_path / "x.npy")]).rows()) == 30


def test_what_is_validated_and_kept_is_the_average(data, tmp_path):
    run = gbp.train(settings(data, AVERAGED), run_dir=tmp_path)
    found = run.evaluate("validation")
    assert found["val/loss"] == pytest.approx(run.metrics["val/loss"], rel=1e-5)
    assert run.evaluate()["test/loss"] == pytest.approx(run.metrics["test/loss"], rel=1e-5)
    files = run.files.checkpoints / "last"
    average, rest = load_file(files / "model.safetensors"), load_file(files / "optimizer.safetensors")
    raw = {key.removeprefix("raw."): value for key, value in rest.items() if key.startswith("raw.")}
    assert set(raw) == {key for key in average if not key.startswith("1.") or key in ("1.weight", "1.bias")}
    assert {key for key, value in raw.items() if np.array_equal(value, average[key])} == {"1.weight"}  # frozen
    for key, value in gbp.load(tmp_path, "last").state_dict().items():
        assert np.array_equal(value, average[key])


def test_without_validation_the_last_average_is_tested(data, tmp_path):
    section = toy.config(data)["data"] | {"validation": 0}
    changes = {"data": section, "training": {"steps": 5, "ema": {"decay": 0.9}}}
    run = gbp.train(toy.config(data, **changes), run_dir=tmp_path)
    assert run.evaluate()["checkpoint"] == "last"
    assert run.evaluate()["test/loss"] == pytest.approx(run.metrics["test/loss"], rel=1e-5)


def test_no_run_directory(tmp_path):
    with pytest.raises(CheckpointError, match="no such run directory"):
        gbp.resume(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not a run directory"):
        gbp.resume(tmp_path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a mapping"),
        ('{"kernels": []}', "kernels: must be names of algorithms"),
        ('{"kernels": {"a": []}}', "kernels: must be names of algorithms"),
    ],
)
def test_a_damaged_note_of_the_surroundings_is_named(tmp_path, content, word):
    directory = RunDirectory(tmp_path)
    directory.environment.write_text(content)
    with pytest.raises(CheckpointError, match=rf"environment\.json: {word}.*; restore it, or delete it"):
        _ = directory.choices
    directory.environment.unlink()
    assert directory.choices == {}
    directory.keep_choices({"a": "direct"})
    assert directory.choices == {"a": "direct"}


def test_a_run_whose_surroundings_are_damaged_is_not_gone_on_with(data, stop_at, tmp_path):
    stop_at(2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(InterruptedRun):
        gbp.train(toy.config(data), run_dir=tmp_path)
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"environment\.json: is not JSON"):
        gbp.resume(tmp_path)
    (tmp_path / "environment.json").unlink()
    gbp.resume(tmp_path)
