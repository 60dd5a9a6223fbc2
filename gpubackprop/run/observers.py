"""Who watches a run: metrics.jsonl, train.log, TensorBoard, and the progress bar on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from gpubackprop.run.directory import RunDirectory
from gpubackprop.training.trainer import Record, Trainer


class MetricsFile:
    """metrics.jsonl: one JSON object a line, flushed at once. Opened at the first line, so nothing has to be closed."""

    def __init__(self, directory: RunDirectory) -> None:
        self.path = directory.metrics

    def stepped(self, trainer: Trainer) -> None:
        """Nothing: lines come with records."""

    def recorded(self, trainer: Trainer, record: Record) -> None:
        """Append the line."""
        with self.path.open("a") as file:
            # JSON knows no infinity: a validation loss that overflows is null.
            file.write(json.dumps({name: v if math.isfinite(v) else None for name, v in record.items()}) + "\n")


class LogFile:
    """train.log: the same in words, for people who read over ssh."""

    def __init__(self, directory: RunDirectory) -> None:
        self.path = directory.log

    def stepped(self, trainer: Trainer) -> None:
        """Nothing: lines come with records."""

    def recorded(self, trainer: Trainer, record: Record) -> None:
        """Append the line."""
        self.write(in_words(record))

    def write(self, text: str) -> None:
        """A line with the time of day before it."""
        with self.path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


class TensorBoard:
    """Scalars as event files under tensorboard/, by step. What was written beyond `resumed_at` does not count."""

    def __init__(self, directory: RunDirectory, resumed_at: int | None = None) -> None:
        self._folder: Path = directory.tensorboard
        self._purge_step = None if resumed_at is None else resumed_at + 1  # TensorBoard drops this step and later ones
        self._make: Any = _summary_writer()  # imported before the clock runs
        self._writer: Any = None

    def stepped(self, trainer: Trainer) -> None:
        """Nothing: scalars come with records."""

    def recorded(self, trainer: Trainer, record: Record) -> None:
        """One event per figure."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=self._purge_step)
        for name, value in record.items():
            if name not in ("step", "time"):
                self._writer.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        """Flush and end the writer's thread."""
        if self._writer is not None:
            self._writer.close()


def _summary_writer() -> Any:
    """tensorboardX's writer. It imports torch where that is installed, for what is not used here: seconds."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say "not to be found"
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide:
            del sys.modules["torch"]
    return SummaryWriter


class Progress:
    """A bar on stderr: steps, epoch, last loss and metrics, samples/s, time left. Shown on a terminal only."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bar: Any = None
        self._task: Any = None
        self._shown: Record = {}

    def start(self, trainer: Trainer) -> None:
        """Draw the bar, where stderr is a terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(file=self._stream)
        if not console.is_terminal:
            return
        columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=console, transient=True)
        self._task = self._bar.add_task("", total=trainer.total_steps, completed=trainer.state.step)
        self._bar.start()

    def stepped(self, trainer: Trainer) -> None:
        """Move on."""
        if self._bar is not None:
            text = f"epoch {trainer.epoch:.1f}  {in_words(self._shown)}"
            self._bar.update(self._task, completed=trainer.state.step, description=text)

    def recorded(self, trainer: Trainer, record: Record) -> None:
        """Remember what to show beside the bar; print the lines that hold a validation."""
        shown = ("train/loss", trainer.monitor, "samples_per_sec")
        self._shown |= {name: value for name, value in record.items() if name in shown}
        if self._bar is not None and any(name.startswith("val/") for name in record):
            self._bar.console.print(in_words(record), highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away, so that what follows stands on a line of its own."""
        if self._bar is not None:
            self._bar.stop()


def in_words(record: Record) -> str:
    """`step 120 epoch 2 train/loss 0.2314 val/accuracy 0.9722 samples/s 51234`."""
    return "  ".join(f"{_NAMES.get(name, name)} {_figure(name, value)}" for name, value in record.items())


_NAMES = {"samples_per_sec": "samples/s", "train/loss": "loss"}


def _figure(name: str, value: float) -> str:
    if name == "step":
        return f"{value:.0f}"
    if name == "samples_per_sec":
        return f"{value:,.0f}"
    return f"{value:.1f}" + "s" if name == "time" else f"{value:.4g}"
