from __future__ import annotations

import json

import numpy as np
import pytest

from gpubackprop.data.source import Split
from gpubackprop.data.transform import (
    Augmentation,
    Cutout,
    Draw,
    Normalize,
    RandomCrop,
    RandomFlip,
    as_input,
    augmentations,
    from_state,
    state_of,
)
from gpubackprop.errors import DataError, ShapeError, UsageError


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uint8_becomes_zero_to_one(dtype: type):
    inputs = as_input(np.array([0, 51, 255], np.uint8), dtype)
    assert inputs.dtype == dtype
    np.testing.assert_array_equal(inputs, np.array([0, 51, 255], dtype) / dtype(255))


def test_other_dtypes_keep_their_values():
    assert as_input(np.array([7], np.int32), np.float32).dtype == np.int64
    np.testing.assert_array_equal(as_input(np.array([3.5, 900]), np.float32), np.array([3.5, 900], np.float32))


class TestNormalize:
    @pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), ([0.1, 0.2, 0.3], [1.0, 2.0, 4.0]), (0.5, [1.0, 2.0, 4.0])])
    @pytest.mark.parametrize("shape", [(6, 3), (6, 4, 5, 3)])
    def test_per_channel(self, mean, std, shape):
        x = np.random.default_rng(0).random(shape)
        expected = (x - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(Normalize(mean, std)(x.copy()), expected, rtol=1e-14)
        single = Normalize(mean, std)(x.astype(np.float32))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)

    def test_fitted_on_batches_of_unequal_size(self):
        x = np.random.default_rng(0).normal([5, -300, 0], [1, 20, 0.1], (1000, 4, 3))
        fitted = Normalize().fit([x[:1], x[1:700], x[700:]])
        np.testing.assert_allclose(fitted.mean, x.mean(axis=(0, 1)), rtol=1e-12)
        np.testing.assert_allclose(fitted.std, x.std(axis=(0, 1)), rtol=1e-12)

    def test_fitted_in_float32_far_from_zero(self):
        x = np.random.default_rng(0).normal(1000, 1, (5000, 2)).astype(np.float32)
        fitted = Normalize().fit([x[:2000], x[2000:]])
        np.testing.assert_allclose(fitted.std, x.astype(np.float64).std(axis=0), rtol=1e-5)

    def test_what_is_given_is_kept(self):
        assert Normalize(mean=0.0).fit([np.array([[3.0], [5.0]])]).options() == {"mean": 0.0, "std": [1.0]}

    def test_a_constant_channel_keeps_its_scale(self):
        assert Normalize().fit([np.array([[7.0, 1.0], [7.0, 3.0]])]).std == [1.0, 1.0]

    def test_what_is_complete_reads_no_data(self):
        def nothing():
            raise AssertionError
            yield

        assert Normalize(0.1, 0.2).fit(nothing()).options() == {"mean": 0.1, "std": 0.2}

    def test_survives_json(self):
        fitted = Normalize().fit([np.random.default_rng(0).random((50, 3))])
        again = from_state(json.loads(json.dumps(state_of(fitted))))
        assert again.options() == fitted.options()
        assert state_of(fitted)["type"] == "normalize"

    @pytest.mark.parametrize("std", [0.0, -1.0, [1.0, 0.0]])
    def test_std_must_be_positive(self, std):
        with pytest.raises(UsageError, match="std must be greater than 0"):
            Normalize(0.0, std)

    def test_one_number_per_channel(self):
        with pytest.raises(ShapeError, match="mean has 3 numbers, the data has 1 channels"):
            Normalize([0.1, 0.2, 0.3], 1.0).check((28, 28, 1))
        Normalize([0.1, 0.2, 0.3], 1.0).check((32, 32, 3))

    def test_nan_in_the_data_is_found(self):
        with pytest.raises(DataError, match="NaN"):
            Normalize().fit([np.array([[1.0], [np.nan]])])

    def test_unfitted_is_an_error(self):
        with pytest.raises(UsageError, match="fit it"):
            Normalize()(np.zeros((1, 1)))


