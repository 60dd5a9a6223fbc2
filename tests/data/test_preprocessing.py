from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpubackprop.data import Preprocessing, Split, read_inputs
from gpubackprop.data.transform import Normalize
from gpubackprop.errors import CheckpointError, DataError

IMAGES = Preprocessing("idx", (4, 5, 1), "uint8", ["cat", "dog"], [Normalize(0.5, 0.25)])
TABLE = Preprocessing("arrays", (3,), "float64", None, [])
WORDS = Preprocessing("arrays", (3,), "int64", None, [])
PIXELS = np.arange(40, dtype=np.uint8).reshape(2, 4, 5, 1) * 6
EXPECTED = (PIXELS / 255 - 0.5) / 0.25


def test_survives_json():
    again = Preprocessing.from_json(json.loads(json.dumps(IMAGES.to_json())))
    assert again.to_json() == IMAGES.to_json()
    np.testing.assert_array_equal(again.apply(PIXELS), IMAGES.apply(PIXELS))
    assert IMAGES.to_json()["format"] == 1


def test_a_later_format_and_a_damaged_file():
    with pytest.raises(CheckpointError, match="format 2, this version reads 1"):
        Preprocessing.from_json({"format": 2})
    with pytest.raises(CheckpointError, match="damaged"):
        Preprocessing.from_json({"format": 1, "source": "idx"})


def test_other_data_must_be_of_the_kind_trained_on():
    IMAGES.check(Split(PIXELS, np.array([0, 1])), "there")
    with pytest.raises(DataError, match=r"^there: samples of shape \(5, 4, 1\); the model takes \(4, 5, 1\)"):
        IMAGES.check(Split(PIXELS.reshape(2, 5, 4, 1), np.array([0, 1])), "there")
    with pytest.raises(DataError, match=r"^there: class 2, but the training data has only 0 to 1"):
        IMAGES.check(Split(PIXELS, np.array([0, 2])), "there")


class TestImages:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "pgm"])
    def test_grey(self, tmp_path: Path, suffix: str):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(PIXELS[1, ..., 0]).save(path)
        inputs = read_inputs([path], IMAGES)
        np.testing.assert_allclose(inputs.array, EXPECTED[1:], rtol=1e-5, atol=1e-6)
        assert inputs.array.dtype == np.float32
        assert inputs.labels == [str(path)]
        assert inputs.notes == []

    def test_colour_becomes_what_the_model_takes_and_back(self, tmp_path: Path):
        Image.fromarray(np.repeat(PIXELS[0], 3, axis=2)).save(tmp_path / "a.png")
        np.testing.assert_allclose(read_inputs([tmp_path / "a.png"], IMAGES).array, EXPECTED[:1], rtol=1e-5, atol=1e-6)
        Image.fromarray(PIXELS[0, ..., 0]).save(tmp_path / "b.png")
        colour = Preprocessing("cifar", (4, 5, 3), "uint8")
        assert read_inputs([tmp_path / "b.png"], colour).array.shape == (1, 4, 5, 3)

    def test_another_size(self, tmp_path: Path):
        Image.fromarray(np.full((8, 9), 200, np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"a\.png: 9 x 8 pixels \(width x height\), the model takes 5 x 4; resize"):
            read_inputs([tmp_path / "a.png"], IMAGES)
        inputs = read_inputs([tmp_path / "a.png"], IMAGES, resize=True)
        np.testing.assert_allclose(inputs.array, (200 / 255 - 0.5) / 0.25, rtol=1e-5)
        assert len(inputs.notes) == 1

    def test_sixteen_bits(self, tmp_path: Path):
        Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match="more than 8 bits"):
            read_inputs([tmp_path / "a.png"], IMAGES)

    def test_damaged_and_foreign_files(self, tmp_path: Path):
        Image.effect_noise((50, 50), 50).save(tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
        with pytest.raises(DataError, match=r"a\.png: damaged image"):
            read_inputs([tmp_path / "a.png"], IMAGES)
        (tmp_path / "a.doc").write_bytes(b"words")
        with pytest.raises(DataError, match=r"a\.doc: not a file that predictions can read; allowed: images"):
            read_inputs([tmp_path / "a.doc"], IMAGES)

    def test_a_model_of_tables_takes_none(self, tmp_path: Path):
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match="not images"):
            read_inputs([tmp_path / "a.png"], TABLE)


