from __future__ import annotations

import json
import pickletools
import struct
import time

import numpy as np
import pytest
from safetensors import safe_open

import gpubackprop as gbp
from gpubackprop.errors import ConfigError, DataError, DeviceError, DivergedError, UsageError
from gpubackprop.registry import Registry
from gpubackprop.run.check import make_plan
from tests.run import toy


def problems(config, overrides=()):
    with pytest.raises(ConfigError) as error:
        make_plan(config, overrides)
    return [(problem.key, problem.message) for problem in error.value.problems]


class TestRunDirectory:
    def test_holds_what_is_promised(self, finished):
        names = {str(path.relative_to(finished.directory)) for path in finished.directory.rglob("*") if path.is_file()}
        events = {name for name in names if name.startswith("tensorboard/events.out.tfevents")}
        assert len(events) == 1
        parts = ("model.safetensors", "optimizer.safetensors", "state.json")
        checkpoints = ("last", "best", "step-00000006", "step-00000012", "step-00000018")
        assert names - events == {
            *("config.yaml", "config.resolved.yaml", "environment.json", "preprocessing.json"),
            *("metrics.jsonl", "train.log"),
            *(f"checkpoints/{name}/{part}" for name in checkpoints for part in parts),
        }

    def test_carries_its_format_and_no_pickle(self, finished):
        for name in ("environment.json", "preprocessing.json", "checkpoints/last/state.json"):
            assert json.loads((finished.directory / name).read_text())["format"] == 1
        assert "format: 1\n" in (finished.directory / "config.resolved.yaml").read_text()
        for path in (finished.directory / "checkpoints").rglob("*.safetensors"):
            with safe_open(path, "np") as file:
                assert file.metadata() == {"format": "pt"}
            with pytest.raises(ValueError, match="opcode"):
                list(pickletools.genops(path.read_bytes()))

    def test_config_yaml_is_the_file_as_given(self, tmp_path):
        path = toy.write_config(tmp_path, training={"steps": 1})
        text = "# my comment\n" + path.read_text()
        path.write_text(text)
        run = gbp.train(path, run_dir=tmp_path / "run")
        assert (run.directory / "config.yaml").read_text() == text

    def test_the_resolved_config_trains_to_the_same_run(self, data, finished, tmp_path):
        run = gbp.train(finished.directory / "config.resolved.yaml", run_dir=tmp_path)
        assert toy.traces(run.directory) == toy.traces(finished.directory)

    def test_two_runs_at_once_take_two_directories(self, data, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        class Clock:
            @staticmethod
            def now():
                from datetime import datetime

                return datetime(2026, 11, 22, 12, 0, 0)

        monkeypatch.setattr("gpubackprop.run.directory.datetime", Clock)
        monkeypatch.setattr("gpubackprop.run.directory.environment", lambda device: {})
        runs = [gbp.train(toy.config(data, training={"steps": 1})) for _ in range(3)]
        assert [str(run.directory) for run in runs] == [f"runs/toy/20261122-120000{n}" for n in ("", "-2", "-3")]

    def test_keep_says_how_many_numbered_checkpoints_stay(self, data, tmp_path):
        for keep, names in ((0, set()), (2, {"step-00000012", "step-00000018"})):
            training = {"epochs": 3, "checkpoint": {"keep": keep}}
            run = gbp.train(toy.config(data, training=training), run_dir=tmp_path / str(keep))
            assert {path.name for path in (run.directory / "checkpoints").iterdir()} == {"last", "best"} | names

    def test_an_earlier_file_is_in_the_way(self, data, tmp_path):
        (tmp_path / "a file").write_text("")
        for path, reason in ((tmp_path, "not an empty directory"), (tmp_path / "a file/x", "is not a directory")):
            with pytest.raises(UsageError, match=reason):
                gbp.train(toy.config(data), run_dir=path)


def events(directory):
    """{(step, tag): value} of all event files, as TensorBoard reads them: a session that starts purges later ones."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = {}
    for path in sorted((directory / "tensorboard").iterdir()):
        raw = path.read_bytes()
        while raw:  # TFRecord: length, its checksum, data, its checksum
            (length,) = struct.unpack("<Q", raw[:8])
            event = Event.FromString(raw[12 : 12 + length])
            if event.session_log.status == SessionLog.START:
                found = {key: value for key, value in found.items() if key[0] < event.step}
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            raw = raw[16 + length :]
    return found


def figures(directory):
    """The same from metrics.jsonl."""
    lines = toy.metrics(directory)
    return {(line["step"], k): v for line in lines for k, v in line.items() if k not in ("step", "time")}


class TestMetrics:
    def test_lines(self, finished):
        lines = toy.metrics(finished.directory)
        assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 18]
        assert [line["epoch"] for line in lines][:3] == [2 / 6, 4 / 6, 1.0]
        for line in lines[:-1]:
            assert {"step", "epoch", "time", "train/loss", "lr", "samples_per_sec"} <= set(line)
            assert ("val/accuracy" in line) == ("val/loss" in line) == (line["step"] % 6 == 0)
        assert set(lines[-1]) == {"step", "epoch", "time", "test/loss", "test/accuracy"}
        times = [line["time"] for line in lines]
        assert times == sorted(times)

    def test_train_loss_is_the_mean_of_the_steps_since_the_last_line(self, data, tmp_path):
        every = gbp.train(toy.config(data, training={"epochs": 1, "log_every": 1}), run_dir=tmp_path / "1")
        second = gbp.train(toy.config(data, training={"epochs": 1, "log_every": 4}), run_dir=tmp_path / "4")
        losses = [line["train/loss"] for line in toy.metrics(every.directory)[:-1]]
        means = [line["train/loss"] for line in toy.metrics(second.directory)[:-1]]
        assert means == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])], rel=1e-14)

    def test_a_smaller_batch_counts_as_many_as_it_has_samples(self, tmp_path, rng):
        arrays = {"train": (rng.normal(size=(10, 4)), rng.integers(0, 2, 10))}
        config = {
            "data": {"type": "arrays", "validation": 0, "batch_size": 8},
            "model": [{"linear": 2}],
            "loss": "cross_entropy",
            "optimizer": "sgd",
        }
        losses = []
        for log_every in (1, 2):
            training = {"epochs": 1, "log_every": log_every}
            run = gbp.train({**config, "training": training}, data=arrays, run_dir=tmp_path / str(log_every))
            losses.append([line["train/loss"] for line in toy.metrics(run.directory)])
        assert losses[1] == pytest.approx([0.8 * losses[0][0] + 0.2 * losses[0][1]], rel=1e-12)

    def test_grad_norm_is_logged_where_it_is_known(self, data, tmp_path):
        run = gbp.train(toy.config(data, training={"steps": 2, "clip_norm": 1.0}), run_dir=tmp_path)
        assert toy.metrics(run.directory)[0]["grad_norm"] > 0

    def test_tensorboard_holds_the_same_figures(self, finished):
        assert events(finished.directory) == pytest.approx(figures(finished.directory), rel=1e-6)

    def test_tensorboard_after_a_crash_forgets_what_is_done_again(self, data, stop_at, tmp_path):
        def crash():
            raise RuntimeError("a crash")

        training = {"steps": 9, "log_every": 1, "checkpoint": {"every": 4}}
        stop_at(7, crash)
        with pytest.raises(RuntimeError, match="a crash"):
            gbp.train(toy.config(data, training=training), run_dir=tmp_path)
        time.sleep(1)  # the name of an event file counts seconds
        gbp.resume(tmp_path)
        assert events(tmp_path) == pytest.approx(figures(tmp_path), rel=1e-6)

    def test_best_is_by_the_monitored_figure(self, data, tmp_path):
        for monitor, pick in ((None, max), ("val/loss", min)):
            name = monitor or "val/accuracy"
            training = {"epochs": 5, "monitor": monitor}
            run = gbp.train(toy.config(data, training=training), run_dir=tmp_path / name.replace("/", "-"))
            figures = {line["step"]: line[name] for line in toy.metrics(run.directory) if name in line}
            assert run.metrics[name] == pick(figures.values())
            state = json.loads((run.directory / "checkpoints/best/state.json").read_text())
            assert state["step"] == next(step for step, value in figures.items() if value == run.metrics[name])

    def test_without_validation_data_there_is_no_best(self, data, tmp_path):
        section = toy.config(data)["data"] | {"validation": 0}
        run = gbp.train(toy.config(data, data=section), run_dir=tmp_path)
        assert not (tmp_path / "checkpoints/best").exists()
        assert set(run.metrics) == {"test/loss", "test/accuracy"}
        assert run.evaluate()["checkpoint"] == "last"

    def test_train_loss_can_be_monitored_without_validation_data(self, data, tmp_path):
        section = toy.config(data)["data"] | {"validation": 0}
        training = {"epochs": 30, "monitor": "train/loss", "early_stopping": {"patience": 1, "min_delta": 0.3}}
        gbp.train(toy.config(data, data=section, training=training), run_dir=tmp_path)
        assert toy.metrics(tmp_path)[-1]["epoch"] < 30


class TestMistakes:
    def test_bad_data_goes_before_a_missing_device(self, data, tmp_path, monkeypatch):
        def no_gpu(*_):
            raise DeviceError("no GPU")

        monkeypatch.setattr("gpubackprop.run.train.choose", no_gpu)
        with pytest.raises(DeviceError):
            gbp.train(toy.config(data, device="cuda"), run_dir=tmp_path / "run")
        x = np.zeros((8, 4))
        own = {"train": (x, np.arange(8) % 3), "test": (x, np.full(8, 7))}
        with pytest.raises(DataError, match="class 7"):
            gbp.train(toy.config(data, device="cuda"), data=own, run_dir=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_schedule_that_cycles_momentum_needs_one(self, data):
        schedule = {"type": "one_cycle", "cycle_momentum": True}
        for optimizer, wrong in (("sgd", True), ({"type": "sgd", "momentum": 0.9}, False), ("adam", False)):
            config = toy.config(data, optimizer=optimizer, schedule=schedule)
            if wrong:
                ((key, message),) = problems(config)
                assert key == "schedule.cycle_momentum"
                assert "sgd is built without; set optimizer.momentum" in message
            else:
                make_plan(config)

    def test_whatever_looks_at_a_figure_needs_one(self, data):
        section = toy.config(data)["data"] | {"validation": 0}
        training = {"epochs": 1, "monitor": "val/loss", "early_stopping": {"patience": 2}}
        config = toy.config(data, data=section, schedule="plateau", training=training)
        assert [key for key, _ in problems(config)] == ["training.monitor", "training.early_stopping", "schedule"]
        make_plan(config, {"training.monitor": "train/loss"})

    def test_batch_norm_of_a_single_sample(self, data):
        section = toy.config(data)["data"] | {"batch_size": 47}  # of 48
        config = toy.config(data, data=section, model=["flatten", {"residual": ["batch_norm"]}, {"linear": 3}])
        ((key, message),) = problems(config)
        assert key == "model.1.residual.layers.0.batch_norm"
        assert message.endswith("change data.batch_size, or set data.drop_last: true")
        make_plan(config, {"data.drop_last": True})
        make_plan(config, {"data.batch_size": 46})
        make_plan(toy.config(data, data=section, model=toy.CNN))  # many values per channel

    def test_a_warmup_longer_than_the_training_is_noted(self, data):
        long = toy.config(data, schedule={"type": "cosine", "warmup": 18})
        (note,) = make_plan(long).notes
        assert "schedule.warmup is 18 steps, but the whole training has 18" in note
        assert make_plan(long, {"training.epochs": 4}).notes == []

    @pytest.mark.parametrize("precision", ["float32", "float64"])
    def test_divergence_names_the_step_and_the_checkpoint(self, data, precision, tmp_path):
        lr = {"float32": 1e25, "float64": 1e200}[precision]
        changes = {"optimizer": {"type": "sgd", "lr": lr, "momentum": 0.9}, "precision": precision}
        schedule = {"type": "step", "step_size": 8, "gamma": lr}
        changes |= {"optimizer": {"type": "sgd", "lr": 0.01}, "schedule": schedule}
        with pytest.raises(DivergedError, match=r"diverged at step \d+: the loss is .*step 6 is kept: ") as error:
            gbp.train(toy.config(data, **changes), run_dir=tmp_path)
        assert str(error.value) in (tmp_path / "train.log").read_text()
        assert json.loads((tmp_path / "checkpoints/last/state.json").read_text())["step"] == 6
        assert np.isfinite(gbp.load(tmp_path, "last").state_dict()["1.weight"]).all()


class TestPython:
    def test_own_arrays_and_overrides(self, data, tmp_path, rng):
        x, y = rng.normal(size=(40, 5)), rng.integers(0, 3, 40)
        config = toy.config(data, model=[{"linear": 3}])
        del config["data"]
        own = {"train": (x, y), "validation": (x[:10], y[:10])}
        run = gbp.train(config, overrides={"training.epochs": 2}, data=own, run_dir=tmp_path)
        assert set(run.metrics) == {"val/loss", "val/accuracy"}
        assert run.directory == tmp_path
        assert toy.metrics(tmp_path)[-1]["epoch"] == 2
        logits = run.model(x[:10].astype(np.float32))
        assert (logits.argmax(1) == y[:10]).mean() == pytest.approx(run.metrics["val/accuracy"])
        assert type(logits) is np.ndarray

    def test_load_gives_the_best_model(self, finished):
        best, last = gbp.load(finished.directory), gbp.load(finished.directory, "last")
        x = np.linspace(0, 1, 72, dtype=np.float32).reshape(2, 6, 6, 1)
        np.testing.assert_array_equal(best(x), finished.model(x))
        with safe_open(finished.directory / "checkpoints/last/model.safetensors", "np") as file:
            np.testing.assert_array_equal(last.state_dict()["1.weight"], file.get_tensor("1.weight"))

    def test_the_directory_goes_on_working_when_it_is_moved(self, data, tmp_path):
        run = gbp.train(toy.config(data), run_dir=tmp_path / "a")
        metrics = run.metrics
        (tmp_path / "a").rename(tmp_path / "b")
        moved = gbp.Run(tmp_path / "b")
        assert moved.metrics == metrics
        assert moved.evaluate()["test/accuracy"] == metrics["test/accuracy"]

    def test_build_from_a_list(self):
        entries = [{"conv2d": {"out_channels": 2, "kernel_size": 3}}, "relu", "flatten", {"linear": 4}]
        model = gbp.build(entries, input_shape=(5, 5, 3), seed=1, precision="float64")
        assert model.state_dict()["3.weight"].shape == (4, 18)
        assert model(np.zeros((2, 5, 5, 3))).dtype == np.float64
        with pytest.raises(ConfigError, match=r"model\.0\.lineer: .*did you mean 'linear'"):
            gbp.build([{"lineer": 3}], input_shape=(4,))

    def test_a_plugin_is_trained_end_to_end(self, tmp_path, monkeypatch):
        for registry in Registry.by_base.values():  # what the plugin registers is of this test alone
            monkeypatch.setattr(registry, "_classes", dict(registry._classes))
        (tmp_path / "mine.py").write_text(PLUGIN)
        config = """\
plugins: [mine.py]
data: {type: test_plugin_line, count: 64, batch_size: 16}
model: [{test_plugin_scaled: 2.0}, {linear: 1}]
loss: test_plugin_half_square
metrics: [mae]
optimizer: {type: test_plugin_sign, lr: 0.05}
training: {epochs: 12}
"""
        (tmp_path / "line.yaml").write_text(config)
        run = gbp.train(tmp_path / "line.yaml", run_dir=tmp_path / "run")
        first = next(line for line in toy.metrics(run.directory) if "val/mae" in line)
        assert run.metrics["val/mae"] < 0.3 * first["val/mae"]
        assert "0.scale" in gbp.load(run.directory).state_dict()
        assert gbp.resume(run.directory, ["training.epochs=13"]).metrics["val/mae"] <= run.metrics["val/mae"]


PLUGIN = """
import numpy as np
from gpubackprop.data.source import DataInfo, Source, Split, sources
from gpubackprop.nn.layer import Layer, layers
from gpubackprop.nn.loss import Loss, losses
from gpubackprop.optim.optimizer import Optimizer, optimizers
from gpubackprop.parameters import Param, Parameters
from gpubackprop.registry import Given, PositiveFloat
from gpubackprop.tape import Op


def scale_forward(b, x, weight):
    return x * weight, (x, weight)


def scale_backward(b, saved, dy, slots):
    x, weight = saved
    return dy * weight, (dy * x).sum(axis=0)


scale = Op(scale_forward, scale_backward)


@layers.register("test_plugin_scaled")
class Scaled(Layer):
    def __init__(self, start: float = 1.0):
        self.start = start

    def arrays(self):
        return {"scale": Param(self.shapes[0], lambda rng, shape: np.full(shape, self.start))}

    def forward(self, x):
        return scale(x, self.scale)


@losses.register("test_plugin_half_square")
class HalfSquare(Loss):
    def forward(self, output, target, weight=None, mask=None):
        from gpubackprop.nn import MSELoss

        return MSELoss().forward(output, target, weight, mask)

    def check(self, output_shape, target_shape, classes=None):
        pass


@optimizers.register("test_plugin_sign")
class Sign(Optimizer):
    def __init__(self, params: Given[Parameters], lr: PositiveFloat = 0.01):
        super().__init__(params, lr)

    def update_run(self, value, grad, state, scalars, decay):
        (lr,) = scalars
        value -= lr * self.xp.sign(grad)


@sources.register("test_plugin_line")
class Line(Source):
    def __init__(self, count: int = 32):
        self.count = count

    def info(self):
        return DataInfo((2,), "float32", (1,), "float32", None, {"train": self.count})

    def read(self, name):
        if name != "train":
            return None
        x = np.random.default_rng(0).normal(size=(self.count, 2)).astype(np.float32)
        return Split(x, x @ np.array([[1.0], [-2.0]], np.float32) + 1)
"""


def test_early_stopping_is_announced(data, tmp_path):
    said = []
    training = {"epochs": 50, "early_stopping": {"patience": 2}}
    config = toy.config(data, optimizer={"type": "sgd", "lr": 1e-9}, training=training)
    gbp.train(config, run_dir=tmp_path, say=said.append)
    assert said[-2:] == [
        "stopped early at step 18: val/accuracy has not improved 2 times",
        f"best checkpoint: step 6, val/accuracy {toy.metrics(tmp_path)[2]['val/accuracy']:.4g}",
    ]


def test_a_template_goes_by_its_name(tmp_path):
    run = gbp.train("digits_mlp", {"training.steps": 2, "device": "cpu"}, run_dir=tmp_path)
    assert repr(run) == f"Run('{tmp_path}')"
    assert "train" in dir(gbp)
