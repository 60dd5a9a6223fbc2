"""Training a config, and going on with a run that was interrupted."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gpubackprop import data as data_floor
from gpubackprop.backend import choose
from gpubackprop.backend.precision import PRECISIONS, in_words
from gpubackprop.config import Config, load_config
from gpubackprop.data import Data, Preprocessing
from gpubackprop.errors import DivergedError, GpubackpropError, InterruptedRun, OutOfMemoryError, UsageError
from gpubackprop.optim.schedule import Constant
from gpubackprop.run import directory as files
from gpubackprop.run.build import train_step
from gpubackprop.run.check import Plan, make_plan
from gpubackprop.run.directory import RunDirectory
from gpubackprop.run.gradcheck import check_plugins
from gpubackprop.run.memory import explained
from gpubackprop.run.observers import LogFile, MetricsFile, Progress, TensorBoard
from gpubackprop.run.signals import Signals
from gpubackprop.run.use import Run, preprocessing_of
from gpubackprop.training import checkpoint
from gpubackprop.training.trainer import State, Trainer

Say = Callable[[str], None]


def train(
    config: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    progress: bool = False,
    say: Say | None = None,
) -> Run:
    """Train from a config file, the name of a template, or the same as a dict, and return the finished run.

    overrides  `{"training.epochs": 3}`, as `--set` on the command line
    data       the user's own arrays in place of the config's source: {"train": (x, y), "validation": (x, y), …}
    run_dir    where to write; must be new or empty
    say        called with lines for the user, such as the device that was chosen

    Raises ConfigError, DataError, DeviceError before anything is written; DivergedError, InterruptedRun later.
    """
    plan = make_plan(config, overrides, data)
    RunDirectory.check(plan.config.name, run_dir)
    prepared, chosen, checked = _ready(plan, None)
    directory = RunDirectory.create(plan.config.name, run_dir)
    files.write_text(directory.config, plan.config.text)
    files.write_text(directory.resolved, plan.config.resolved_yaml())
    directory.write_json(directory.environment, files.environment(chosen))
    files.write_text(directory.preprocessing, json.dumps(prepared.preprocessing.to_json(), indent=1) + "\n")
    return _Training(plan, prepared, directory, None, progress, say).run(chosen, *checked)


def resume(
    run_dir: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    progress: bool = False,
    say: Say | None = None,
) -> Run:
    """Go on exactly where the last checkpoint of a run stood; the result is that of a run without the break.

    `overrides` change the run's config from here on, e.g. `{"training.epochs": 20}`. A run that has come to its end is
    returned as it is; one that was stopped before its first checkpoint begins anew.

    Raises UsageError where a run has come to its end, and overrides change it and yet leave no step to make.
    """
    directory = RunDirectory.open(run_dir)
    overrides = overrides if isinstance(overrides, Mapping) else list(overrides)
    plan = make_plan(directory.resolved, overrides, data)
    last = checkpoint.latest(directory.checkpoints)
    if last and _ended(plan, directory, state := checkpoint.load_state(last)):
        ended = f"{directory.path}: this run has come to its end"
        remedy = "to train on, raise training.epochs (or steps) by --set"
        if state.step < plan.total_steps:
            remedy = "to train on, raise training.early_stopping.patience by --set: it had stopped early"
        if changed := _changed(directory, plan.config):
            raise UsageError(f"{ended}, so that another {changed} would change nothing; {remedy}")
        if say:
            say(f"{ended}, nothing to do; {remedy}")
        return Run(directory)
    if last is None and say:
        say(f"{directory.path}: holds no checkpoint yet; training begins anew")
    prepared, chosen, checked = _ready(plan, preprocessing_of(directory))
    plan.model.built.backend.adopt(directory.choices)
    training = _Training(plan, prepared, directory, last, progress, say)
    if overrides:
        files.write_text(directory.resolved, plan.config.resolved_yaml())
    directory.cut_metrics(training.state.step)
    return training.run(chosen, *checked)


def _ended(plan: Plan, directory: RunDirectory, state: State) -> bool:
    """Whether there is no step left to make, and the test figures are written."""
    stopping = plan.config.training.early_stopping
    done = state.done(plan.total_steps, stopping.patience if stopping else None)
    return done and ("test" not in plan.info.counts or directory.tested)


def _changed(directory: RunDirectory, config: Config) -> str:
    """Keys in which `config` is not what the run was trained with; where it is to run does not count."""
    before, after = load_config(directory.resolved).resolved(), config.resolved()
    return ", ".join(_differing(before | {"device": None}, after | {"device": None}))


def _differing(one: Any, other: Any, key: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one:
            yield from _differing(one[name], other[name], f"{key}.{name}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, f"{key}.{number}")
    elif one != other:
        yield key


def _ready(plan: Plan, preprocessing: Preprocessing | None) -> tuple[Data, str, list[str]]:
    """The data, the device in words, what is to be known of precision and plugins; where several are at fault, the
    device comes last."""
    config = plan.config
    prepared = data_floor.prepare(
        plan.source,
        plan.options,
        seed=config.seed,
        dtype=PRECISIONS[config.precision],
        preprocessing=preprocessing,
        accumulate=config.training.accumulate,
    )
    checked = check_plugins(plan, prepared.train)
    with explained(config, plan.model, plan.options.batch_size):
        _, chosen = choose(config.device, config.kernels)
        plan.model.build(plan.info.input_shape, config.seed, config.device, config.precision, config.kernels)
    known = in_words(config.precision, plan.model.built.backend.device)
    return prepared, chosen, [*([known] if known else []), *checked]


class _Training:
    """One training: a Trainer whose checkpoints and records go to a run directory, and what comes after it."""

    def __init__(
        self,
        plan: Plan,
        prepared: Data,
        directory: RunDirectory,
        last: Path | None,
        progress: bool,
        say: Say | None,
    ) -> None:
        self.plan, self.data, self.directory = plan, prepared, directory
        self._say, self._progress = say, progress
        config, training, stopping = plan.config, plan.config.training, plan.config.training.early_stopping
        with explained(config, plan.model, plan.options.batch_size):
            self.step = train_step(config, plan.model, plan.loss)
            self.state = checkpoint.load(last, self.step) if last else State()
        self.state.finished = False
        self.resumed_at = self.state.step if last else None
        self.log, self.metrics, self.bar = LogFile(directory), MetricsFile(directory), Progress()
        self.tensorboard = TensorBoard(directory, self.resumed_at)
        self.signals = Signals()
        self.trainer = Trainer(
            self.step,
            config.schedule.build(plan.total_steps) if config.schedule else Constant(plan.total_steps),
            prepared.train,
            total_steps=plan.total_steps,
            validation=prepared.validation,
            metrics=plan.metrics,
            monitor=plan.monitor,
            accumulate=training.accumulate,
            patience=stopping.patience if stopping else None,
            min_delta=stopping.min_delta if stopping else 0.0,
            log_every=training.log_every,
            validate_every=training.validate_every,
            checkpoint_every=training.checkpoint.every,
            save=self.save,
            observers=[self.metrics, self.log, self.tensorboard, *([self.bar] if progress else [])],
            state=self.state,
            interrupted=lambda: self.signals.received is not None,
            say=self.say,
        )

    def say(self, line: str) -> None:
        """To train.log, and to whoever listens."""
        self.log.write(line)
        if self._say:
            self._say(line)

    def save(self, name: str) -> None:
        """Write the checkpoint `name`; drop numbered ones beyond what is to be kept."""
        keep = self.plan.config.training.checkpoint.keep
        if name.startswith("step-") and not keep:
            return
        checkpoint.save(self.directory.checkpoints / name, self.step, self.state)
        self.directory.keep_choices(self.plan.model.built.backend.choices)
        checkpoint.prune(self.directory.checkpoints, keep)

    def run(self, *lines: str) -> Run:
        """Train, then touch the test split once. `lines` say which device it is and why, and what was checked."""
        self.introduce(*lines)
        try:
            backend, config = self.plan.model.built.backend, self.plan.config
            with (
                explained(config, self.plan.model, self.plan.options.batch_size, self.step),
                backend.announcing(self.say),
            ):
                self.fit()
                self.conclude()
                self.test()
        except (DivergedError, OutOfMemoryError) as error:
            raise type(error)(self.told(f"{error}; {self.kept()}")) from error
        except GpubackpropError as error:
            self.told(str(error))
            raise
        finally:
            self.tensorboard.close()
        return Run(self.directory)

    def fit(self) -> None:
        """Train to the end, or until a signal comes. Raises DivergedError, InterruptedRun."""
        if self._progress:
            self.bar.start(self.trainer)
        try:
            with self.signals:
                self.trainer.run()
        finally:
            self.bar.stop()
        if self.signals.received is not None and not self.state.finished:
            name = signal.Signals(self.signals.received).name
            go_on = f"gpubackprop train --resume {shlex.quote(str(self.directory.path))}"
            line = f"stopped by {name} at step {self.state.step}; go on with: {go_on}"
            raise InterruptedRun(line, 128 + self.signals.received)

    def introduce(self, *lines: str) -> None:
        """Say what is going to happen, and where."""
        splits = (("train", self.data.train), ("validation", self.data.validation), ("test", self.data.test))
        counts = ", ".join(f"{len(loader.split):,} {name}" for name, loader in splits if loader is not None)
        for line in lines:
            self.say(line)
        self.say(
            f"{self.plan.config.name}: {self.plan.model.parameters().count:,} parameters, {counts}, "
            f"{self.plan.total_steps:,} steps, {self.plan.steps_per_epoch:,} an epoch"
        )
        for line in self.plan.notes:
            self.say(line)
        where = "" if self.resumed_at is None else f", going on from step {self.resumed_at:,}"
        self.say(f"run directory: {self.directory.path}{where}")

    def conclude(self) -> None:
        """Say why it ended before its time, and which checkpoint is the best."""
        state, monitor = self.state, self.plan.monitor
        if state.step < self.plan.total_steps:
            self.say(f"stopped early at step {state.step:,}: {monitor} has not improved {state.since_best} times")
        if state.best is not None:
            self.say(f"best checkpoint: step {state.best_step:,}, {monitor} {state.best:.4g}")

    def test(self) -> None:
        """Metrics of the best checkpoint (else the last) on the test split, as the last line of metrics.jsonl."""
        if self.data.test is None:
            return
        name = "best" if self.state.best is not None else "last"
        checkpoint.load_model(checkpoint.find(self.directory.checkpoints, name), self.plan.model)
        found = self.trainer.evaluation(self.data.test.batches())
        stamp = {"step": self.state.step, "epoch": self.trainer.epoch, "time": self.state.seconds}
        record = stamp | {f"test/{name}": value for name, value in found.items()}
        for observer in (self.metrics, self.log, self.tensorboard):
            observer.recorded(self.trainer, record)

    def told(self, line: str) -> str:
        """`line`, written to train.log; whoever raises or returns it tells the user."""
        self.log.write(line)
        return line

    def kept(self) -> str:
        """Which checkpoint a failure has left."""
        last = checkpoint.latest(self.directory.checkpoints)
        if last is None:
            return "no checkpoint had been written"
        return f"the checkpoint of step {checkpoint.load_state(last).step} is kept: {last}"
