"""Training a config, and going on with a run that was interrupted."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpubackprop import data as data_floor
from gpubackprop.backend import choose
from gpubackprop.data import Data, Preprocessing
from gpubackprop.errors import GpubackpropError, InterruptedRun
from gpubackprop.nn.layer import PRECISIONS
from gpubackprop.optim import Optimizer
from gpubackprop.optim.schedule import Constant
from gpubackprop.run import directory as files
from gpubackprop.run.check import Plan, make_plan
from gpubackprop.run.directory import RunDirectory
from gpubackprop.run.observers import LogFile, MetricsFile, Progress, TensorBoard, in_words
from gpubackprop.run.use import Run, preprocessing_of
from gpubackprop.training import checkpoint
from gpubackprop.training.evaluate import evaluate
from gpubackprop.training.step import TrainStep
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
    """Train from a config file (or the same as a dict) and return the finished run.

    overrides  `{"training.epochs": 3}`, as `--set` on the command line
    data       the user's own arrays in place of the config's source: {"train": (x, y), "validation": (x, y), …}
    run_dir    where to write; must be new or empty
    say        called with lines for the user, such as the device that was chosen

    Raises ConfigError, DataError, DeviceError before anything is written; DivergedError, InterruptedRun later.
    """
    checked = make_plan(config, overrides, data)
    if run_dir is not None:
        files.check_new(run_dir)
    prepared, chosen = _ready(checked, None)
    directory = RunDirectory.create(checked.config.name, run_dir)
    files.write_text(directory.config, checked.config.text)
    files.write_text(directory.resolved, checked.config.resolved_yaml())
    directory.write_json(directory.environment, files.environment(chosen))
    files.write_text(directory.preprocessing, json.dumps(prepared.preprocessing.to_json(), indent=1) + "\n")
    return _Training(checked, prepared, directory, chosen, progress, say).run()


def resume(
    run_dir: str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    progress: bool = False,
    say: Say | None = None,
) -> Run:
    """Go on exactly where the last checkpoint of a run stood; the result is that of a run without the break.

    `overrides` change the run's config from here on, e.g. `{"training.epochs": 20}`.
    """
    directory = RunDirectory.open(run_dir)
    checked = make_plan(directory.resolved, overrides, data)
    last = checkpoint.find(directory.checkpoints, "last")
    prepared, chosen = _ready(checked, preprocessing_of(directory))
    training = _Training(checked, prepared, directory, chosen, progress, say, last)
    if overrides:
        files.write_text(directory.resolved, checked.config.resolved_yaml())
    directory.cut_metrics(training.state.step)
    return training.run()


def _ready(checked: Plan, preprocessing: Preprocessing | None) -> tuple[Data, str]:
    """Device first, since a missing one costs nothing to find out; then the data, and the model on the device."""
    config = checked.config
    _, chosen = choose(config.device)
    dtype = PRECISIONS[config.precision]
    prepared = data_floor.prepare(
        checked.source, checked.options, seed=config.seed, dtype=dtype, preprocessing=preprocessing
    )
    checked.model.build(checked.info.input_shape, config.seed, config.device, config.precision)
    return prepared, chosen


class _Training:
    """The parts of one training, put together."""

    def __init__(
        self,
        checked: Plan,
        prepared: Data,
        directory: RunDirectory,
        chosen: str,
        progress: bool,
        say: Say | None,
        last: Path | None = None,
    ) -> None:
        self.plan, self.data, self.directory = checked, prepared, directory
        self.log = LogFile(directory)
        self._say = say
        config, training = checked.config, checked.config.training
        self.optimizer: Optimizer = config.optimizer.build(checked.model.parameters())
        self.state = checkpoint.load(last, checked.model, self.optimizer) if last else State()
        self.state.finished = False
        per_epoch = -(-len(prepared.train) // training.accumulate)
        total = training.steps or per_epoch * (training.epochs or 1)
        self.bar = Progress()
        self.tensorboard = TensorBoard(directory, self.state.step if last else None)
        self._signal: int | None = None
        stopping = training.early_stopping
        self.trainer = Trainer(
            TrainStep(checked.model, checked.loss, self.optimizer, training.clip_norm, training.clip_value),
            config.schedule.build(total) if config.schedule else Constant(total),
            prepared.train,
            total_steps=total,
            validation=prepared.validation,
            metrics=checked.metrics,
            monitor=checked.monitor,
            accumulate=training.accumulate,
            patience=stopping.patience if stopping else None,
            min_delta=stopping.min_delta if stopping else 0.0,
            log_every=training.log_every,
            validate_every=training.validate_every,
            checkpoint_every=training.checkpoint.every,
            save=self.save,
            observers=[MetricsFile(directory), self.log, self.tensorboard, *([self.bar] if progress else [])],
            state=self.state,
            interrupted=lambda: self._signal is not None,
        )
        self.say(chosen)
        parameters = checked.model.parameters()
        self.say(
            f"{config.name}: {parameters.count:,} parameters, {_counts(prepared)}, "
            f"{total:,} steps, {per_epoch:,} an epoch"
        )
        self.say(f"run directory: {directory.path}" + (f", going on from step {self.state.step:,}" if last else ""))
        self._progress = progress

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
        checkpoint.save(self.directory.checkpoints / name, self.plan.model, self.optimizer, self.state)
        checkpoint.prune(self.directory.checkpoints, keep)

    def run(self) -> Run:
        """Train, then touch the test split once."""
        if self._progress:
            self.bar.start(self.trainer)
        try:
            with self.signals():
                self.trainer.run()
        except GpubackpropError as error:
            self.log.write(str(error))
            raise
        finally:
            self.bar.stop()
            self.tensorboard.close()
        if self._signal is not None and not self.state.finished:
            name = signal.Signals(self._signal).name
            go_on = f"gpubackprop train --resume {self.directory.path}"
            line = f"stopped by {name} at step {self.state.step}; go on with: {go_on}"
            self.log.write(line)
            raise InterruptedRun(line, 128 + self._signal)
        self.test()
        return Run(self.directory)

    def test(self) -> None:
        """Metrics of the best checkpoint on the test split, as the last line of metrics.jsonl."""
        if self.data.test is None:
            return
        if self.state.best is not None:
            checkpoint.load_model(checkpoint.find(self.directory.checkpoints, "best"), self.plan.model)
        found = evaluate(self.plan.model, self.plan.loss, self.plan.metrics, self.data.test.batches())
        stamp = {"step": self.state.step, "epoch": self.trainer.epoch, "time": self.state.seconds}
        record = stamp | {f"test/{name}": value for name, value in found.items()}
        MetricsFile(self.directory).recorded(self.trainer, record)
        self.log.write(in_words(record))

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the loop after the step that runs; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return

        def stop(number: int, frame: object) -> None:
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _counts(prepared: Data) -> str:
    splits = (("train", prepared.train), ("validation", prepared.validation), ("test", prepared.test))
    return ", ".join(f"{len(loader.split):,} {name}" for name, loader in splits if loader is not None)
