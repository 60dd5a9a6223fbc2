"""Many sequences with a class or a value each, of one length or of several: .npz files, and UCR's .ts files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpubackprop.data.arrays import SPLITS, damage_named
from gpubackprop.data.source import Array, Split, SplitName, numbered_classes
from gpubackprop.data.textfiles import files_by_split, read_text
from gpubackprop.errors import DataError
from gpubackprop.registry import did_you_mean

Found = tuple[dict[SplitName, Split], list[str] | None]


def read_sequences(path: Path, classes: list[str] | None = None, length: int | None = None) -> Found:
    """Splits of sequences (N, T, D) with a mask (N, T) where lengths differ, and the names of the classes.

    `classes` and `length` are those of an earlier training: what is longer is an error.
    """
    return _from_npz(path, classes) if path.suffix == ".npz" else _from_ts(path, classes, length)


def _from_npz(path: Path, classes: list[str] | None) -> Found:
    with damage_named(path, "it"), np.load(path, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in archive}
    if "x" in arrays:  # a file of one split
        arrays = {f"{name}_train": array for name, array in arrays.items()}
    splits = {name: _split(path, name, arrays) for name in SPLITS if f"x_{name}" in arrays}
    if "train" not in splits:
        raise DataError(
            f"{path}: found {', '.join(arrays) or 'nothing'}; expected x_train and y_train, perhaps lengths_train"
        )
    labels = splits["train"].labels()
    return splits, classes or (None if labels is None else numbered_classes(labels))


def _split(path: Path, name: SplitName, arrays: dict[str, Array]) -> Split:
    x, y = arrays[f"x_{name}"], arrays.get(f"y_{name}")
    if y is None:
        raise DataError(f"{path}: no array 'y_{name}' beside 'x_{name}'{did_you_mean(f'y_{name}', arrays)}")
    if x.ndim not in (2, 3) or x.dtype.kind not in "fiu" or not len(x):
        raise DataError(f"{path}: x_{name} is {x.dtype} of shape {x.shape}; sequences are numbers (N, T, D) or (N, T)")
    x = x[..., None] if x.ndim == 2 and x.dtype.kind == "f" else x
    if len(y) != len(x):
        raise DataError(f"{path}: x_{name} has {len(x)} sequences, y_{name} {len(y)}; they must be equal")
    lengths = arrays.get(f"lengths_{name}")
    if lengths is None:
        return Split(x, y)
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > x.shape[1]:
        raise DataError(f"{path}: lengths_{name} must be whole numbers (N,), from 1 to {x.shape[1]}")
    mask = np.arange(x.shape[1]) < lengths[:, None]
    # What stands behind the end may be anything; a number that is none would spread.
    return Split(np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, x.dtype.type(0)), y, mask=mask)


def _from_ts(path: Path, classes: list[str] | None, length: int | None) -> Found:
    """A sequence a line: dimensions parted by colons, numbers by commas, the class last (Löning et al. 2019)."""
    read = {name: _read_ts(file) for name, file in files_by_split(str(path)).items()}
    if classes is None:
        classes = sorted({label for rows in read.values() for _, label in rows})
    longest = length or max(len(values) for rows in read.values() for values, _ in rows)
    return {name: _padded(path, rows, classes, longest) for name, rows in read.items()}, classes


def _read_ts(file: Path) -> list[tuple[Array, str]]:
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip() or line.lstrip()[0] in "#@":
            continue
        *dimensions, label = line.strip().split(":")
        try:
            values = np.array([[float(cell) for cell in each.split(",")] for each in dimensions]).T
        except ValueError as error:
            raise DataError(
                f"{file}:{number}: not numbers of one length per dimension and a class ({error})"
            ) from error
        if values.size == 0 or not np.isfinite(values).all():
            raise DataError(f"{file}:{number}: no numbers, or some that are not finite; missing values are not read")
        rows.append((values, label.strip()))
    if not rows or len({values.shape[1] for values, _ in rows}) != 1:
        raise DataError(f"{file}: no sequences, or not the same dimensions in all of them")
    return rows


def _padded(path: Path, rows: Sequence[tuple[Array, str]], classes: list[str], length: int) -> Split:
    inputs = np.zeros((len(rows), length, rows[0][0].shape[1]), np.float32)
    mask = np.zeros((len(rows), length), bool)
    for row, (values, label) in enumerate(rows):
        if len(values) > length or label not in classes:
            what = f"class {label!r}" if label not in classes else f"a sequence of {len(values)} steps"
            raise DataError(f"{path}: {what}; the training data has {', '.join(classes)}, and at most {length} steps")
        inputs[row, : len(values)] = values
        mask[row, : len(values)] = True
    labels = np.array([classes.index(label) for _, label in rows])
    return Split(inputs, labels, mask=None if mask.all() else mask)
