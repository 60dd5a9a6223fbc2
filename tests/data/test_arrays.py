from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpubackprop.data import Arrays, Memory
from gpubackprop.errors import DataError

X, Y = np.arange(24.0).reshape(8, 3), np.arange(8) % 3


@pytest.fixture(params=["npz", "compressed", "folder"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2], "readme": np.zeros(1)}
    if request.param == "folder":
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        return tmp_path
    save = np.savez if request.param == "npz" else np.savez_compressed
    save(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_splits_and_info(path: Path):
    source = Arrays(str(path))
    info, splits = source.info(), source.load()
    assert info.input_shape == (3,)
    assert info.input_dtype == "float64"
    assert info.float_inputs
    assert info.target_shape == ()
    assert info.classes == ["0", "1", "2"]
    assert info.counts == {"train": 8, "test": 2}
    inputs, targets = splits.train.take(np.array([6, 1])).values()
    np.testing.assert_array_equal(inputs, X[[6, 1]])
    np.testing.assert_array_equal(targets, Y[[6, 1]])
    assert splits.validation is None


def test_npy_files_stay_on_disk_and_batches_are_copies(tmp_path: Path):
    np.save(tmp_path / "x_train.npy", X)
    np.save(tmp_path / "y_train.npy", Y)
    train = Arrays(str(tmp_path)).read("train")
    assert isinstance(train.inputs, np.memmap)
    inputs, _ = train.take(np.array([5, 0, 5])).values()
    np.testing.assert_array_equal(inputs, X[[5, 0, 5]])
    inputs += 1  # a batch may be written into; the file never is


def test_real_targets_are_no_classes(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=X[:, :1])
    info = Arrays(str(tmp_path / "a.npz")).info()
    assert info.classes is None
    assert info.target_shape == (1,)


def test_only_a_test_split_can_be_evaluated_but_not_trained_on(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x_test=X, y_test=Y)
    source = Arrays(str(tmp_path / "a.npz"))
    assert len(source.samples("test", "train")) == 8
    with pytest.raises(DataError, match=r"a\.npz: no training samples"):
        source.load()


def test_the_same_source_on_another_path(path: Path):
    source = Arrays("elsewhere")
    assert source.at(str(path)).info() == Arrays(str(path)).info()
    assert source.path == "elsewhere"


def test_grey_images_get_a_channel_axis(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 5, 4), np.uint8), y_train=np.zeros(2, int))
    source = Arrays(str(tmp_path / "a.npz"))
    assert source.info().input_shape == source.read("train").inputs.shape[1:] == (5, 4, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X}, "no array 'y_train'"),
        ({"x_train": X, "y_train": Y[:7]}, "x_train has 8 samples, y_train 7"),
        ({"x_train": X, "y_train": np.array(list("abcdefgh"))}, "y_train is of dtype str"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "x_train has no samples"),
        ({"x_train": X[0, 0], "y_train": Y}, "x_train is a single number"),
        ({"x": X, "y": Y}, "found x, y; expected x_train and y_train"),
    ],
)
@pytest.mark.parametrize("folder", [False, True], ids=["npz", "folder"])
def test_mistakes(tmp_path: Path, arrays: dict[str, np.ndarray], message: str, folder: bool):
    path = tmp_path if folder else tmp_path / "a.npz"
    if folder:
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    else:
        np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        Arrays(str(path)).info()


