"""Every error that a user can meet, and the exit code that the command line ends with.

GpubackpropError                 1   something failed
├── UsageError                   2   a mistake in the command, the config or the data
│   ├── ConfigError              2   problems in a config file, all of them at once
│   ├── DataError                2   a data file that is missing, damaged or of the wrong kind
│   ├── ShapeError               2   a layer that cannot take what the layer before it gives
│   ├── OperatorError            2   an operator or a NumPy function on a Tensor, which takes ops alone; a TypeError
│   └── CheckpointError          2   a run directory or checkpoint that cannot be used
├── OutOfMemoryError             1   the device's memory is used up; a MemoryError
├── DivergedError                3   the loss became infinite or not a number
├── DeviceError                  4   the device that was asked for is not available
└── InterruptedRun         130, 143  stopped by a signal, after a checkpoint was written

Python callers catch the class; the command line prints `str(error)` on stderr, one line per
problem, and exits with `error.exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class GpubackpropError(Exception):
    """Base class of all errors that this package raises on purpose."""

    exit_code = 1


class UsageError(GpubackpropError, ValueError):
    """The caller's mistake: the message says what is wrong and what would be right."""

    exit_code = 2


class DataError(UsageError):
    """A data file that is missing, damaged or of the wrong kind."""


class ShapeError(UsageError):
    """A layer cannot take what the layer before it gives, or arrays do not fit together.

    `path` is the key of the layer, outermost first, as far as the containers around it have said; `layer` is the layer
    itself, or the innermost around it that a config has named, so that it can say where it stands.
    """

    def __init__(self, reason: str, path: tuple[str, ...] = (), layer: object = None) -> None:
        super().__init__(f"layer {'.'.join(path)}: {reason}" if path else reason)
        self.reason, self.path, self.layer = reason, path, layer

    def under(self, key: str, layer: object) -> ShapeError:
        """The same error, seen from a container that holds `layer` under `key`."""
        named = self.layer if getattr(self.layer, "origin", None) is not None else layer
        return ShapeError(self.reason, (key, *self.path), named)


class CheckpointError(UsageError):
    """A run directory or a checkpoint that is missing, damaged or of another model."""


class OperatorError(UsageError, TypeError):
    """An operator or a NumPy function was applied to a Tensor: only ops are recorded on the tape."""


class OutOfMemoryError(GpubackpropError, MemoryError):
    """The device has less memory than was needed; the message says for what, and what to change."""


class DivergedError(GpubackpropError):
    """The loss became infinite or not a number."""

    exit_code = 3


class DeviceError(GpubackpropError):
    """The device that was asked for is not available; the message gives its own reason."""

    exit_code = 4


class InterruptedRun(GpubackpropError):
    """Training was stopped by a signal; a checkpoint had been written before this was raised."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Problem(NamedTuple):
    """One mistake in a config: where it stands, which key, what is wrong and what is allowed."""

    where: str  #: `file:line:column`, or `--set` for a value from the command line
    key: str  #: dotted path, `model.3.linear.out_features`
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class ConfigError(UsageError):
    """All the problems of one config, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))
