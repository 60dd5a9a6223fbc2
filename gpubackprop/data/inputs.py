"""New samples from files, treated as the training data was."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpubackprop.data.arrays import damage_named
from gpubackprop.data.idx import read_idx
from gpubackprop.data.preprocessing import Preprocessing
from gpubackprop.data.series import Series, read_rows
from gpubackprop.data.source import Array, Shape, existing
from gpubackprop.data.text import encoded_lines
from gpubackprop.data.textfiles import read_texts
from gpubackprop.data.vocabulary import Vocabulary
from gpubackprop.errors import DataError

DIM = 64  #: pixels none of which is as bright as this are on another scale, most likely
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  #: Pillow's name for images of so many channels


class Inputs(NamedTuple):
    """New samples, ready for the model."""

    array: Array  #: (N, *input_shape), scaled and transformed
    labels: list[str]  #: where each sample is from: `cat.png`, `rows.csv:3` (line), `more.npy[0]` (index)
    notes: list[str]  #: what was changed on the way and should be said
    mask: Array | None = None  #: (N, T), the real positions of texts


def read_inputs(
    paths: Iterable[str | PathLike[str]],
    preprocessing: Preprocessing,
    dtype: npt.DTypeLike = np.float32,
    resize: bool = False,
) -> Inputs:
    """Samples from images (whatever Pillow reads), .npy, .npz, .csv and idx files, treated as in training.

    For a model of texts every line of a file that is not blank is a sample; for one that forecasts a series, a table
    (.csv with a header, or .npz) of which the last rows are looked at.
    Numbers are in the units of the training data: pixels 0 to 255, or floats in [0, 1], where it was uint8. An image of
    another size is an error unless `resize`. DataError names the file, and the line of a CSV file.
    """
    arrays: list[Array] = []
    masks: list[Array] = []
    labels: list[str] = []
    notes: list[str] = []
    for given in paths:
        path = existing(str(given), "predict")
        if path.is_dir():
            raise DataError(f"{path}: a folder; name the files in it, for example {path}/*")
        if preprocessing.vocabulary is not None:
            raw, mask, found = _read_texts(path, preprocessing, preprocessing.vocabulary, notes)
            masks.append(mask)
        elif preprocessing.series is not None:
            raw, found = _read_series(path, preprocessing, preprocessing.series)
        else:
            raw, found = _read(path, preprocessing, resize, notes)
        arrays.append(preprocessing.apply(raw, dtype))
        labels += found
    if not arrays:
        raise DataError("no inputs; name at least one file")
    return Inputs(np.concatenate(arrays), labels, notes, np.concatenate(masks) if masks else None)


def _read_texts(
    path: Path, pre: Preprocessing, vocabulary: Vocabulary, notes: list[str]
) -> tuple[Array, Array, list[str]]:
    """Lines -> numbers (N, T), mask (N, T), `file:line`."""
    if vocabulary.padding is None:
        raise DataError(f"{path}: this run is a language model, which classifies nothing; use: gpubackprop generate")
    (length,), _ = pre.single
    texts = read_texts(path, pre.classes or [])
    encoded = [vocabulary.encode(text) for text, _ in texts]
    labels = [where for _, where in texts]
    for label, ids in zip(labels, encoded, strict=True):
        if len(ids) > length:
            notes.append(f"{label}: {len(ids)} tokens, of which the model sees the first {length}")
    return *encoded_lines(encoded, length, vocabulary), labels


def _read_series(path: Path, pre: Preprocessing, series: Series) -> tuple[Array, list[str]]:
    """The last rows of a table, on the scale of training -> (1, window, F)."""
    (window, _), _ = pre.single
    rows, _ = read_rows(path, series.columns, series.missing)
    if len(rows) < window:
        raise DataError(f"{path}: {len(rows)} rows, of which the model looks at the last {window}")
    return series.standard(rows[-window:])[None], [str(path)]


def _read(path: Path, pre: Preprocessing, resize: bool, notes: list[str]) -> tuple[Array, list[str]]:
    if path.suffix in (".csv", ".tsv", ".txt"):
        return _read_csv(path, pre, notes)
    if path.suffix in (".npy", ".npz"):
        array = _read_npy(path) if path.suffix == ".npy" else _read_npz(path)
    elif path.suffix in (".gz", ".idx") or path.name.endswith("-ubyte"):
        array = read_idx(path)
    else:
        return _read_image(path, pre, resize, notes)[None], [str(path)]
    if not array.size:
        raise DataError(f"{path}: an array of shape {array.shape} holds no samples")
    samples = _as_stored(_shaped(array, pre.single[0], path), pre, str(path), notes)
    return samples, [f"{path}[{index}]" for index in range(len(samples))]


def _read_image(path: Path, pre: Preprocessing, resize: bool, notes: list[str]) -> Array:
    """Image -> (H, W, C) in [0, 255] uint8."""
    from PIL import Image, UnidentifiedImageError  # for image files alone

    shape, _ = pre.single
    if len(shape) != 3 or shape[2] not in MODES:
        raise DataError(f"{path}: the model takes samples of shape {shape}, not images; give .npy or .csv files")
    height, width, channels = shape
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise DataError(f"{path}: more than 8 bits per channel (mode {file.mode}); save it with 8, or as .npy")
            image = file.convert(MODES[channels])
    except UnidentifiedImageError as error:
        allowed = "images, .npy, .npz, .csv, idx files (.idx, .gz, -ubyte)"
        raise DataError(f"{path}: not a file that predictions can read; allowed: {allowed}") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: damaged image ({error})") from error
    if image.size != (width, height):
        sizes = f"{image.width} x {image.height} pixels (width x height), the model takes {width} x {height}"
        if not resize:
            raise DataError(f"{path}: {sizes}; resize the image first")
        notes.append(f"{path}: {sizes}: resized")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape)


def _read_npy(path: Path) -> Array:
    with damage_named(path, "it"):
        return np.asarray(np.load(path, allow_pickle=False))


def _read_npz(path: Path) -> Array:
    with damage_named(path, "it"), np.load(path, allow_pickle=False) as archive:
        names = list(archive)
        chosen = names if len(names) == 1 else [name for name in ("x", "inputs", "x_test") if name in names]
        if not chosen:
            raise DataError(f"{path}: which array? Found {', '.join(names) or 'none'}; call the one to predict 'x'")
        return np.asarray(archive[chosen[0]])


def _shaped(array: Array, shape: Shape, path: Path) -> Array:
    """Many samples or a single one, with or without the channel axis of grey images -> (N, *shape)."""
    for wanted in (shape, shape[:-1]) if shape[-1:] == (1,) else (shape,):
        if array.shape == wanted or array.shape[1:] == wanted:
            return array.reshape(-1, *shape)
    raise DataError(f"{path}: array of shape {array.shape}; the model takes (N, {', '.join(map(str, shape))})")


def _as_stored(array: Array, pre: Preprocessing, where: str, notes: list[str]) -> Array:
    """Numbers in the dtype that the training data had, so that `apply` scales them alike."""
    if array.dtype.kind not in "buif":
        raise DataError(f"{where}: dtype {array.dtype.name}; allowed: integers, floats")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where}: a value is not a finite number")
    stored = pre.single[1]
    if stored == np.uint8 and array.dtype != np.uint8:
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        whole = array.dtype.kind in "ui"
        if not (low >= 0 and high <= (255 if whole else 1)):
            raise DataError(
                f"{where}: values from {low:g} to {high:g}; pixels must be whole numbers 0 to 255 or floats in [0, 1]"
            )
        if whole and high < DIM:
            scale = "floats in [0, 1] are taken as they are"
            notes.append(f"{where}: read as pixels 0 to 255, though the largest is {high}; {scale}")
        return array.astype(np.uint8) if whole else array
    if stored.kind in "fb":
        return array.astype(stored if stored.kind == "f" else np.float32, copy=False)
    if stored.kind in "ui" and array.dtype.kind == "f" and not (array == np.floor(array)).all():
        raise DataError(f"{where}: fractions; this model takes whole numbers")
    return array.astype(stored, copy=False)


def _read_csv(path: Path, pre: Preprocessing, notes: list[str]) -> tuple[Array, list[str]]:
    """Rows of numbers, with or without a header; each row one sample, flattened.

    A file does not tell integers from floats: for pixels, numbers up to 1 are floats in [0, 1], larger ones 0 to 255.
    """
    shape, dtype = pre.single
    columns = math.prod(shape)
    rows, labels = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if not cells or (reader.line_num == 1 and not any(map(_is_number, cells))):
                    continue
                rows.append(_numbers(cells, columns, where))
                labels.append(where)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a text file of comma-separated numbers ({error})") from error
    if not rows:
        raise DataError(f"{path}: no rows of numbers")
    samples = np.asarray(rows, np.float64).reshape(-1, *shape)
    if dtype == np.uint8 and samples.max() > 1 and (samples == np.floor(samples)).all():
        samples = samples.astype(np.int64)
    return _as_stored(samples, pre, str(path), notes), labels


def _numbers(cells: list[str], columns: int, where: str) -> list[float]:
    if len(cells) != columns:
        hint = "; leave the target out" if len(cells) == columns + 1 else ""
        raise DataError(f"{where}: {len(cells)} columns, the model takes {columns} numbers{hint}")
    for column, cell in enumerate(cells, start=1):
        if not _is_number(cell):
            raise DataError(f"{where}: column {column}: {cell!r} is not a finite number")
    return [float(cell) for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