class TestArrays:
    @pytest.mark.parametrize(
        "array",
        [PIXELS, PIXELS[..., 0], PIXELS.astype(np.int64), PIXELS / 255, (PIXELS / 255).astype(np.float32)],
        ids=["uint8", "no-channel", "int64", "float64", "float32"],
    )
    def test_pixels(self, tmp_path: Path, array: np.ndarray):
        np.save(tmp_path / "a.npy", array)
        np.savez(tmp_path / "b.npz", x=array, other=np.zeros(1))
        inputs = read_inputs([tmp_path / "a.npy", tmp_path / "b.npz"], IMAGES)
        np.testing.assert_allclose(inputs.array, np.concatenate([EXPECTED, EXPECTED]), rtol=1e-5, atol=2e-6)
        assert inputs.labels[1:3] == [f"{tmp_path}/a.npy[1]", f"{tmp_path}/b.npz[0]"]

    def test_a_single_sample(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", PIXELS[0])
        assert read_inputs([tmp_path / "a.npy"], IMAGES).array.shape == (1, 4, 5, 1)

    def test_idx_files(self, tmp_path: Path, write_idx: Callable[[Path, np.ndarray], Path]):
        paths = [write_idx(tmp_path / name, PIXELS[..., 0]) for name in ("a.idx", "b-idx3-ubyte", "c-idx3-ubyte.gz")]
        np.testing.assert_allclose(
            read_inputs(paths, IMAGES).array, np.tile(EXPECTED, (3, 1, 1, 1)), rtol=1e-5, atol=1e-6
        )

    def test_units_of_another_kind_are_refused(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", PIXELS.astype(np.float32))
        with pytest.raises(DataError, match="values from 0 to 234; pixels must be whole numbers 0 to 255 or floats in"):
            read_inputs([tmp_path / "a.npy"], IMAGES)

    def test_a_float_model_never_scales(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", np.array([[1, 2, 255]], np.uint8))
        np.testing.assert_array_equal(read_inputs([tmp_path / "a.npy"], TABLE).array, [[1, 2, 255]])

    def test_words_must_be_whole_numbers(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", np.array([[1.0, 2.5, 3.0]]))
        with pytest.raises(DataError, match="whole numbers"):
            read_inputs([tmp_path / "a.npy"], WORDS)
        np.save(tmp_path / "a.npy", np.array([[1, 2, 3]], np.int32))
        assert read_inputs([tmp_path / "a.npy"], WORDS).array.dtype == np.int64

    def test_mistakes(self, tmp_path: Path):
        np.save(tmp_path / "a.npy", np.zeros((2, 7)))
        with pytest.raises(DataError, match=r"shape \(2, 7\); the model takes \(N, 4, 5, 1\)"):
            read_inputs([tmp_path / "a.npy"], IMAGES)
        np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
        with pytest.raises(DataError, match="Python objects"):
            read_inputs([tmp_path / "a.npy"], IMAGES)
        np.savez(tmp_path / "a.npz", a=PIXELS, b=PIXELS)
        with pytest.raises(DataError, match=r"which array\? Found a, b"):
            read_inputs([tmp_path / "a.npz"], IMAGES)


class TestCsv:
    @pytest.mark.parametrize("text", ["a,b,c\n1,2.5,-3e2\n\n4,5,6\n", "\ufeffa;b;c\r\n1;2.5;-3e2\r\n\r\n4;5;6"])
    def test_rows_with_a_header(self, tmp_path: Path, text: str):
        (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
        inputs = read_inputs([tmp_path / "a.csv"], TABLE, dtype=np.float64)
        np.testing.assert_array_equal(inputs.array, [[1, 2.5, -300], [4, 5, 6]])
        assert inputs.labels == [f"{tmp_path}/a.csv:2", f"{tmp_path}/a.csv:4"]

    def test_without_a_header(self, tmp_path: Path):
        (tmp_path / "a.csv").write_text("1,2,3\n")
        assert read_inputs([tmp_path / "a.csv"], TABLE).labels == [f"{tmp_path}/a.csv:1"]

    def test_pixels_are_scaled(self, tmp_path: Path):
        rows = [",".join(map(str, image.ravel())) for image in PIXELS]
        (tmp_path / "a.csv").write_text("\n".join(rows))
        np.testing.assert_allclose(read_inputs([tmp_path / "a.csv"], IMAGES).array, EXPECTED, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1,2,3\n1,2\n", r"a\.csv:2: 2 columns, the model takes 3 numbers$"),
            ("1,2,3,0\n", r"a\.csv:1: 4 columns, the model takes 3 numbers; leave the target out"),
            ("a,b,c\n1,,3\n", r"a\.csv:2: column 2: '' is not a finite number"),
            ("1,x,3\n", r"a\.csv:1: column 2: 'x'"),
            ("1,2,nan\n", r"a\.csv:1: column 3: 'nan'"),
            ("a,b,c\n", "no rows"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, message: str):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_inputs([tmp_path / "a.csv"], TABLE)


def test_missing_files_and_folders(tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        read_inputs(["nowhere.png"], IMAGES)
    with pytest.raises(DataError, match="a folder; name the files in it"):
        read_inputs([tmp_path], IMAGES)
    with pytest.raises(DataError, match="no inputs"):
        read_inputs([], IMAGES)


class TestScaleOfPixels:
    """A file of numbers does not say whether they are pixels or floats; what was taken for what must not be silent."""

    def read(self, folder, rows):
        (folder / "a.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
        return read_inputs([folder / "a.csv"], Preprocessing("arrays", (3,), "uint8"))

    @pytest.mark.parametrize("rows", [[[0, 1, 1]], [["0.0", "1.0", "1.0"]]])
    def test_numbers_up_to_one_are_floats(self, tmp_path, rows):
        inputs = self.read(tmp_path, rows)
        np.testing.assert_array_equal(inputs.array, [[0, 1, 1]])
        assert inputs.notes == []

    def test_larger_ones_are_pixels(self, tmp_path):
        inputs = self.read(tmp_path, [[0, 51, 255]])
        np.testing.assert_allclose(inputs.array, [[0, 0.2, 1]], rtol=1e-6)
        assert inputs.notes == []

    def test_a_scale_that_is_hardly_meant_is_noted(self, tmp_path):
        (note,) = self.read(tmp_path, [[0, 7, 16]]).notes
        assert "read as pixels 0 to 255, though the largest is 16" in note


@pytest.mark.parametrize("place", ["inputs", "targets"])
def test_numbers_that_are_not_finite_are_found_before_training(place):
    inputs, targets = np.zeros((5000, 2)), np.zeros((5000, 1))
    {"inputs": inputs, "targets": targets}[place][4500, 0] = np.nan
    with pytest.raises(DataError, match=f"train split: {place} of sample 4500 hold a number that is not finite"):
        Preprocessing("arrays", (2,), "float64").check(Split(inputs, targets), "train split")


def test_predictions_take_no_nan(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.0, np.nan, 1.0]]))
    with pytest.raises(DataError, match=r"a\.npy: a value is not a finite number"):
        read_inputs([tmp_path / "a.npy"], Preprocessing("arrays", (3,), "float64"))
