"""IDX files, the format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.data.source import Array, DataInfo, Source, Split, SplitName, existing, numbered_classes, sources
from gpubackprop.errors import DataError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
PREFIXES: dict[SplitName, str] = {"train": "train", "test": "t10k"}


@sources.register("idx")
class Idx(Source):
    """A folder with the four files of MNIST, Fashion-MNIST, KMNIST…, gzipped or not.

    `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, each with
    or without `.gz`. Grey images get a channel axis: (28, 28, 1). A folder may lack one of the two splits.
    """

    def __init__(self, path: str) -> None:
        self.path: str = path

    def info(self) -> DataInfo:
        """From the headers of the images; the labels, which are small, are read."""
        counts: dict[str, int] = {}
        first = None
        for name in PREFIXES:
            files = self._files(name)
            if files is None:
                continue
            (dtype, shape), labels = idx_header(files[0]), read_idx(files[1])
            _check_pair(files, shape, labels)
            counts[name] = shape[0]
            first = first or (dtype, shape, labels)
        if first is None:
            raise self._nothing_here()
        dtype, shape, labels = first
        image = shape[1:] if len(shape) != 3 else (*shape[1:], 1)
        return DataInfo(image, dtype.newbyteorder("=").name, (), labels.dtype.name, numbered_classes(labels), counts)

    def read(self, name: SplitName) -> Split | None:
        """Images (N, H, W, 1), labels (N,)."""
        files = self._files(name)
        if files is None:
            return None
        images, labels = read_idx(files[0]), read_idx(files[1])
        _check_pair(files, images.shape, labels)
        return Split(images[..., None] if images.ndim == 3 else images, labels)

    def _files(self, name: SplitName) -> tuple[Path, Path] | None:
        """Paths of images and labels; None where the folder has neither."""
        folder = existing(self.path, "idx")
        if not folder.is_dir():
            raise DataError(f"{self.path}: not a folder; 'path' names the folder that holds the four idx files")
        if name not in PREFIXES:
            return None
        images = _find(folder, f"{PREFIXES[name]}-images", "idx3-ubyte")
        labels = _find(folder, f"{PREFIXES[name]}-labels", "idx1-ubyte")
        if images is None and labels is None:
            return None
        if images is None or labels is None:
            missing = "labels-idx1-ubyte" if labels is None else "images-idx3-ubyte"
            raise DataError(f"{folder / PREFIXES[name]}-{missing}: no such file, with or without .gz")
        return images, labels

    def _nothing_here(self) -> DataError:
        return DataError(
            f"{self.path}: no idx files here; expected train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each with or without .gz"
        )


def idx_header(path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """(dtype, shape) of an IDX file, gzipped or not; DataError where it is none."""
    with _opened(path) as file:
        return _header(file, path)


def read_idx(path: Path) -> Array:
    """The array of an IDX file, gzipped or not, in this machine's byte order; DataError where it is damaged."""
    with _opened(path) as file:
        dtype, shape = _header(file, path)
        expected, content = math.prod(shape) * dtype.itemsize, file.read()
    if len(content) != expected:
        kind = "truncated" if len(content) < expected else "too long"
        raise DataError(
            f"{path}: {kind}: the header says {expected} bytes of {shape}, the file has {len(content)}; fetch it again"
        )
    array = np.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(file: BufferedIOBase, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or not 1 <= magic[3] <= 8:
        raise DataError(
            f"{path}: not an idx file: it starts with {magic.hex(' ') or 'nothing'}, not 00 00 08 03 or alike"
        )
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: truncated in its header; fetch it again")
    return np.dtype(DTYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except EOFError as error:
        raise DataError(f"{path}: truncated gzip file; fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged gzip file ({error}); fetch it again, or drop .gz if it is not gzipped"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _find(folder: Path, stem: str, kind: str) -> Path | None:
    names = (f"{stem}{dot}{kind}{gz}" for dot in "-." for gz in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _check_pair(files: tuple[Path, Path], images: tuple[int, ...], labels: Array) -> None:
    if len(images) < 2 or labels.ndim != 1:
        raise DataError(
            f"{files[0]}: images of shape {images} with labels of shape {labels.shape} in {files[1].name}; "
            "expected (N, H, W) and (N,): are the files mixed up?"
        )
    if images[0] != len(labels):
        raise DataError(f"{files[0]}: {images[0]} images, but {files[1].name} has {len(labels)} labels")
