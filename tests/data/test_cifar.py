from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.data import Cifar
from gpubackprop.errors import DataError


def write_batch(path: Path, count: int, first: int, classes: int = 10) -> None:
    """Images whose red plane is 0…, green 100…, blue 200… plus the row's number; labels first, first + 1, …"""
    rows = np.repeat(np.arange(32, dtype=np.uint8), 32)
    pixels = np.concatenate([rows, rows + 100, rows + 200])
    labels = ((first + np.arange(count)) % classes).astype(np.uint8)[:, None]
    coarse = [] if classes == 10 else [labels // 5]
    path.write_bytes(np.hstack([*coarse, labels, np.tile(pixels, (count, 1))]).tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        write_batch(folder / f"data_batch_{number}.bin", 4, first=number)
    write_batch(folder / "test_batch.bin", 3, first=7)
    return folder


@pytest.fixture
def folder_100(tmp_path: Path) -> Path:
    write_batch(tmp_path / "train.bin", 6, first=90, classes=100)
    write_batch(tmp_path / "test.bin", 2, first=42, classes=100)
    return tmp_path


def test_planes_become_channels_and_batches_are_joined_in_order(folder: Path):
    source = Cifar(str(folder))
    info, splits = source.info(), source.load()
    assert info.input_shape == (32, 32, 3)
    assert info.counts == {"train": 20, "test": 3}
    assert info.classes[3] == "cat"
    images, labels = splits.train.take(np.arange(20)).values()
    np.testing.assert_array_equal(images[5, 9, 30], [9, 109, 209])
    np.testing.assert_array_equal(labels, [1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6, 4, 5, 6, 7, 5, 6, 7, 8])
    np.testing.assert_array_equal(splits.test.labels(), [7, 8, 9])


def test_the_folder_around_it(folder: Path):
    assert Cifar(str(folder.parent)).info() == Cifar(str(folder)).info()


@pytest.mark.parametrize("mode", ["gz", "xz"])
def test_the_archive_as_it_is(folder: Path, tmp_path: Path, mode: str):
    path = tmp_path / f"cifar.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as archive:
        archive.add(folder, folder.name)
    assert Cifar(str(path)).info() == Cifar(str(folder)).info()
    np.testing.assert_array_equal(Cifar(str(path)).read("train").inputs, Cifar(str(folder)).read("train").inputs)


def test_names_from_the_set(folder: Path):
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert Cifar(str(folder)).info().classes == list("abcdefghij")


def test_a_hundred_classes_take_the_fine_label(folder_100: Path):
    source = Cifar(str(folder_100), classes=100)
    assert source.info().counts == {"train": 6, "test": 2}
    assert len(source.info().classes) == 100
    np.testing.assert_array_equal(source.read("train").labels(), [90, 91, 92, 93, 94, 95])
    np.testing.assert_array_equal(source.read("test").inputs[0, 4, 0], [4, 104, 204])


def test_the_wrong_number_of_classes_is_named(folder: Path, folder_100: Path):
    with pytest.raises(DataError, match=r"data_batch_1.bin is there: set classes: 10$"):
        Cifar(str(folder), classes=100).info()
    (folder / "data_batch_1.bin").unlink()
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(DataError, match=r"train.bin is there: set classes: 100$"):
        Cifar(str(folder_100)).info()


def test_a_missing_batch(folder: Path):
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"no file data_batch_4\.bin"):
        Cifar(str(folder)).info()


def test_a_truncated_batch(folder: Path):
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: 12291 bytes are not whole records of 3073"):
        Cifar(str(folder)).info()


def test_a_label_that_no_class_has(folder: Path):
    path = folder / "test_batch.bin"
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"test_batch\.bin: label 11"):
        Cifar(str(folder)).load()


def test_a_damaged_archive(folder: Path, tmp_path: Path):
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cifar\.tar\.gz: not a whole \.tar"):
        Cifar(str(path)).info()


def test_the_real_set(real_data: Callable[[str], Path]):
    source = Cifar(str(real_data("cifar10-lossless-6k") / "cifar-10-binary-first1017.tar.xz"))
    info, test = source.info(), source.read("test")
    assert info.counts == {"train": 5085, "test": 1017}
    assert info.classes[0] == "airplane"
    # the channel means of CIFAR-10 as everybody quotes them
    np.testing.assert_allclose(test.inputs.mean(axis=(0, 1, 2)) / 255, [0.491, 0.482, 0.447], atol=0.01)
