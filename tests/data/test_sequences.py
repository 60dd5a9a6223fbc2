from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubackprop.data import Data, DataOptions, Preprocessing, Sequences, check, prepare, read_inputs
from gpubackprop.errors import DataError, UsageError

ROWS = 50


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Row i: a day, i, i squared."""
    lines = ["day,count,square", *(f"d{i},{i},{i * i}" for i in range(ROWS))]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "a.csv"


def prepared(path: Path, validation: float | str = 0.2, **options: Any) -> Data:
    source, common = Sequences(str(path), **options), DataOptions(validation=validation, batch_size=7)
    data = prepare(source, common, dtype=np.float64)
    assert check(source, common) == data.info
    return data


def arrays(loader: Any) -> dict[str, np.ndarray]:
    batches = list(loader.batches())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_windows_and_what_follows_them(table: Path):
    data = prepared(table, window=4, horizon=2, target="square", standardize=False)
    assert data.info.input_shape == (4, 2)
    assert data.info.target_shape == (2,)
    assert data.info.series.columns == ["count", "square"]
    for name in ("train", "validation"):
        batch = arrays(getattr(data, name))
        first = batch["inputs"][:, 0, 0]
        np.testing.assert_array_equal(batch["inputs"][..., 0], first[:, None] + np.arange(4))
        np.testing.assert_array_equal(batch["inputs"][..., 1], batch["inputs"][..., 0] ** 2)
        np.testing.assert_array_equal(batch["targets"], (first[:, None] + [4, 5]) ** 2)


def test_no_row_is_forecast_in_two_splits(table: Path):
    data = prepared(table, window=4, horizon=2, target="count", standardize=False, test=0.2)
    rows = {name: arrays(getattr(data, name))["targets"] for name in ("train", "validation", "test")}
    assert {name: (found.min(), found.max()) for name, found in rows.items()} == {
        "train": (4, 31),
        "validation": (32, 39),
        "test": (40, 49),
    }
    assert data.info.counts == {"train": 27, "validation": 7, "test": 9}


def test_the_scale_is_that_of_the_training_rows(table: Path):
    data = prepared(table, window=4)
    kept = np.stack([np.arange(40.0), np.arange(40.0) ** 2], axis=1)
    np.testing.assert_allclose(data.info.series.mean, kept.mean(axis=0))
    np.testing.assert_allclose(data.info.series.std, kept.std(axis=0))
    batch = arrays(data.validation)
    raw = np.arange(40, 50)[:, None] ** [1, 2]
    assert data.info.target_shape == (1, 2)
    np.testing.assert_allclose(batch["targets"][:, 0], (raw - kept.mean(axis=0)) / kept.std(axis=0))
    np.testing.assert_allclose(data.info.series.restored(batch["targets"])[:, 0], raw)


def test_a_stride_thins_out_the_training_windows_alone(table: Path):
    dense, thin = (prepared(table, window=4, stride=stride) for stride in (1, 3))
    assert thin.info.counts == {"train": 12, "validation": dense.info.counts["validation"]}


def test_gaps_are_named_or_filled_with_the_value_before(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("a;b\nNA;1\n2;2\n;3\n4;nan\n5;5\n6;6\n")
    with pytest.raises(DataError, match=r"3 values are missing, the first in row 1, column 'a'; set missing"):
        Sequences(str(path), window=2).info()
    data = prepared(path, validation=0, window=2, missing="forward_fill", standardize=False)
    batch = arrays(data.train)
    order = np.argsort(data.train.order(0))
    np.testing.assert_array_equal(batch["inputs"][order][0], [[2, 2], [2, 3]])
    np.testing.assert_array_equal(batch["targets"][order][:, 0], [[4, 3], [5, 5], [6, 6]])


def test_columns_of_an_npz_file(tmp_path: Path):
    np.savez(tmp_path / "a.npz", t=np.arange(20), u=np.arange(20) * 2.0)
    data = prepared(tmp_path / "a.npz", window=3, target=["u"], columns=["u", "t"], standardize=False)
    assert data.info.input_shape == (3, 2)
    assert data.info.target_shape == (1,)


def test_a_forecast_is_made_from_the_last_rows(table: Path, tmp_path: Path):
    known = prepared(table, window=4, target="square").preprocessing
    state = json.loads(json.dumps(known.to_json()))
    again = Preprocessing.from_json(state)
    assert again.to_json() == state
    (tmp_path / "new.csv").write_text("square,count\n" + "".join(f"{i * i},{i}\n" for i in range(10)))
    inputs = read_inputs([tmp_path / "new.csv"], again, np.float64)
    raw = np.arange(6, 10)[:, None] ** [1, 2]
    np.testing.assert_allclose(inputs.array, [(raw - known.series.mean) / known.series.std])
    (tmp_path / "short.csv").write_text("square,count\n1,1\n")
    with pytest.raises(DataError, match="1 rows, of which the model looks at the last 4"):
        read_inputs([tmp_path / "short.csv"], again)


def test_other_rows_keep_the_scale_of_the_training_rows(table: Path, tmp_path: Path):
    (tmp_path / "later.csv").write_text("day,count,square\n" + "".join(f"d,{i},{i * i}\n" for i in range(100, 110)))
    data = prepared(table, validation=str(tmp_path / "later.csv"), window=4)
    np.testing.assert_allclose(data.info.series.restored(arrays(data.validation)["targets"])[0], [[104, 104**2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 60}, "50 rows are less than a window of 60 and a horizon of 1"),
        ({"window": 4, "columns": ["coumt"]}, "no column 'coumt'; found day, count, square; did you mean 'count'"),
        ({"window": 4, "target": "sqare"}, "target 'sqare' is none of .*did you mean 'square'"),
        ({"window": 4, "columns": ["day"]}, "row 1, column 'day': 'd0' is not a finite number"),
    ],
)
def test_what_is_wrong_is_named(table: Path, options: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        Sequences(str(table), **options).info()


def test_a_row_of_another_width_is_named(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match=r"a\.csv:3: 1 columns, but the header has 2"):
        Sequences(str(tmp_path / "a.csv"), window=1).info()


def test_options_of_a_forecast_need_a_window():
    with pytest.raises(UsageError, match="give window too"):
        Sequences("a.csv", horizon=3)


def test_labelled_sequences_of_unequal_length(tmp_path: Path):
    x = np.arange(4 * 5 * 2, dtype=np.float32).reshape(4, 5, 2)
    x[1, 3:] = np.nan  # behind the end may stand anything
    lengths = np.array([5, 3, 1, 4])
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 1, 1, 0]), lengths=lengths)
    data = prepared(tmp_path / "a.npz", validation=0)
    assert data.info.input_shape == (5, 2)
    assert data.info.classes == ["0", "1"]
    batch = arrays(data.train)
    order = np.argsort(data.train.order(0))
    np.testing.assert_array_equal(batch["mask"][order].sum(axis=1), lengths)
    assert batch["mask"].dtype == bool
    np.testing.assert_array_equal(batch["inputs"][order][1], [*x[1, :3], [0, 0], [0, 0]])


def test_lengths_beyond_the_array_are_an_error(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 5, 1)), y_train=np.zeros(2, int), lengths_train=np.array([5, 6]))
    with pytest.raises(DataError, match=r"lengths_train must be whole numbers .* from 1 to 5"):
        Sequences(str(tmp_path / "a.npz")).info()


def test_ts_files(tmp_path: Path):
    (tmp_path / "X_TRAIN.ts").write_text("#c\n@data\n1,2,3:4,5,6:up\n1,2:3,4:down\n")
    (tmp_path / "X_TEST.ts").write_text("@data\n7,8:9,10:up\n")
    data = prepared(tmp_path, validation=0)
    assert data.info.counts == {"train": 2, "test": 1}
    assert data.info.classes == ["down", "up"]
    test = arrays(data.test)
    np.testing.assert_array_equal(test["inputs"], [[[7, 9], [8, 10], [0, 0]]])
    np.testing.assert_array_equal(test["mask"], [[True, True, False]])
    np.testing.assert_array_equal(test["targets"], [1])


def test_ucr(real_data: Callable[[str], Path]):
    info = Sequences(f"{real_data('ts-ucr-small')}/BasicMotions").info()
    assert info.counts == {"train": 40, "test": 40}
    assert info.input_shape == (100, 6)


def test_two_columns_of_one_name(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a,b,a\n" + "1,2,3\n" * 20)
    with pytest.raises(DataError, match=r"a\.csv:1: two columns are called 'a'"):
        prepared(tmp_path / "a.csv", window=2)
