from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.data import DataOptions, Digits, DigitScenes, Split, check, prepare
from gpubackprop.errors import UsageError

SMALL = {"samples": 40, "test": 10, "size": 24}


def scenes(split: Split) -> tuple[np.ndarray, np.ndarray]:
    found = split.take(np.arange(len(split)))
    return found["inputs"], found["targets"]


def test_headers_and_batches():
    source, options = DigitScenes(**SMALL), DataOptions(validation=0.25, batch_size=6)
    data = prepare(source, options)
    assert check(source, options) == data.info
    assert data.info.counts == {"train": 30, "validation": 10, "test": 10}
    assert data.info.classes[:3] == ["background", "0", "1"]
    batch = data.train.batch(0, 0)
    assert batch["inputs"].shape == (6, 24, 24, 1)
    assert batch["targets"].shape == (6, 24, 24)
    assert batch["targets"].dtype == np.int64
    assert batch["targets"].max() <= 10


def test_a_single_digit_without_noise_is_an_image_of_its_class():
    images, labels = (a for a in Digits().read("test").take(np.arange(360)).values())
    known = {(image * (image >= 64)).tobytes(): label for image, label in zip(images[..., 0], labels, strict=True)}
    x, classes = scenes(DigitScenes(most=1, noise=0, scale=1, size=8, samples=1, test=20).read("test"))
    for image, of_pixel in zip(x[..., 0], classes, strict=True):
        label = known[image.tobytes()]
        np.testing.assert_array_equal(of_pixel, np.where(image > 0, 1 + label, 0))


def test_scenes_have_one_to_most_digits_at_different_places():
    _, classes = scenes(DigitScenes(**SMALL | {"samples": 200}).read("train"))
    kinds = [len(np.unique(each)) - 1 for each in classes]
    assert set(kinds) == {1, 2, 3}
    assert (classes > 0).any(axis=(0, 1)).sum() >= 22
    assert (classes > 0).any(axis=(0, 2)).all()


def test_scenes_are_a_function_of_their_seed():
    first, again, other = (scenes(DigitScenes(**SMALL, seed=seed).read("train"))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_splits_share_no_digit():
    source = DigitScenes(most=1, noise=0, scale=1, size=8, samples=400, test=100).holding_out(0.5)
    seen = {
        name: {image.tobytes() for image in scenes(source.read(name))[0]} for name in ("train", "validation", "test")
    }
    assert not seen["train"] & seen["validation"]
    assert not (seen["train"] | seen["validation"]) & seen["test"]


def test_a_canvas_smaller_than_a_digit_is_an_error():
    with pytest.raises(UsageError, match="at least 16"):
        DigitScenes(size=15)
