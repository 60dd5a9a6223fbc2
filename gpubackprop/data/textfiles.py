"""Text files: which of them is which split, plain text, and lines with labels."""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gpubackprop.data.source import SplitName, existing
from gpubackprop.errors import DataError

ROLES: dict[SplitName, str] = {"train": "train|training", "validation": "dev|val|valid|validation", "test": "test"}


class Labelled(NamedTuple):
    """Texts with a label each."""

    texts: list[str]
    labels: list[str]
    lines: list[str]  #: where each stands: `train.tsv:3`


def files_by_split(path: str | None) -> dict[SplitName, Path]:
    """The files of `path`: one file is the training split; in a folder, or by a pattern with `*`, names say which.

    Names hold train, dev (or valid, validation, val) or test, as a word. DataError where that is not clear.
    """
    if path and glob.has_magic(path) and not Path(path).exists():
        files = [Path(name) for name in sorted(glob.glob(str(Path(path).expanduser()))) if Path(name).is_file()]
        if not files:
            raise DataError(f"{path}: no file matches; data paths are relative to the current directory")
    else:
        place = existing(path, "text")
        if place.is_file():
            return {"train": place}
        files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
    found: dict[SplitName, Path] = {}
    for split, words in ROLES.items():
        named = [file for file in files if re.search(rf"(?<![a-z])({words})(?![a-z])", file.name.lower())]
        if len(named) > 1:
            names = ", ".join(file.name for file in named)
            raise DataError(f"{path}: {names} could all be the {split} split; name them by a pattern, {path}/NAME.*")
        if named:
            found[split] = named[0]
    if "train" not in found:
        names = ", ".join(file.name for file in files[:5]) or "nothing"
        raise DataError(f"{path}: no file with 'train' in its name here; found {names}; name one file, or rename it")
    return found


def read_text(path: Path) -> str:
    """A whole file, line ends as newlines; DataError where it is no UTF-8 text, or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); convert it, for example with iconv") from error
    if not text.strip():
        raise DataError(f"{path}: empty")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, without spaces around them."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_labelled(path: Path) -> Labelled:
    """Lines `label<tab>text` or `label text`; of a .csv file, its columns `text` and `label`."""
    rows = list(_table(path) if path.suffix == ".csv" else _labelled_lines(path))
    if not rows:
        raise DataError(f"{path}: no rows")
    return Labelled([text for text, _, _ in rows], [label for _, label, _ in rows], [where for _, _, where in rows])


def read_texts(path: Path, classes: Sequence[str]) -> list[tuple[str, str]]:
    """(text, `file:line`) of every line that is not blank; of a .csv file with a column `text`, of every row.

    A file all of whose lines are `label<tab>text` with labels among `classes` is read without them.
    """
    if path.suffix == ".csv":
        reader = csv.DictReader(read_text(path).splitlines(keepends=True))
        column = next((name for name in reader.fieldnames or [] if name and name.strip().lower() == "text"), None)
        if column is not None:
            return [((row[column] or "").strip(), f"{path}:{reader.line_num}") for row in reader]
    lines = [(line.strip(), f"{path}:{n}") for n, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    cut = [(line.partition("\t"), where) for line, where in lines]
    if all(tab and label.strip() in classes for (label, tab, _), _ in cut):
        return [(text.strip(), where) for (_, _, text), where in cut]
    return lines


def _labelled_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    lines = read_text(path).split("\n")
    tab = "\t" in lines[0]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, separator, text = line.strip().partition("\t" if tab else " ")
        if not separator or not text.strip():
            form = "label<tab>text" if tab else "label text"
            raise DataError(f"{path}:{number}: no text behind the label; a line is {form!r}")
        yield text.strip(), label.strip(), f"{path}:{number}"


def _table(path: Path) -> Iterator[tuple[str, str, str]]:
    reader = csv.DictReader(read_text(path).splitlines(keepends=True))
    names = {(name or "").strip().lower(): name for name in reader.fieldnames or []}
    if "text" not in names or "label" not in names:
        found = ", ".join(names) or "none"
        raise DataError(f"{path}: needs a header with the columns text and label; found {found}")
    for row in reader:
        text, label = row[names["text"]], row[names["label"]]
        if not label or not label.strip():
            raise DataError(f"{path}:{reader.line_num}: no label")
        yield (text or "").strip(), label.strip(), f"{path}:{reader.line_num}"
