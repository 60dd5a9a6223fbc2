from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gpubackprop.data import Digits
from gpubackprop.errors import DataError


def test_info_agrees_with_what_is_loaded():
    info, splits = Digits().info(), Digits().load()
    assert splits.validation is None
    assert info.counts == {"train": len(splits.train), "test": len(splits.test)} == {"train": 1437, "test": 360}
    for split in (splits.train, splits.test):
        inputs, labels = split.take(np.arange(len(split))).values()
        assert inputs.shape[1:] == info.input_shape == (8, 8, 1)
        assert inputs.dtype == info.input_dtype
        assert labels.dtype == info.target_dtype
    assert info.classes == [str(digit) for digit in range(10)]


def test_images_are_scikit_learns_with_white_at_255():
    train = Digits().read("train")
    expected = load_digits().images[train.rows]
    images, labels = train.take(np.arange(len(train))).values()
    np.testing.assert_allclose(images[..., 0] / 255, expected / 16, atol=0.5 / 255)
    np.testing.assert_array_equal(labels, load_digits().target[train.rows])


def test_test_split_is_constant_disjoint_and_stratified():
    train, test = Digits().read("train"), Digits().read("test")
    assert not set(train.rows) & set(test.rows)
    np.testing.assert_allclose(np.bincount(test.labels()), np.bincount(load_digits().target) * 0.2, atol=1)
    # results are only comparable while these never change
    assert test.rows[:8].tolist() == [0, 4, 5, 6, 24, 26, 28, 32]


def test_no_path_to_point_at():
    with pytest.raises(DataError, match="'digits' reads no files"):
        Digits().at("elsewhere")
