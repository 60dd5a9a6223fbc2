"""Where samples come from: splits of arrays, what is known of them beforehand, and the registry of sources."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpubackprop.errors import DataError
from gpubackprop.registry import Registry

Array = NDArray[Any]
Rows = NDArray[np.int64]
SplitName = Literal["train", "validation", "test"]

MOST_CLASSES = 100_000  #: whole numbers beyond this are quantities or identifiers, not classes


@dataclass(frozen=True)
class Split:
    """Samples of one split: inputs (N, *input_shape), targets (N, *target_shape), in memory or memory-mapped.

    `rows` makes it a subset of the arrays without a copy: sample i is row `rows[i]`.
    """

    inputs: Array
    targets: Array
    rows: Rows | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(f"{len(self.inputs)} inputs but {len(self.targets)} targets; there must be one per sample")

    def __len__(self) -> int:
        return len(self.inputs) if self.rows is None else len(self.rows)

    def take(self, samples: Rows) -> tuple[Array, Array]:
        """Fresh copies of the inputs and targets of `samples` (B,), in that order."""
        rows = samples if self.rows is None else self.rows[samples]
        return _gather(self.inputs, rows), _gather(self.targets, rows)

    def subset(self, samples: Rows) -> Split:
        """The split of `samples` (M,) alone."""
        return Split(self.inputs, self.targets, samples if self.rows is None else self.rows[samples])

    def labels(self) -> Array | None:
        """Class of every sample (N,), or None where the targets are no classes."""
        if not is_classes(self.targets):
            return None
        return np.asarray(self.targets if self.rows is None else self.targets[self.rows])


@dataclass(frozen=True)
class Splits:
    """What a source holds; a split that it has not is None."""

    train: Split
    validation: Split | None = None
    test: Split | None = None


@dataclass(frozen=True)
class DataInfo:
    """What is known from headers alone: enough to check a config and to build a model.

    Shapes are those of one sample. Dtypes are those stored: uint8 and floats reach the model as floats, other
    integers as int64. `classes` is None where the targets are no classes.
    """

    input_shape: tuple[int, ...]
    input_dtype: str
    target_shape: tuple[int, ...]
    target_dtype: str
    classes: list[str] | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def float_inputs(self) -> bool:
        """False where the inputs are numbers of words or symbols, for an embedding."""
        return self.input_dtype in ("uint8", "bool") or self.input_dtype.startswith("float")


class Source:
    """A place that data comes from. Subclasses give `info` and `read`; options are the constructor's arguments."""

    path: str | None  #: of sources that read files; others have no such attribute

    def info(self) -> DataInfo:
        """Shapes, dtypes, classes and counts from headers alone; DataError where files are missing or damaged."""
        raise NotImplementedError

    def read(self, name: SplitName) -> Split | None:
        """One split, or None where this source has no such split."""
        raise NotImplementedError

    def load(self) -> Splits:
        """All splits, to train on; DataError where there is nothing to train on."""
        train = self.read("train")
        if train is None:
            raise DataError(f"{self.label}: no training samples here")
        return Splits(train, self.read("validation"), self.read("test"))

    def samples(self, *names: SplitName) -> Split:
        """The first of the named splits that there is; DataError where there is none."""
        for name in names:
            split = self.read(name)
            if split is not None:
                return split
        raise DataError(f"{self.label}: no samples here; looked for {', '.join(names)}")

    def at(self, path: str) -> Source:
        """This source with the same options on another path; DataError for a source that has none."""
        if not hasattr(self, "path"):
            raise DataError(f"{path}: data source {self.label} reads no files, so it cannot be pointed at a path")
        other = copy.copy(self)
        other.path = path
        return other

    @property
    def label(self) -> str:
        """How messages name this source: its path, else its type."""
        return getattr(self, "path", None) or repr(sources.name_of(type(self)))


sources: Registry[Source] = Registry("data source", Source)


def existing(path: str | None, kind: str) -> Path:
    """`path` as a Path; DataError that says where it was looked for, where there is nothing."""
    if not path:
        raise DataError(f"data source {kind} needs 'path'; a file or folder, relative to the current directory")
    found = Path(path).expanduser()
    if not found.exists():
        where = "" if found.is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"{path}: no such file or folder{where}; data paths are relative to the current directory")
    return found


def is_classes(targets: Array) -> bool:
    """Whether targets (N, …) are one class number per sample."""
    return targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)


def numbered_classes(targets: Array) -> list[str] | None:
    """Names "0", "1", … for class targets (N,); None where the targets are no classes."""
    if not is_classes(targets) or not len(targets):
        return None
    highest = int(targets.max())
    return [str(number) for number in range(highest + 1)] if 0 <= highest < MOST_CLASSES else None


def describe(train: Split, classes: Sequence[str] | None, counts: dict[str, int]) -> DataInfo:
    """The DataInfo of arrays that are open already."""
    return DataInfo(
        input_shape=tuple(train.inputs.shape[1:]),
        input_dtype=train.inputs.dtype.name,
        target_shape=tuple(train.targets.shape[1:]),
        target_dtype=train.targets.dtype.name,
        classes=None if classes is None else list(classes),
        counts=counts,
    )


def _gather(array: Array, rows: Rows) -> Array:
    if not isinstance(array, np.memmap):
        return np.take(array, rows, axis=0)
    order = np.argsort(rows)  # a file is read forwards
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    out[order] = array[rows[order]]
    return out
