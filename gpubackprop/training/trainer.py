"""The training loop. *When* something happens (a trigger) is apart from *what* happens (an action)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from operator import mul
from typing import Any, Literal, Protocol, TypeAlias

from gpubackprop.backend import Array
from gpubackprop.data import Loader, prefetch
from gpubackprop.errors import DivergedError
from gpubackprop.optim import Schedule
from gpubackprop.training.evaluate import Evaluation
from gpubackprop.training.metric import Metric
from gpubackprop.training.step import Batch, TrainStep, samples_in

Record: TypeAlias = dict[str, float]


@dataclass
class State:
    """All that a run must remember to go on exactly where it stood; everything else is a function of `step`."""

    step: int = 0  #: updates done
    seconds: float = 0.0  #: time spent in training so far
    counts: list[int] = field(default_factory=list)  #: samples of each step since the last log line
    logged_at: float = 0.0  #: `seconds` at the last log line
    losses: list[float] = field(default_factory=list)  #: of each step since the last log line
    best: float | None = None  #: the monitored figure of the best checkpoint
    best_step: int = 0
    since_best: int = 0  #: monitored figures without an improvement, for early stopping
    validation: Record = field(default_factory=dict)  #: of the last validation
    schedule: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    def done(self, total_steps: int, patience: int | None) -> bool:
        """Whether all steps are made or early stopping has had enough."""
        return self.step >= total_steps or (patience is not None and self.since_best >= patience)


@dataclass(frozen=True)
class Every:
    """A trigger: every `steps` updates, or at the end of every epoch; always at the end of training."""

    steps: int | Literal["epoch"]

    def __call__(self, trainer: Trainer) -> bool:
        """Whether it is time, after a step."""
        period = trainer.steps_per_epoch if self.steps == "epoch" else self.steps
        return trainer.state.step % period == 0 or trainer.state.step == trainer.total_steps


class Observer(Protocol):
    """Somebody who is told about a run: a progress bar, a log file, TensorBoard."""

    def stepped(self, trainer: Trainer) -> None:
        """After every step. Must not wait for the device."""

    def recorded(self, trainer: Trainer, record: Record) -> None:
        """After a line of metrics was put together."""


class Trainer:
    """Runs TrainStep over an epoch's batches until the steps are done, a signal comes or early stopping says so.

    save    called with a checkpoint's name ("last", "best", "step-00000500")
    monitor the figure that chooses the best checkpoint and that early stopping and the plateau schedule look at, each
            time that it is measured: "val/accuracy", "train/loss"; None where there is none
    """

    MANY = 10  #: steps left out in a row that are worth a warning: from 65536 the scale finds its place in fewer

    def __init__(
        self,
        step: TrainStep,
        schedule: Schedule,
        loader: Loader,
        *,
        total_steps: int,
        validation: Loader | None = None,
        metrics: Sequence[Metric] = (),
        monitor: str | None = None,
        accumulate: int = 1,
        patience: int | None = None,
        min_delta: float = 0.0,
        log_every: int = 50,
        validate_every: int | Literal["epoch"] = "epoch",
        checkpoint_every: int | Literal["epoch"] = "epoch",
        save: Callable[[str], None] = lambda name: None,
        observers: Sequence[Observer] = (),
        state: State | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.step, self.schedule, self.loader, self.validation = step, schedule, loader, validation
        self.metrics, self.monitor, self.accumulate = metrics, monitor, accumulate
        self.patience, self.min_delta = patience, min_delta
        self.total_steps = total_steps
        self.steps_per_epoch = math.ceil(len(loader) / accumulate)
        self.save, self.observers, self.interrupted, self.say = save, observers, interrupted, say
        self.state = state or State()
        self.base_lr = step.optimizer.lr
        self.evaluation = Evaluation(step.model, step.loss, metrics)
        self._pending: list[Array] = []  # losses still on the device
        self._started = time.perf_counter() - self.state.seconds
        self._actions: list[tuple[Every, Callable[[], Record]]] = [
            (Every(log_every), self.log),
            (Every("epoch"), self.log),
            *([(Every(validate_every), self.validate)] if validation else []),
        ]
        self._checkpoint_every = Every(checkpoint_every)
        if self.state.schedule:
            schedule.load_state(self.state.schedule)

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> State:
        """Train to the end. Raises DivergedError; returns early, `finished` unset, where a signal came."""
        state = self.state
        for batches in self.batches():
            if state.step % self.steps_per_epoch == 0:
                self.step.carries.clear()  # the data begins again, and what came before it is not its past
            self.set_rate()
            self._pending.append(self.step(batches))
            state.step += 1
            state.counts.append(sum(map(samples_in, batches)))
            self._tell()
            if self._checkpoint_every(self):
                self.checkpoint(f"step-{state.step:08d}", "last")
            if self.done or self.interrupted():
                break
        state.finished = self.done
        self.checkpoint("last")
        return state

    def _tell(self) -> None:
        """Let whatever is due add to a line of metrics, and tell the observers."""
        record: Record = {}
        for due, action in self._actions:
            if due(self):
                record |= action()
        for observer in self.observers:
            observer.stepped(self)
            if record:
                observer.recorded(self, self._stamped(record))
        if self.monitor in record:
            self.compare(record[self.monitor])

    def batches(self) -> Iterator[list[Batch]]:
        """Groups of micro-batches from where the run stands, prepared ahead in a thread."""
        while not self.done:
            epoch, start = divmod(self.state.step, self.steps_per_epoch)
            first = start * self.accumulate
            ahead = prefetch(partial(self._batch, epoch, first), len(self.loader) - first)
            group: list[Batch] = []
            for batch in ahead:
                group.append(batch)
                if len(group) == self.accumulate:
                    yield group
                    group = []
            if group:
                yield group

    def _batch(self, epoch: int, first: int, index: int) -> Batch:
        return self.loader.batch(epoch, first + index)

    def set_rate(self) -> None:
        """The learning rate of the next step, and its momentum where the schedule cycles that too."""
        optimizer, step = self.step.optimizer, self.state.step
        optimizer.lr = self.schedule.lr(step, self.base_lr)
        momentum = self.schedule.momentum(step)
        optimizer.momentum = optimizer.momentum if momentum is None else momentum

    @property
    def done(self) -> bool:
        """Whether all steps are made or early stopping has had enough."""
        return self.state.done(self.total_steps, self.patience)

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.state.step / self.steps_per_epoch

    # --- what may be due ---------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Read the losses of the latest steps: the wait for the device that a log line or a checkpoint costs."""
        backend = self.step.model.built.backend
        if self._pending:
            values = [float(loss) for loss in backend.to_host(backend.xp.stack(self._pending))]
            first = self.state.step - len(values) + 1
            self._pending.clear()
            self.state.losses += values
            for number, value in enumerate(values, first):
                if not math.isfinite(value):
                    raise self.diverged(number, f"the loss is {value}")
        self.state.seconds = time.perf_counter() - self._started

    def log(self) -> Record:
        """Mean loss of the samples, learning rate and speed since the last line."""
        self.collect()
        state = self.state
        if not state.losses:
            return {}
        elapsed, samples = state.seconds - state.logged_at, sum(state.counts)
        record = {
            "train/loss": sum(map(mul, state.losses, state.counts)) / samples,
            "lr": self.step.optimizer.lr,
            "samples_per_sec": samples / elapsed if elapsed > 0 else 0.0,
        }
        if self.step.grad_norm is not None:
            record["grad_norm"] = float(self.step.model.built.backend.to_host(self.step.grad_norm))
        state.losses, state.counts, state.logged_at = [], [], state.seconds
        return record | self._scale()

    def _scale(self) -> Record:
        """The loss scale, and how many steps it has left out so far; a warning where many in a row."""
        scale = self.step.loss_scale
        if scale is None:
            return {}
        found = scale.state_dict()
        _, in_a_row, in_all = found["counts"].tolist()
        if in_a_row >= self.MANY:
            self.say(
                f"warning: the last {in_a_row} steps were left out, since their gradients are not finite in float16, "
                f"even at a loss scale of {float(found['scale']):.3g}; try precision bfloat16, or a lower lr"
            )
        return {"loss_scale": float(found["scale"]), "skipped_steps": float(in_all)}

    def validate(self) -> Record:
        """Loss and metrics on the validation split, of the averaged weights where there are such."""
        assert self.validation is not None
        self.collect()
        average = self.step.average
        with average.swapped() if average else nullcontext():
            found = self.evaluation(self.validation.batches())
        self.state.validation = {f"val/{name}": value for name, value in found.items()}
        self.state.logged_at += time.perf_counter() - self._started - self.state.seconds  # not training time
        return self.state.validation

    def compare(self, value: float) -> None:
        """Keep the best checkpoint and count figures without improvement; the schedule may want to know too."""
        state = self.state
        self.schedule.observe(value, self.better)
        gain = (value - state.best) * (1 if self.better == "max" else -1) if state.best is not None else math.inf
        if gain > self.min_delta and math.isfinite(value):
            state.best, state.best_step, state.since_best = value, state.step, 0
            self.checkpoint("best")
        else:
            state.since_best += 1

    @property
    def better(self) -> Literal["max", "min"]:
        """Which direction of the monitored figure is an improvement."""
        name = (self.monitor or "").partition("/")[2]
        return next((metric.better for metric in self.metrics if metric.name == name), "min")

    def checkpoint(self, *names: str) -> None:
        """Save under one or more names, after making sure that what is saved is finite."""
        self.collect()
        backend, parameters = self.step.model.built.backend, self.step.optimizer.params
        if not bool(backend.to_host(backend.xp.isfinite(parameters.master).all())):
            raise self.diverged(self.state.step, "a weight became infinite or not a number")
        self.state.schedule = self.schedule.state()
        for name in names:
            self.save(name)

    def diverged(self, step: int, what: str) -> DivergedError:
        """What to say when training went astray."""
        lr = self.schedule.lr(step - 1, self.base_lr)
        short = ", or precision bfloat16: float16 ends at 65504" if self.step.loss_scale is not None else ""
        return DivergedError(
            f"training diverged at step {step}: {what} (lr {lr:.3g}); try a lower lr, clip_norm or a warmup{short}"
        )

    def _stamped(self, record: Record) -> Record:
        stamp = {"step": self.state.step, "epoch": self.epoch, "time": self.state.seconds}
        return stamp | record
