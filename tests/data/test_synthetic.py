from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubackprop.data import DataOptions, Synthetic, check, prepare
from gpubackprop.errors import DataError, UsageError

TASKS = ["reverse", "addition", "adding", "copy"]


def split(task: str, name: str = "train", **options: Any) -> dict[str, Any]:
    found = Synthetic(task, **{"samples": 60, "test": 20, "length": 6, **options}).read(name)
    return found.take(np.arange(len(found)))


def flat(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    named = {k: v if isinstance(v, dict) else {"": v} for k, v in batch.items()}
    return {f"{k}.{name}": array for k, v in named.items() for name, array in v.items()}


@pytest.mark.parametrize("task", TASKS)
def test_samples_are_a_function_of_the_seed_of_the_task(task: str):
    first, again, other = (flat(split(task, seed=seed)) for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize("task", TASKS)
def test_no_sample_is_in_two_splits(task: str):
    def keys(name: str) -> set[bytes]:
        inputs = split(task, name)["inputs"]
        return {row.tobytes() for row in (inputs["source"] if isinstance(inputs, dict) else inputs)}

    assert not keys("train") & keys("test")


@pytest.mark.parametrize("task", TASKS)
def test_headers_and_batches(task: str):
    source, options = Synthetic(task, samples=50, test=10, length=6), DataOptions(batch_size=8)
    data = prepare(source, options, seed=1)
    assert check(source, options) == data.info
    assert data.info.counts == {"train": 45, "validation": 5, "test": 10}
    batch = data.train.batch(0, 0)
    if isinstance(data.info.input_shape, dict):
        assert {name: array.shape[1:] for name, array in batch["inputs"].items()} == data.info.input_shape
        assert {name: array.dtype for name, array in batch["inputs"].items()} == {
            "source": np.int64,
            "target": np.int64,
        }
        assert {name: array.shape for name, array in batch["mask"].items()} == {
            name: (8, *shape) for name, shape in data.info.input_shape.items()
        }
    else:
        assert batch["inputs"].shape == (8, *data.info.input_shape)
        assert "mask" not in batch
    assert batch["targets"].shape == (8, *data.info.target_shape)


@pytest.mark.parametrize("task", ["reverse", "addition"])
def test_answers_are_right_and_forced_one_behind(task: str):
    source = Synthetic(task, samples=60, test=20, length=6)
    found = source.read("train")
    batch = found.take(np.arange(60))
    decode, boundary = source.info().vocabulary.decode, source.info().vocabulary.boundary
    for row in range(60):
        asked = decode(batch["inputs"]["source"][row])
        answer = asked[::-1] if task == "reverse" else str(sum(map(int, asked.split("+"))))
        targets = batch["targets"][row]
        length = int((targets >= 0).sum())
        assert decode(targets[:length]) == answer + "\n"
        assert (targets[length:] == -100).all()
        forced = batch["inputs"]["target"][row]
        assert forced[0] == boundary
        np.testing.assert_array_equal(forced[1:length], targets[: length - 1])
        assert (forced[length:] == 0).all()
        np.testing.assert_array_equal(batch["mask"]["target"][row], np.arange(len(targets)) < length)
        np.testing.assert_array_equal(batch["mask"]["source"][row], batch["inputs"]["source"][row] > 0)
    lengths = batch["mask"]["source"].sum(axis=1)
    assert lengths.min() < lengths.max()


def test_adding_marks_one_number_in_each_half():
    batch = split("adding", samples=500, length=7)
    values, marks = batch["inputs"][..., 0], batch["inputs"][..., 1]
    assert (marks[:, :3].sum(axis=1) == 1).all()
    assert (marks[:, 3:].sum(axis=1) == 1).all()
    np.testing.assert_allclose(batch["targets"][:, 0], (values * marks).sum(axis=1), rtol=1e-6)
    assert abs(((batch["targets"] - 1) ** 2).mean() - 1 / 6) < 0.03


def test_copy_asks_for_the_symbols_after_the_marker():
    batch = split("copy", length=6)
    x, y = batch["inputs"], batch["targets"]
    assert x.shape == y.shape == (60, 26)
    assert set(np.unique(x[:, :10])) == set(range(1, 9))
    assert (x[:, 15] == 9).all()
    np.testing.assert_array_equal(y[:, -10:], x[:, :10])
    assert not y[:, :-10].any()
    assert not x[:, 10:15].any()
    assert not x[:, 16:].any()


def test_more_samples_than_there_are_is_an_error():
    with pytest.raises(DataError, match="only 26 different samples of length 1"):
        Synthetic("reverse", samples=20, test=7, length=1).info()
    assert Synthetic("reverse", samples=20, test=6, length=1).info().counts == {"train": 20, "test": 6}


def test_options_that_make_no_task():
    with pytest.raises(UsageError, match="at least 2"):
        Synthetic("adding", length=1)
    with pytest.raises(UsageError, match="at most 17"):
        Synthetic("addition", length=18)
