"""NumPy arrays: an .npz file, a folder of memory-mapped .npy files, or arrays handed over in Python."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from gpubackprop.data.source import (
    Array,
    DataInfo,
    Source,
    Split,
    SplitName,
    Value,
    describe,
    existing,
    named,
    numbered_classes,
    over,
    sources,
)
from gpubackprop.errors import DataError
from gpubackprop.registry import did_you_mean

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
PARTS = ("inputs", "targets", "mask", "weight")


@sources.register("arrays")
class Arrays(Source):
    """An .npz with x_train, y_train and, where there are such splits, x_validation, y_validation, x_test, y_test; or a
    folder with x_train.npy, y_train.npy…, which stay on disk (memory-mapped).

    uint8 inputs become [0, 1], and (H, W) images of uint8 get a channel axis. Other integers are numbers of words or
    symbols; quantities must be floats. Whole-number targets (N,) are classes. Sequences of unequal length (N, T, …) may
    come with mask_train (N, T), True where they are real; samples with weight_train (N,), what each counts. Pickled
    objects are never loaded.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path

    def info(self) -> DataInfo:
        """From the headers; only class targets are read."""
        headers = {name: self._header(name) for name in self._names()}
        splits = [split for split in SPLITS if f"x_{split}" in headers or f"y_{split}" in headers]
        for split in splits:
            self._check_pair(split, headers)
        if not splits:
            raise self._nothing_here(headers)
        shape, dtype = headers[f"x_{splits[0]}"]
        target_shape, target_dtype = headers[f"y_{splits[0]}"]
        integers = len(target_shape) == 1 and np.issubdtype(target_dtype, np.integer)
        return DataInfo(
            input_shape=(*shape[1:], 1) if _grey(shape, dtype) else shape[1:],
            input_dtype=dtype.name,
            target_shape=target_shape[1:],
            target_dtype=target_dtype.name,
            classes=numbered_classes(self._array(f"y_{splits[0]}")) if integers else None,
            counts={split: headers[f"x_{split}"][0][0] for split in splits},
        )

    def read(self, name: SplitName) -> Split | None:
        """Arrays x (N, …) and y (N, …) of the split; memory-mapped where they are .npy files."""
        names = [found for found in (f"x_{name}", f"y_{name}") if found in self._names()]
        if not names:
            return None
        self._check_pair(name, {found: self._header(found) for found in names})
        x, y = (self._array(found) for found in names)
        extras = (
            self._array(found) if found in self._names() else None for found in (f"mask_{name}", f"weight_{name}")
        )
        return _split(f"{self.path}: {name}", x, y, *extras)

    def _names(self) -> list[str]:
        path = existing(self.path, "arrays")
        if path.is_dir():
            return sorted(file.stem for file in path.glob("*.npy"))
        try:
            with zipfile.ZipFile(path) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path}: not an .npz file ({error}); a folder of .npy files is allowed too") from error

    def _array(self, name: str) -> Array:
        path = existing(self.path, "arrays")
        if path.is_dir():
            return load_array(path / f"{name}.npy")
        with damage_named(path, name), np.load(path, allow_pickle=False) as archive:
            return cast(Array, archive[name])

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        path = existing(self.path, "arrays")
        if path.is_dir():
            array = load_array(path / f"{name}.npy")
            return array.shape, array.dtype
        with damage_named(path, name), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            return shape, dtype

    def _check_pair(self, split: str, headers: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        for name in (f"x_{split}", f"y_{split}"):
            if name not in headers:
                raise DataError(f"{self.path}: no array {name!r} beside its partner{did_you_mean(name, headers)}")
            shape, dtype = headers[name]
            check_array(f"{self.path}: {name}", shape, dtype)
        counts = headers[f"x_{split}"][0][0], headers[f"y_{split}"][0][0]
        if counts[0] != counts[1]:
            raise DataError(
                f"{self.path}: x_{split} has {counts[0]} samples, y_{split} {counts[1]}; they must be equal"
            )

    def _nothing_here(self, found: Iterable[str]) -> DataError:
        names = ", ".join(found) or "nothing"
        return DataError(f"{self.path}: found {names}; expected x_train and y_train (and x_validation, x_test…)")


class Memory(Source):
    """The caller's own arrays: `{"train": (x, y), "validation": (xv, yv)}`, by the same rules as `arrays`.

    x (N, …) and y (N, …): anything that `numpy.asarray` takes, or CuPy arrays, which are copied to the host. Instead of
    a pair `{"inputs": x, "targets": y, "mask": …, "weight": …}`; several inputs, targets or masks are dicts by name.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        unknown = [name for name in data if name not in SPLITS]
        if unknown:
            close = did_you_mean(unknown[0], SPLITS)
            raise DataError(f"data: unknown split {unknown[0]!r}; allowed: {', '.join(SPLITS)}{close}")
        self._splits: dict[SplitName, Split] = {name: _from_memory(name, data[name]) for name in SPLITS if name in data}
        if not self._splits:
            raise DataError('data: no arrays; expected {"train": (x, y)}')

    def info(self) -> DataInfo:
        """Of the arrays themselves."""
        first = next(iter(self._splits.values()))
        counts = {name: len(split) for name, split in self._splits.items()}
        labels = first.labels()
        return describe(first, None if labels is None else numbered_classes(labels), counts)

    def read(self, name: SplitName) -> Split | None:
        """The arrays, not copied."""
        return self._splits.get(name)

    @property
    def label(self) -> str:
        """How messages name this source."""
        return "data"


def load_array(path: Path) -> Array:
    """An .npy file, memory-mapped; DataError where it is damaged or holds pickled objects."""
    with damage_named(path, path.stem):
        return cast(Array, np.load(path, mmap_mode="r", allow_pickle=False))


def check_array(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """DataError unless an array of this shape and dtype can hold samples."""
    if not shape:
        raise DataError(f"{name} is a single number; its first axis must count the samples")
    if shape[0] == 0:
        raise DataError(f"{name} has no samples")
    if dtype.kind not in "buif":
        raise DataError(f"{name} is of dtype {dtype.name}; allowed: integers, floats, bool")


def _from_memory(name: str, given: Any) -> Split:
    if isinstance(given, Mapping):
        if unknown := [key for key in given if key not in PARTS]:
            close = did_you_mean(str(unknown[0]), PARTS)
            raise DataError(f"data: {name!r} has an unknown part {unknown[0]!r}; allowed: {', '.join(PARTS)}{close}")
        if missing := [key for key in PARTS[:2] if key not in given]:
            raise DataError(f"data: {name!r} has no {missing[0]}; inputs and targets are needed")
        parts = [given.get(key) for key in PARTS]
    elif isinstance(given, tuple | list) and len(given) == 2:
        parts = [*given, None, None]
    else:
        raise DataError(f"data: {name!r} must be a pair (inputs, targets), got {type(given).__name__}")
    x, y, mask, weight = (None if part is None else _host(part) for part in parts)
    assert x is not None
    assert y is not None
    for role, value in (("inputs", x), ("targets", y)):
        for key, array in named(value).items():
            which = f"{role}.{key}" if key else role
            check_array(f"data: {which} of {name!r}", array.shape, array.dtype)
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and len(x) != len(y):
        raise DataError(f"data: {name!r} has {len(x)} inputs but {len(y)} targets; they must be equal")
    return _split(f"data: {name!r}", x, y, mask, weight)


def _host(value: Any) -> Value:
    if isinstance(value, Mapping):
        return {str(key): np.asanyarray(_host(each)) for key, each in value.items()}
    try:
        here: Array = np.asanyarray(value.get() if hasattr(value, "__cuda_array_interface__") else value)
    except ValueError as error:
        raise DataError(
            f"data: a list that is no array ({error}); pad sequences to one length, and give a mask"
        ) from error
    return here


def _split(where: str, x: Value, y: Value, mask: Value | None, weight: Value | None) -> Split:
    """A split of arrays; DataError, which begins with `where`, for a mask or weights that do not fit the inputs."""
    inputs = over(lambda array: array[..., None] if _grey(array.shape, array.dtype) else array, x)
    for name, array in named({} if mask is None else mask).items():
        masked = [each[name] for each in (named(inputs), named(y)) if name in each]
        if all(array.ndim > 2 or array.shape != each.shape[: array.ndim] for each in masked):
            found = ", ".join(str(each.shape) for each in masked) or f"nothing of the name {name!r}"
            raise DataError(f"{where}: a mask of shape {array.shape} for {found}; it is (N, T), as the sequence")
    if isinstance(weight, dict) or (weight is not None and weight.shape != (len(next(iter(named(x).values()))),)):
        raise DataError(f"{where}: weight must be one number per sample, (N,)")
    return Split(inputs, y, mask=None if mask is None else over(lambda array: array.astype(bool), mask), weight=weight)


def _grey(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether (N, H, W) of this dtype are grey images without a channel axis."""
    return len(shape) == 3 and dtype == np.uint8


@contextmanager
def damage_named(path: Path, name: str) -> Iterator[None]:
    """Turns what NumPy and zipfile raise for a damaged or foreign file into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise DataError(
                f"{path}: {name} holds Python objects, which are never loaded; save plain numbers"
            ) from error
        raise DataError(f"{path}: {name} cannot be read ({error}); is the file whole?") from error