def images(count: int, height: int = 6, width: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((count, height, width, channels), dtype=np.float32) + 0.1


EVERY = [RandomFlip(), RandomCrop(2), Cutout(3)]


def test_every_augmentation_is_tested_here():
    assert {type(augmentation) for augmentation in EVERY} == {augmentations[name] for name in augmentations}


@pytest.mark.parametrize("augmentation", EVERY, ids=lambda a: type(a).__name__)
class TestEveryAugmentation:
    def test_a_sample_does_not_depend_on_its_batch(self, augmentation: Augmentation):
        x = images(40)
        whole = augmentation(x.copy(), Draw(3, 5, np.arange(40), "a"))
        samples = np.array([31, 2, 17])
        part = augmentation(x[samples], Draw(3, 5, samples, "a"))
        np.testing.assert_array_equal(part, whole[samples])
        assert whole.dtype == np.float32
        assert whole.shape == x.shape

    @pytest.mark.parametrize("other", [Draw(4, 5, np.arange(40), "a"), Draw(3, 6, np.arange(40), "a")])
    def test_other_seeds_and_epochs_give_other_images(self, augmentation: Augmentation, other: Draw):
        whole = augmentation(images(40), Draw(3, 5, np.arange(40), "a"))
        changed = (augmentation(images(40), other) != whole).any(axis=(1, 2, 3))
        assert changed.mean() > 0.3

    def test_only_for_images(self, augmentation: Augmentation):
        with pytest.raises(ShapeError, match=r"is for images \(H, W, C\); samples of this data have shape \(64,\)"):
            augmentation.check((64,))


def test_flip_mirrors_the_columns_of_about_half_the_images():
    x = images(1000, 2, 3)
    y = RandomFlip()(x.copy(), Draw(0, 0, np.arange(1000), "a"))
    flipped = (y == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (flipped | (y == x).all(axis=(1, 2, 3))).all()
    assert 440 < flipped.sum() < 560


@pytest.mark.parametrize(("p", "expected"), [(0.0, 0), (1.0, 10)])
def test_flip_never_and_always(p: float, expected: int):
    x = images(10)
    assert (RandomFlip(p)(x.copy(), Draw(0, 0, np.arange(10), "a")) != x).any(axis=(1, 2, 3)).sum() == expected


def test_crop_shifts_by_every_offset_and_fills_with_black():
    count, padding = 600, 2
    x = images(count)
    y = RandomCrop(padding)(x.copy(), Draw(0, 0, np.arange(count), "a"))
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    seen = np.zeros((5, 5), int)
    for top in range(5):
        for left in range(5):
            cut = padded[:, top : top + 6, left : left + 7]
            seen[top, left] = (y == cut).all(axis=(1, 2, 3)).sum()
    assert seen.sum() == count
    assert seen.min() > 5


def test_cutout_blackens_a_square_that_the_border_cuts_off():
    y = Cutout(4)(images(500, 10, 12), Draw(0, 0, np.arange(500), "a"))
    black = (y == 0).all(axis=3)
    np.testing.assert_array_equal((y == 0).any(axis=3), black)
    heights, widths = black.any(axis=2).sum(axis=1), black.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(black.sum(axis=(1, 2)), heights * widths)
    assert set(heights) == set(widths) == {2, 3, 4}
    assert black.any(axis=0).all()


def test_two_draws_of_one_augmentation_differ():
    draw = Draw(0, 0, np.arange(5), "a")
    assert (draw.uniform(3) != draw.uniform(3)).all()


def test_draw_below_is_uniform_and_within():
    numbers = Draw(0, 0, np.arange(5000), "a").below(5, 1)
    np.testing.assert_allclose(np.bincount(numbers[:, 0], minlength=5), 1000, atol=150)


def test_unequal_arrays_are_no_split():
    with pytest.raises(DataError, match="3 inputs but 2 targets"):
        Split(np.zeros(3), np.zeros(2))
