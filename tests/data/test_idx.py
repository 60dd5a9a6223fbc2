from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.data import Idx
from gpubackprop.data.idx import read_idx
from gpubackprop.errors import DataError

Write = Callable[[Path, np.ndarray], Path]


def damaged(path: Path) -> Path:
    """The file, whichever of the two forms the folder has."""
    return path if path.exists() else path.with_name(path.name + ".gz")


def test_images_labels_and_info(idx_folder: Path):
    source = Idx(str(idx_folder))
    info, splits = source.info(), source.load()
    assert info.input_shape == (5, 4, 1)
    assert info.input_dtype == "uint8"
    assert info.classes == ["0", "1", "2"]
    assert info.counts == {"train": 30, "test": 10}
    images, labels = splits.test.take(np.array([7, 2])).values()
    np.testing.assert_array_equal(images[:, 0, 0, 0], [7, 2])
    np.testing.assert_array_equal(images[0, :, :, 0], 7 + np.arange(20).reshape(5, 4))
    np.testing.assert_array_equal(labels, [1, 2])
    assert splits.validation is None


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_numbers_survive_the_byte_order(tmp_path: Path, write_idx: Write, dtype: str):
    array = np.arange(12).reshape(3, 4).astype(dtype) * 9
    read = read_idx(write_idx(tmp_path / "a.idx", array))
    np.testing.assert_array_equal(read, array)
    assert read.dtype.isnative


def test_the_spelling_with_a_dot(tmp_path: Path, write_idx: Write):
    write_idx(tmp_path / "train-images.idx3-ubyte", np.zeros((2, 3, 3), np.uint8))
    write_idx(tmp_path / "train-labels.idx1-ubyte", np.zeros(2, np.uint8))
    assert Idx(str(tmp_path)).load().test is None


@pytest.mark.parametrize("method", ["info", "load"])
@pytest.mark.parametrize("idx_folder", [""], indirect=True, ids=["plain"])
class TestMistakes:
    def test_missing_folder(self, idx_folder: Path, method: str):
        with pytest.raises(DataError, match=r"nowhere: no such file or folder in .*relative to the current directory"):
            getattr(Idx("nowhere"), method)()

    def test_a_file_instead_of_the_folder(self, idx_folder: Path, method: str):
        with pytest.raises(DataError, match="not a folder"):
            getattr(Idx(str(idx_folder / "train-images-idx3-ubyte")), method)()

    def test_empty_folder(self, tmp_path: Path, idx_folder: Path, method: str):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="empty: no"):
            getattr(Idx(str(tmp_path / "empty")), method)()

    def test_images_without_labels(self, idx_folder: Path, method: str):
        (idx_folder / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: no such file"):
            getattr(Idx(str(idx_folder)), method)()

    def test_wrong_magic(self, idx_folder: Path, method: str):
        (idx_folder / "train-images-idx3-ubyte").write_bytes(b"\x89PNG\r\n and so on")
        with pytest.raises(DataError, match="train-images-idx3-ubyte: not an idx file: it starts with 89 50 4e 47"):
            getattr(Idx(str(idx_folder)), method)()

    def test_other_number_of_labels(self, idx_folder: Path, write_idx: Write, method: str):
        write_idx(idx_folder / "train-labels-idx1-ubyte", np.zeros(29, np.uint8))
        with pytest.raises(DataError, match="30 images, but train-labels-idx1-ubyte has 29 labels"):
            getattr(Idx(str(idx_folder)), method)()

    def test_files_mixed_up(self, idx_folder: Path, method: str):
        images, labels = idx_folder / "train-images-idx3-ubyte", idx_folder / "train-labels-idx1-ubyte"
        content = images.read_bytes()
        images.write_bytes(labels.read_bytes())
        labels.write_bytes(content)
        with pytest.raises(DataError, match="mixed up"):
            getattr(Idx(str(idx_folder)), method)()


def test_truncated_file(tmp_path: Path, write_idx: Write):
    path = write_idx(tmp_path / "a.idx", np.zeros((4, 5), np.uint8))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"a\.idx: truncated: the header says 20 bytes of \(4, 5\), the file has 17"):
        read_idx(path)


def test_truncated_gzip(tmp_path: Path, write_idx: Write):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)
    path = write_idx(tmp_path / "a.gz", noise)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"a\.gz: truncated gzip file; fetch it again"):
        read_idx(path)


def test_damaged_gzip(tmp_path: Path, write_idx: Write):
    path = write_idx(tmp_path / "a.gz", np.zeros((50, 50), np.uint8))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged gzip file"):
        read_idx(path)
    path.write_bytes(gzip.decompress(gzip.compress(b"not gzip")))
    with pytest.raises(DataError, match="damaged gzip file"):
        read_idx(path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_sets(real_data: Callable[[str], Path], name: str):
    source = Idx(str(real_data(name)))
    info, test = source.info(), source.read("test")
    assert info.input_shape == (28, 28, 1)
    assert info.counts == {"train": 60000, "test": 10000}
    assert len(info.classes) == 10
    np.testing.assert_array_equal(np.bincount(test.labels())[3], {"mnist": 1010, "fashion-mnist": 1000}[name])
