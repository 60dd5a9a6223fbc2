"""Where samples come from: splits of arrays, what is known of them beforehand, and the registry of sources."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data.vocabulary import Vocabulary
from gpubackprop.errors import DataError
from gpubackprop.registry import Registry

if TYPE_CHECKING:
    from gpubackprop.data.preprocessing import Preprocessing
    from gpubackprop.data.series import Series

T = TypeVar("T")
Array = NDArray[Any]
Value = Array | dict[str, Array]  #: one array, or several by name
Rows = NDArray[np.int64]
Shape = tuple[int, ...]
SplitName = Literal["train", "validation", "test"]

IGNORED = -100  #: the target that losses leave out, as PyTorch's ignore_index
MOST_CLASSES = 100_000  #: whole numbers beyond this are quantities or identifiers, not classes


def over(change: Callable[[Array], T], value: Value) -> T | dict[str, T]:
    """`change` of an array, or of each array of a dict."""
    return {name: change(array) for name, array in value.items()} if isinstance(value, dict) else change(value)


def named(value: Value) -> dict[str, Array]:
    """The arrays of a value by name; a single one has the name ""."""
    return value if isinstance(value, dict) else {"": value}


@dataclass(frozen=True)
class Split:
    """Samples of one split: inputs (N, *input_shape), targets (N, *target_shape), in memory or memory-mapped.

    Models of several inputs or outputs take dicts of such arrays. `mask` (N, T) is True at real positions of
    sequences that are padded to one length; `weight` (N,) is what each sample counts.
    `rows` makes it a subset of the arrays without a copy: sample i is row `rows[i]`.
    `contiguous` samples are consecutive pieces of one stream, which row r of a batch goes on with in the next batch.
    """

    inputs: Value
    targets: Value
    rows: Rows | None = None
    mask: Value | None = None
    weight: Array | None = None
    contiguous: bool = False

    def __post_init__(self) -> None:
        count = len(next(iter(named(self.inputs).values())))
        for what, value in self.arrays().items():
            for name, array in named(value).items():
                if len(array) != count:
                    which = f"{what} {name!r}" if name else what
                    raise DataError(f"{count} inputs but {len(array)} {which}; there must be one per sample")

    def __len__(self) -> int:
        return len(next(iter(named(self.inputs).values()))) if self.rows is None else len(self.rows)

    def arrays(self) -> dict[str, Value]:
        """All that there is, as a batch names it: inputs, targets, mask, weight."""
        found = {"inputs": self.inputs, "targets": self.targets, "mask": self.mask, "weight": self.weight}
        return {name: value for name, value in found.items() if value is not None}

    def take(self, samples: Rows) -> dict[str, Value]:
        """Fresh copies of inputs, targets and whatever else there is of `samples` (B,), in that order."""
        rows = samples if self.rows is None else self.rows[samples]
        return {name: over(lambda array: _gather(array, rows), value) for name, value in self.arrays().items()}

    def subset(self, samples: Rows) -> Split:
        """The split of `samples` (M,) alone."""
        return replace(self, rows=samples if self.rows is None else self.rows[samples])

    def labels(self) -> Array | None:
        """Class of every sample (N,), or None where the targets are no classes."""
        if isinstance(self.targets, dict) or not is_classes(self.targets):
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

    Shapes are those of one sample; of several inputs or targets, one each by name. Dtypes are those stored: uint8 and
    floats reach the model as floats, other integers as int64. `classes` is None where the targets are no classes.
    """

    input_shape: Shape | dict[str, Shape]
    input_dtype: str | dict[str, str]
    target_shape: Shape | dict[str, Shape]
    target_dtype: str | dict[str, str]
    classes: list[str] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None  #: of text
    series: Series | None = None  #: columns and scale of a series to forecast

    @property
    def float_inputs(self) -> bool:
        """False where an input holds numbers of words or symbols, for an embedding."""
        dtypes = self.input_dtype.values() if isinstance(self.input_dtype, dict) else [self.input_dtype]
        return all(dtype in ("uint8", "bool") or dtype.startswith("float") for dtype in dtypes)


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

    def holding_out(self, share: float) -> Source:
        """This source with a validation split of `share` of its training data, where it knows better than to draw
        samples: windows that overlap would be on both sides. One that is so divided already is itself the answer."""
        return self

    def after(self, preprocessing: Preprocessing) -> Source:
        """This source with what an earlier training learned from its data: a vocabulary, means."""
        return self

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
        return self.changed(path=path)

    def changed(self, **attributes: Any) -> Self:
        """A copy with other attributes, which has yet to read anything: cached properties are dropped."""
        other = copy.copy(self)
        for name in list(vars(other)):
            if isinstance(getattr(type(self), name, None), cached_property):
                del vars(other)[name]
        vars(other).update(attributes)
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


def describe(
    train: Split,
    classes: Sequence[str] | None,
    counts: Mapping[SplitName, int],
    vocabulary: Vocabulary | None = None,
    series: Series | None = None,
) -> DataInfo:
    """The DataInfo of arrays that are open already."""
    return DataInfo(
        input_shape=over(_sample_shape, train.inputs),
        input_dtype=over(_dtype_name, train.inputs),
        target_shape=over(_sample_shape, train.targets),
        target_dtype=over(_dtype_name, train.targets),
        classes=None if classes is None else list(classes),
        counts={str(name): count for name, count in counts.items()},
        vocabulary=vocabulary,
        series=series,
    )


def _sample_shape(array: Array) -> Shape:
    return tuple(array.shape[1:])


def _dtype_name(array: Array) -> str:
    return array.dtype.name


def _gather(array: Array, rows: Rows) -> Array:
    if not isinstance(array, np.memmap):
        # np.take would first copy the whole of an array whose rows overlap or lie apart.
        taken: Array = np.take(array, rows, axis=0) if array.flags.c_contiguous else array[rows]
        return taken
    order = np.argsort(rows)  # a file is read forwards
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    out[order] = array[rows[order]]
    return out
