"""Small data sets in the formats that the sources read, and the real ones where this machine has them."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def idx_bytes(array: np.ndarray) -> bytes:
    code = {"uint8": 0x08, "int16": 0x0B, "float32": 0x0D}[array.dtype.name]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def write_idx() -> Callable[[Path, np.ndarray], Path]:
    """Writes an array as an IDX file, gzipped where the name says so."""

    def write(path: Path, array: np.ndarray) -> Path:
        content = idx_bytes(array)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return write


@pytest.fixture(params=["", ".gz"], ids=["plain", "gzipped"])
def idx_folder(request: pytest.FixtureRequest, tmp_path: Path, write_idx: Callable[[Path, np.ndarray], Path]) -> Path:
    """An MNIST in small: 30 + 10 images of 5 x 4 pixels, 3 classes; pixel values say which image it is."""
    folder = tmp_path / "small-mnist"
    folder.mkdir()
    for prefix, count in (("train", 30), ("t10k", 10)):
        images = (np.arange(count)[:, None, None] + np.arange(20).reshape(5, 4)).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{request.param}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{request.param}", (np.arange(count) % 3).astype(np.uint8))
    return folder


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Path of a real data set; the test is skipped where this machine has none."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("GBP_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (root / name).exists():
            pytest.skip(f"no {name} in {root}; set GBP_TEST_DATA to the folder of real data sets")
        return root / name

    return find
