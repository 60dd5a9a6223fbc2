from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpubackprop.data import Arrays, DataOptions, Digits, Idx, Memory, check, prepare
from gpubackprop.data.transform import Normalize, RandomFlip
from gpubackprop.errors import DataError, ShapeError

X, Y = np.random.default_rng(0).normal(5, 2, (100, 3)), np.arange(100) % 4


def options(**given: object) -> DataOptions:
    return DataOptions(**{"batch_size": 16, **given})


def test_digits_from_end_to_end():
    wanted = options(transforms=[Normalize()], augment=[RandomFlip()])
    data = prepare(Digits(), wanted)
    assert data.info.counts == {"train": 1293, "validation": 144, "test": 360}
    assert data.info == check(Digits(), wanted)
    batch = data.train.batch(0, 0)
    assert batch["inputs"].shape == (16, 8, 8, 1)
    assert batch["inputs"].dtype == np.float32
    assert data.validation.augment == data.test.augment == []
    assert not data.validation.shuffle
    assert data.train.shuffle


def test_the_seed_chooses_the_validation_samples_but_never_the_test_samples():
    first, second = (prepare(Digits(), options(), seed=seed) for seed in (0, 1))
    assert set(first.validation.split.rows) != set(second.validation.split.rows)
    np.testing.assert_array_equal(first.test.split.rows, second.test.split.rows)
    again = prepare(Digits(), options(), seed=1)
    np.testing.assert_array_equal(again.validation.split.rows, second.validation.split.rows)


def test_transforms_are_fitted_on_the_training_samples_alone():
    data = prepare(Memory({"train": (X, Y)}), options(transforms=[Normalize()], validation=0.3))
    normalize = data.preprocessing.transforms[0]
    np.testing.assert_allclose(normalize.mean, X[data.train.split.rows].mean(axis=0), rtol=1e-6)
    assert data.train.transforms == data.validation.transforms == data.preprocessing.transforms


def test_each_transform_is_fitted_on_what_the_one_before_leaves():
    data = prepare(Memory({"train": (X, Y)}), options(transforms=[Normalize(), Normalize()]), dtype=np.float64)
    np.testing.assert_allclose(data.preprocessing.transforms[1].mean, 0, atol=1e-12)
    np.testing.assert_allclose(data.preprocessing.transforms[1].std, 1, rtol=1e-12)


def test_an_earlier_runs_preprocessing_is_used_as_it_was():
    earlier = prepare(Memory({"train": (X, Y)}), options(transforms=[Normalize()])).preprocessing
    data = prepare(Memory({"train": (X + 100, Y)}), options(transforms=[Normalize()]), preprocessing=earlier)
    assert data.train.transforms == earlier.transforms


def test_the_sources_own_validation_split_goes_before_a_share():
    data = prepare(Memory({"train": (X, Y), "validation": (X[:7], Y[:7])}), options())
    assert data.info.counts == {"train": 100, "validation": 7}


def test_no_validation():
    data = prepare(Memory({"train": (X, Y)}), options(validation=0.0))
    assert data.validation is None
    assert data.test is None
    assert data.info.counts == {"train": 100}


def test_validation_from_a_path(tmp_path: Path):
    for name, x in (("a", X), ("b", X[:9])):
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=Y[: len(x)])
    wanted = options(validation=str(tmp_path / "b.npz"))
    source = Arrays(str(tmp_path / "a.npz"))
    assert prepare(source, wanted).info.counts == {"train": 100, "validation": 9} == check(source, wanted).counts
    np.savez(tmp_path / "b.npz", x_train=X[:, :2], y_train=Y)
    with pytest.raises(DataError, match=r"b\.npz: inputs of shape \(2,\), but the training data has \(3,\)"):
        check(source, wanted)


def test_counts_of_check_are_those_of_prepare(idx_folder: Path):
    source = Idx(str(idx_folder))
    assert check(source, options(validation=0.25)) == prepare(source, options(validation=0.25)).info


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"transforms": [Normalize([1.0, 2.0], 1.0)]}, ShapeError, "mean has 2 numbers"),
        ({"augment": [RandomFlip()]}, ShapeError, "random_flip is for images"),
        ({"validation": 0.999}, DataError, "leaves no samples to train on"),
        ({"validation": "elsewhere"}, DataError, "cannot be pointed at a path"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(wanted: dict[str, object], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        check(Memory({"train": (X, Y)}), options(**wanted))


def test_transforms_are_fitted_on_real_positions_alone():
    x, mask = np.random.default_rng(0).normal(5, 2, (20, 6, 3)), np.arange(6) < np.arange(1, 21)[:, None] % 6 + 1
    arrays = {"inputs": x * mask[..., None], "targets": Y[:20], "mask": mask}
    data = prepare(Memory({"train": arrays}), options(transforms=[Normalize()], validation=0), dtype=np.float64)
    np.testing.assert_allclose(data.preprocessing.transforms[0].mean, x[mask].mean(axis=0))


def test_targets_may_be_the_inputs_as_the_model_gets_them():
    wanted = options(transforms=[Normalize()], augment=[RandomFlip()], targets="inputs")
    data = prepare(Digits(), wanted)
    assert data.info == check(Digits(), wanted)
    assert data.info.target_shape == data.info.input_shape == (8, 8, 1)
    assert data.info.target_dtype == "float32"
    assert data.info.classes is data.preprocessing.classes is None
    for loader in (data.train, data.validation, data.test):
        batch = loader.batch(0, 0)
        np.testing.assert_array_equal(batch["targets"], batch["inputs"])
        assert not np.shares_memory(batch["targets"], batch["inputs"])
        assert batch["targets"].dtype == np.float32


def test_targets_cannot_be_inputs_that_are_symbols():
    with pytest.raises(DataError, match=r"data\.targets"):
        check(Memory({"train": (np.zeros((4, 3), int), np.zeros(4))}), options(targets="inputs"))


def test_transforms_are_for_one_input():
    source = Memory({"train": {"inputs": {"a": X, "b": X}, "targets": Y}})
    with pytest.raises(DataError, match=r"several inputs \(a, b\)"):
        check(source, options(transforms=[Normalize()]))


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="no training samples here; found test"):
        check(Memory({"test": (X, Y)}), options())


def test_a_class_that_training_does_not_know():
    with pytest.raises(DataError, match="test split: class 9, but the training data has only 0 to 3"):
        prepare(Memory({"train": (X, Y), "test": (X[:1], np.array([9]))}), options())


def of_arrays(**validation):
    train = {"inputs": np.zeros((6, 4, 2)), "targets": np.zeros((6, 4), int)}
    return prepare(Memory({"train": train, "validation": train | validation}), DataOptions(batch_size=2))


def test_targets_of_all_splits_have_one_shape():
    assert len(of_arrays().validation.split) == 6
    with pytest.raises(DataError, match=r"validation split: targets of shape \(2,\); those of .* have \(4,\)"):
        of_arrays(targets=np.zeros((6, 2), int))


@pytest.mark.parametrize("weight", [[0.0] * 6, [1, 1, 1, 1, 1, -0.5]])
def test_weights_that_weigh_nothing_or_less(weight):
    with pytest.raises(DataError, match="validation split: weights must be at least 0, and some above"):
        of_arrays(weight=np.array(weight))
    of_arrays(weight=np.array([0.0, 0, 0, 0, 0, 1]))


def test_lists_that_are_no_array():
    with pytest.raises(DataError, match="pad sequences to one length"):
        Memory({"train": ([[1, 2], [3]], [0, 1])})
