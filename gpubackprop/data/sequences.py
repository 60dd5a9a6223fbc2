"""Sequences of numbers: windows of one long series to forecast from, or many labelled sequences."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gpubackprop.data.labelled import read_sequences
from gpubackprop.data.preprocessing import Preprocessing
from gpubackprop.data.series import Missing, Series, read_rows
from gpubackprop.data.source import DataInfo, Source, Split, SplitName, describe, existing, sources
from gpubackprop.data.split import held_out_count
from gpubackprop.errors import DataError, UsageError
from gpubackprop.registry import Fraction, Positive, did_you_mean


@sources.register("sequences")
class Sequences(Source):
    """With `window` a series to forecast, from a .csv file with a header or an .npz file of columns (T,): inputs
    (window, F), targets (horizon,), or (horizon, K) of K target columns. Without it labelled sequences: an .npz file
    with x_train (N, T, D), y_train (N,) and perhaps lengths_train (N,), or a folder of UCR's .ts files.

    columns      of the inputs; all that hold numbers
    target       what is forecast, one column or several; all
    horizon      how many rows ahead
    stride       rows between one training window and the next
    missing      error, or forward_fill: a gap takes the value before it
    standardize  inputs and targets have mean 0 and deviation 1 over the training rows; predictions are in the data's
                 units again, loss and metrics are not
    test         last share of the rows; the validation share comes before it. A window may look back at rows of an
                 earlier split, what it forecasts never lies there.
    """

    def __init__(
        self,
        path: str,
        window: Positive | None = None,
        columns: list[str] | None = None,
        target: str | list[str] | None = None,
        horizon: Positive = 1,
        stride: Positive = 1,
        missing: Missing = "error",
        standardize: bool = True,
        test: Fraction = 0.0,
    ) -> None:
        if window is None and (columns or target or horizon > 1 or stride > 1 or test):
            raise UsageError("columns, target, horizon, stride and test are for forecasts; give window too")
        self.path: str = path
        self.window, self.columns, self.horizon, self.stride = window, columns, horizon, stride
        self.target = [target] if isinstance(target, str) else target
        self.missing, self.standardize, self.test = missing, standardize, test
        self._held_out = 0.0
        self._known: Preprocessing | None = None
        self._measuring = False

    def info(self) -> DataInfo:
        """The files are read."""
        if self.window is None:
            splits, classes = self._labelled
            return describe(splits["train"], classes, {name: len(split) for name, split in splits.items()})
        counts = {name: len(split) for name, split in self._windows.items()}
        return describe(self._windows["train"], None, counts, series=self._series)

    def read(self, name: SplitName) -> Split | None:
        """Windows (N, window, F) and what follows them; or sequences (N, T, D), classes (N,), a mask (N, T)."""
        return self._labelled[0].get(name) if self.window is None else self._windows.get(name)

    def holding_out(self, share: float) -> Source:
        """The last rows before the test's."""
        return self if self.window is None or share == self._held_out else self.changed(_held_out=share)

    def after(self, preprocessing: Preprocessing) -> Source:
        """With the scale, or the classes and the length, of an earlier training."""
        return self.changed(_known=preprocessing)

    def at(self, path: str) -> Source:
        """Other rows on this one's scale, or other sequences of the same classes."""
        known = self._known or Preprocessing.of("sequences", self.info(), [])
        return self.changed(path=path, _known=known, _measuring=True, _held_out=0.0, test=0.0)

    @cached_property
    def _labelled(self) -> tuple[dict[SplitName, Split], list[str] | None]:
        known = self._known
        if known is None or isinstance(known.input_shape, dict):
            return read_sequences(existing(self.path, "sequences"))
        return read_sequences(existing(self.path, "sequences"), known.classes, known.input_shape[0])

    @cached_property
    def _table(self) -> tuple[np.ndarray, list[str]]:
        known = self._known.series if self._known else None
        return read_rows(existing(self.path, "sequences"), known.columns if known else self.columns, self.missing)

    @cached_property
    def _bounds(self) -> dict[SplitName, tuple[int, int]]:
        """First row and the one behind the last that each split forecasts."""
        end = len(self._table[0])
        bounds: dict[SplitName, tuple[int, int]] = {}
        shares: dict[SplitName, float] = {"test": self.test, "validation": self._held_out}
        for name, share in shares.items():
            if share:
                first = end - held_out_count(end, share)
                bounds[name], end = (first, end), first
        return {"train": (0, end), **bounds}

    @cached_property
    def _series(self) -> Series:
        if self._known is not None and self._known.series is not None:
            return self._known.series
        rows, columns = self._table
        targets = self.target or columns
        for name in targets:
            if name not in columns:
                close = did_you_mean(name, columns)
                raise DataError(f"{self.path}: target {name!r} is none of the columns {', '.join(columns)}{close}")
        train = rows[: self._bounds["train"][1]]
        if not len(train):
            raise DataError(f"{self.path}: no rows are left to train on; lower test and data.validation")
        return Series.fit(train, columns, targets, self.missing, self.standardize)

    @cached_property
    def _windows(self) -> dict[SplitName, Split]:
        assert self.window is not None, "asked for with a window alone"
        rows = self._series.standard(self._table[0])
        ahead = rows[:, self._series.picked]
        if len(rows) < self.window + self.horizon:
            raise DataError(
                f"{self.path}: {len(rows)} rows are less than a window of {self.window} and a horizon of {self.horizon}"
            )
        inputs = sliding_window_view(rows, self.window, axis=0).transpose(0, 2, 1)[: -self.horizon]
        targets = sliding_window_view(ahead[self.window :], self.horizon, axis=0).transpose(0, 2, 1)
        whole = Split(inputs, targets[..., 0] if ahead.shape[1] == 1 else targets)
        found = {}
        for name, (first, end) in self._bounds.items():
            step = self.stride if name == "train" and not self._measuring else 1
            chosen = np.arange(max(0, first - self.window), end - self.horizon - self.window + 1, step)
            if not len(chosen):
                needed = self.window + self.horizon if name == "train" else self.horizon
                raise DataError(f"{self.path}: {end - first} rows of the {name} split are too few; it needs {needed}")
            found[name] = whole.subset(chosen)
        return found
