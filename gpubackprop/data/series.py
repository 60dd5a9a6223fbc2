"""One long series of rows: columns of a table, gaps, and the scale that training measures."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from gpubackprop.data.arrays import damage_named
from gpubackprop.data.source import Array
from gpubackprop.errors import DataError
from gpubackprop.registry import did_you_mean

Missing = Literal["error", "forward_fill"]
Floats = npt.NDArray[np.float64]
GAPS = ("", "na", "n/a", "nan", "null", "none", "?")  #: how tables write that a value is missing


@dataclass(frozen=True)
class Series:
    """What forecasts need to know: columns by name, and their mean and standard deviation over the training rows."""

    columns: list[str]
    targets: list[str]
    mean: list[float]  #: one per column
    std: list[float]
    missing: Missing = "error"

    @classmethod
    def fit(cls, rows: Floats, columns: Sequence[str], targets: Sequence[str], missing: Missing, scale: bool) -> Self:
        """Of training rows (T, F); without `scale` 0 and 1. A column that never changes keeps the scale 1."""
        mean, std = (
            (rows.mean(axis=0), rows.std(axis=0)) if scale else (np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
        )
        std = np.where(std < 1e-12, 1.0, std)
        return cls(list(columns), list(targets), mean.tolist(), std.tolist(), missing)

    @property
    def picked(self) -> list[int]:
        """Where the targets stand among the columns."""
        return [self.columns.index(name) for name in self.targets]

    def standard(self, rows: Floats) -> Floats:
        """Rows (T, F) in the data's units -> mean 0, deviation 1 over the training rows."""
        scaled: Floats = (rows - self.mean) / self.std
        return scaled

    def restored(self, outputs: Array) -> Array:
        """Forecasts (N, …) of the model, the targets last where there are several -> the data's units."""
        targets = self.picked
        mean, std = np.asarray(self.mean)[targets], np.asarray(self.std)[targets]
        found: Array = outputs * std + mean
        return found

    def to_json(self) -> dict[str, Any]:
        """A dict of plain numbers, texts and lists."""
        return asdict(self)


def read_rows(path: Path, columns: Sequence[str] | None, missing: Missing) -> tuple[Floats, list[str]]:
    """Rows (T, F) of a .csv file with a header, or of an .npz file of arrays (T,), and the columns' names.

    Without `columns` all that hold numbers. Rows before the first in which nothing is missing are left out, where
    gaps are filled. DataError names row and column.
    """
    table = _from_npz(path) if path.suffix == ".npz" else _from_csv(path)
    if columns is None:
        columns = [name for name, cells in table.items() if _numeric(cells)]
    for name in columns:
        if name not in table:
            raise DataError(f"{path}: no column {name!r}; found {', '.join(table)}{did_you_mean(name, table)}")
    if not columns or not table[columns[0]]:
        raise DataError(f"{path}: no rows of numbers; a .csv file needs a header with the columns' names")
    rows = np.array([[_number(cell, path, name, row) for row, cell in enumerate(table[name])] for name in columns]).T
    gaps = np.isnan(rows)
    if gaps.any() and missing == "error":
        row, column = np.argwhere(gaps)[0]
        count = f"{gaps.sum()} values are missing, the first"
        raise DataError(
            f"{path}: {count} in row {row + 1}, column {columns[column]!r}; set missing: forward_fill, or name other "
            "columns"
        )
    return (_filled(rows, path) if gaps.any() else rows), list(columns)


def _filled(rows: Floats, path: Path) -> Floats:
    """Each gap takes the value before it."""
    known = ~np.isnan(rows)
    last = np.maximum.accumulate(np.where(known, np.arange(len(rows))[:, None], -1), axis=0)
    whole = (last >= 0).all(axis=1)
    if not whole.any():
        raise DataError(f"{path}: a column has no value at all; name other columns")
    first = int(whole.argmax())
    filled: Floats = np.take_along_axis(rows, np.maximum(last, 0), axis=0)[first:]
    return filled


def _from_csv(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            if twice := [name for name in header if header.count(name) > 1]:
                raise DataError(f"{path}:1: two columns are called {twice[0]!r}; every column needs a name of its own")
            table: dict[str, list[str]] = {name: [] for name in header}
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{path}:{reader.line_num}: {len(cells)} columns, but the header has {len(header)}")
                for name, cell in zip(header, cells, strict=True):
                    table[name].append(cell.strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a .csv table ({error})") from error
    return table


def _from_npz(path: Path) -> Mapping[str, list[Any]]:
    with damage_named(path, "it"), np.load(path, allow_pickle=False) as archive:
        arrays = {name: np.asarray(archive[name]) for name in archive}
    lengths = {array.shape for array in arrays.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DataError(f"{path}: {shapes or 'nothing'}; a series is arrays (T,) of one length, one for each column")
    return {name: array.tolist() for name, array in arrays.items()}


def _numeric(cells: Sequence[Any]) -> bool:
    """Whether the first value that is there is a number."""
    first = next((cell for cell in cells if str(cell).lower() not in GAPS), None)
    try:
        return first is not None and math.isfinite(float(first))
    except ValueError:
        return False


def _number(cell: Any, path: Path, column: str, row: int) -> float:
    if str(cell).lower() in GAPS:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise DataError(
            f"{path}: row {row + 1}, column {column!r}: {cell!r} is not a finite number; name other columns"
        )
    return value
