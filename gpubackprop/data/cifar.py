"""CIFAR-10 and CIFAR-100 in their binary form (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from gpubackprop.data.source import Array, DataInfo, Source, Split, SplitName, existing, sources
from gpubackprop.errors import DataError

PIXELS = 3 * 32 * 32
NAMES_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Member(NamedTuple):
    """A file of the data set, in a folder or in an archive."""

    where: str
    size: int
    read: Callable[[], bytes]


@sources.register("cifar")
class Cifar(Source):
    """Colour images (32, 32, 3) in binary batches: a folder, the folder around it, or the .tar.gz / .tar.xz as it is.

    10 classes: `data_batch_1.bin` … `data_batch_5.bin`, `test_batch.bin`; names from `batches.meta.txt` where it is.
    100 classes: `train.bin`, `test.bin`, fine labels; names from `fine_label_names.txt`.
    """

    def __init__(self, path: str, classes: Literal[10, 100] = 10) -> None:
        self.path: str = path
        self.classes = classes

    def info(self) -> DataInfo:
        """From the sizes of the files, which must be whole records."""
        members = self._members()
        counts = {}
        for name in ("train", "test"):
            batches = self._batches(members, name)
            if batches:
                counts[name] = sum(self._count(batch) for batch in batches)
        return DataInfo((32, 32, 3), "uint8", (), "int64", self._class_names(members), counts)

    def read(self, name: SplitName) -> Split | None:
        """Images (N, 32, 32, 3) uint8, labels (N,) int64."""
        batches = self._batches(self._members(), name)
        if not batches:
            return None
        decoded = [self._decode(batch) for batch in batches]
        return Split(
            np.concatenate([images for images, _ in decoded]), np.concatenate([labels for _, labels in decoded])
        )

    def _batches(self, members: Mapping[str, Member], name: str) -> list[Member]:
        """The files of one split: all of them, or none; the training files must be there."""
        wanted = self._file_names(name)
        found = [members[file] for file in wanted if file in members]
        missing = [file for file in wanted if file not in members]
        if missing and (found or name == "train"):
            other = self._file_names("train", other=True)[0]
            hint = f"; {other} is there: set classes: {110 - self.classes}" if other in members else ""
            raise DataError(f"{self.path}: no file {', '.join(missing)} of the binary version here{hint}")
        return found

    def _file_names(self, name: str, other: bool = False) -> list[str]:
        if (self.classes == 100) != other:
            return {"train": ["train.bin"], "test": ["test.bin"]}.get(name, [])
        return {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "test": ["test_batch.bin"]}.get(name, [])

    def _members(self) -> Mapping[str, Member]:
        path = existing(self.path, "cifar")
        return _files_of_folder(path) if path.is_dir() else _files_of_archive(path, path.stat().st_mtime_ns)

    def _count(self, member: Member) -> int:
        record = PIXELS + self._label_bytes
        if member.size == 0 or member.size % record:
            raise DataError(
                f"{member.where}: {member.size} bytes are not whole records of {record}; "
                "the file is truncated or of another format: fetch it again"
            )
        return member.size // record

    def _decode(self, member: Member) -> tuple[Array, Array]:
        count = self._count(member)
        records = np.frombuffer(member.read(), np.uint8).reshape(count, -1)
        labels = records[:, self._label_bytes - 1].astype(np.int64)
        if labels.max() >= self.classes:
            raise DataError(
                f"{member.where}: label {labels.max()} in a set of {self.classes} classes; the file is damaged"
            )
        planes = records[:, self._label_bytes :].reshape(count, 3, 32, 32)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels

    @property
    def _label_bytes(self) -> int:
        return 1 if self.classes == 10 else 2  # CIFAR-100 puts the coarse label before the fine one

    def _class_names(self, members: Mapping[str, Member]) -> list[str]:
        listed = members.get("batches.meta.txt" if self.classes == 10 else "fine_label_names.txt")
        names = listed.read().decode("utf-8", "replace").split() if listed else []
        if len(names) == self.classes:
            return names
        return NAMES_10 if self.classes == 10 else [str(number) for number in range(100)]


def _files_of_folder(folder: Path) -> dict[str, Member]:
    """Files by name, in the folder or in the one folder that the archive unpacks to."""
    inner = [folder / name for name in ("cifar-10-batches-bin", "cifar-100-binary")]
    files = [file for place in (folder, *inner) if place.is_dir() for file in place.iterdir() if file.is_file()]
    return {file.name: Member(str(file), file.stat().st_size, file.read_bytes) for file in files}


@lru_cache(maxsize=1)  # a compressed archive has no directory: info and every split would unpack it again
def _files_of_archive(path: Path, mtime_ns: int) -> dict[str, Member]:
    try:
        with tarfile.open(path) as archive:
            members = {}
            for entry in archive:
                content = archive.extractfile(entry)
                if content is not None:
                    name = PurePosixPath(entry.name).name
                    members[name] = Member(f"{path}:{name}", entry.size, _constant(content.read()))
            return members
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole .tar, .tar.gz or .tar.xz archive ({error}); fetch it again") from error
    except ImportError as error:
        raise DataError(
            f"{path}: this Python cannot unpack it ({error}); unpack it by hand and name the folder"
        ) from error


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content