@pytest.mark.parametrize("method", ["info", "load"])
def test_pickled_objects_are_never_loaded(tmp_path: Path, method: str):
    np.save(tmp_path / "x_train.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(tmp_path / "y_train.npy", np.zeros(2))
    with pytest.raises(DataError, match="Python objects, which are never loaded"):
        getattr(Arrays(str(tmp_path)), method)()
    np.savez(tmp_path / "a.npz", x_train=np.array([{}, {}]), y_train=np.zeros(2))
    with pytest.raises(DataError, match="x_train is of dtype object"):
        getattr(Arrays(str(tmp_path / "a.npz")), method)()


def test_damaged_files(tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"a\.npz: not an \.npz file"):
        Arrays(str(tmp_path / "a.npz")).info()
    np.save(tmp_path / "x_train.npy", X)
    np.save(tmp_path / "y_train.npy", Y)
    content = (tmp_path / "x_train.npy").read_bytes()
    (tmp_path / "x_train.npy").write_bytes(content[:-8])
    with pytest.raises(DataError, match=r"x_train\.npy: .* is the file whole\?"):
        Arrays(str(tmp_path)).info()


def test_a_path_is_needed():
    with pytest.raises(DataError, match="data source arrays needs 'path'"):
        Arrays().info()


def test_masks_and_weights_of_a_file(tmp_path: Path):
    x, mask = np.ones((8, 5, 2)), np.arange(5) < np.arange(1, 9)[:, None] % 5 + 1
    np.savez(tmp_path / "a.npz", x_train=x, y_train=Y, mask_train=mask.astype(np.uint8), weight_train=np.arange(8.0))
    batch = Arrays(str(tmp_path / "a.npz")).read("train").take(np.array([3, 1]))
    np.testing.assert_array_equal(batch["mask"], mask[[3, 1]])
    assert batch["mask"].dtype == bool
    np.testing.assert_array_equal(batch["weight"], [3, 1])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=Y, mask_train=mask[:, :4])
    with pytest.raises(DataError, match=r"train: a mask of shape \(8, 4\) for \(8, 5, 2\)"):
        Arrays(str(tmp_path / "a.npz")).read("train")


def test_memory_takes_parts_by_name_and_several_of_each():
    part = {"inputs": {"a": X, "b": X[:, None]}, "targets": {"c": Y, "d": X}, "mask": {"b": np.ones((8, 1), bool)}}
    source = Memory({"train": part | {"weight": list(range(8))}})
    info = source.info()
    assert info.input_shape == {"a": X.shape[1:], "b": (1, *X.shape[1:])}
    assert info.target_shape == {"c": (), "d": X.shape[1:]}
    assert info.target_dtype == {"c": Y.dtype.name, "d": X.dtype.name}
    assert info.classes is None
    assert info.counts == {"train": 8}
    split = source.read("train")
    assert split.inputs["a"] is X
    np.testing.assert_array_equal(split.weight, np.arange(8))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"inputs": X, "targets": Y, "masks": Y}, "unknown part 'masks'; .*did you mean 'mask'"),
        ({"inputs": X}, "has no targets"),
        ({"inputs": {"a": X}, "targets": Y[:3]}, "8 inputs but 3 targets"),
        ({"inputs": {"a": X}, "targets": Y, "mask": {"b": Y}}, "nothing of the name 'b'"),
        ({"inputs": X, "targets": Y, "weight": X}, "weight must be one number per sample"),
    ],
)
def test_parts_that_do_not_fit_are_named(part: dict[str, object], message: str):
    with pytest.raises(DataError, match=message):
        Memory({"train": part})


def test_memory_holds_the_callers_arrays():
    source = Memory({"train": (X, Y), "validation": (X[:2].tolist(), [2, 1])})
    info, splits = source.info(), source.load()
    assert splits.train.inputs is X
    assert info.counts == {"train": 8, "validation": 2}
    assert info.classes == ["0", "1", "2"]
    np.testing.assert_array_equal(splits.validation.targets, [2, 1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"val": (X, Y)}, "unknown split 'val'; allowed: train, validation, test"),
        ({"train": (X, Y[:3])}, "'train' has 8 inputs but 3 targets"),
        ({"train": X}, "must be a pair"),
        ({"train": (X, ["a"] * 8)}, "targets of 'train' is of dtype str"),
        ({}, "no arrays"),
    ],
)
def test_memory_mistakes(data: dict[str, object], message: str):
    with pytest.raises(DataError, match=message):
        Memory(data)
