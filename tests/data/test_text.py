from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubackprop.data import Data, DataOptions, Preprocessing, Text, check, prepare, read_inputs
from gpubackprop.errors import DataError, UsageError

STREAM = "".join(chr(ord("a") + (7 * n + n // 5) % 26) for n in range(203))
NAMES = ["emma", "olivia", "ava", "bo", "zoe", "mia", "liam", "noah", "al", "eve"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes files and returns the path of the first, or of their folder."""

    def files(**contents: str) -> str:
        for name, content in contents.items():
            (tmp_path / name.replace("_", ".")).write_text(content, encoding="utf-8")
        return str(tmp_path / next(iter(contents)).replace("_", ".")) if len(contents) == 1 else str(tmp_path)

    return files


def prepared(path: str, validation: float | str = 0.2, batch_size: int = 4, **options: Any) -> Data:
    source, common = Text(path, **options), DataOptions(validation=validation, batch_size=batch_size)
    data = prepare(source, common)
    assert check(source, common) == data.info
    return data


def arrays(loader: Any, epoch: int = 0) -> dict[str, np.ndarray]:
    batches = list(loader.batches(epoch))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_a_stream_gives_windows_at_every_offset_with_targets_one_on(write):
    data = prepared(write(a_txt=STREAM), context=8)
    kept = len(STREAM) - 41
    assert data.info.counts == {"train": kept - 8, "validation": 5}
    assert data.info.input_shape == data.info.target_shape == (8,)
    assert data.info.classes == data.preprocessing.vocabulary.tokens == sorted(set(STREAM))
    assert not data.info.float_inputs
    decode = data.info.vocabulary.decode
    batch = arrays(data.train)
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int64
    found = sorted(decode(x) + decode(y)[-1] for x, y in zip(batch["inputs"], batch["targets"], strict=True))
    assert found == sorted(STREAM[start : start + 9] for start in range(kept - 8))
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])


def test_the_last_share_of_a_stream_is_held_out_and_each_token_counts_once(write):
    data = prepared(write(a_txt=STREAM), context=8)
    batch = arrays(data.validation)
    held = STREAM[-41:]
    decode = data.info.vocabulary.decode
    assert decode(batch["targets"][batch["targets"] >= 0]) == held[1:]
    assert decode(batch["inputs"].reshape(-1)[:40]) == held[:40]
    assert arrays(prepared(write(a_txt=STREAM), context=9).validation)["targets"][-1].tolist()[-5:] == [-100] * 5


def test_windows_are_views_and_batches_do_not_copy_the_stream(write):
    split = prepared(write(a_txt=STREAM), context=8).train.split
    assert split.inputs.base is not None
    assert split.inputs.strides[0] == split.inputs.itemsize


def test_contiguous_rows_go_on_where_the_batch_before_ended(write):
    data = prepared(write(a_txt=STREAM), context=4, contiguous=True, batch_size=3)
    kept = STREAM[: len(STREAM) - 41]
    batches = list(data.train.batches())
    decode = data.info.vocabulary.decode
    whole = [batch for batch in batches if len(batch["inputs"]) == 3]
    assert len(whole) == 41 // 3
    for row in range(3):
        stream = "".join(decode(batch["inputs"][row]) for batch in whole)
        assert stream == kept[row * len(stream) : (row + 1) * len(stream)]
    assert sum((batch["targets"] >= 0).sum() for batch in batches) == len(kept) - 1
    for first, second in zip(data.train.batches(0), data.train.batches(1), strict=True):
        np.testing.assert_array_equal(first["inputs"], second["inputs"])


@pytest.mark.parametrize("options", [{"context": 8}, {"context": 8, "contiguous": True}, {"unit": "lines"}])
def test_resuming_needs_only_the_step(write, options: dict[str, Any]):
    path = write(a_txt="\n".join(NAMES * 5))
    loader = prepared(path, **options).train
    batches = [batch for epoch in (0, 1) for batch in loader.batches(epoch)]
    again = prepared(path, **options).train
    for step in (len(loader) + 2, 3):
        for name, array in again.batch(*divmod(step, len(again))).items():
            np.testing.assert_array_equal(array, batches[step][name])


def test_lines_stand_between_boundaries_and_are_padded_to_the_longest(write):
    data = prepared(write(a_txt="\n".join(NAMES)), unit="lines", validation=0)
    vocabulary = data.info.vocabulary
    assert vocabulary.boundary == 0
    assert len(vocabulary) == len(set("".join(NAMES))) + 1
    assert data.info.input_shape == (7,)
    batch = data.validation or data.train
    batch = batch.batch(0, 0)
    row = int(np.flatnonzero(data.train.order(0)[:4] == data.train.order(0)[0])[0])
    name = NAMES[data.train.order(0)[row]]
    numbers = vocabulary.encode(name)
    length = len(name) + 1
    np.testing.assert_array_equal(batch["inputs"][row, :length], [0, *numbers])
    np.testing.assert_array_equal(batch["targets"][row, :length], [*numbers, 0])
    np.testing.assert_array_equal(batch["mask"][row], np.arange(7) < length)
    assert (batch["targets"][~batch["mask"]] == -100).all()
    assert (batch["targets"][batch["mask"]] >= 0).all()


def test_lines_beyond_the_context_are_cut(write):
    batch = arrays(prepared(write(a_txt="\n".join(NAMES)), unit="lines", context=3, validation=0).train)
    assert batch["inputs"].shape == (10, 3)
    assert batch["mask"].all()


@pytest.mark.parametrize("task", ["language_model", "next_token"])
def test_lines_are_divided_by_lines(write, task: str):
    lines = [f"{chr(ord('a') + n // 26)}{chr(ord('a') + n % 26)}x" for n in range(200)]
    data = prepared(write(a_txt="\n".join(lines)), task=task, unit="lines", context=4, test=0.1)
    decode, seen = data.info.vocabulary.decode, {}
    for name in ("train", "validation", "test"):
        batch = arrays(getattr(data, name))
        whole = batch["inputs"] if task == "language_model" else batch["inputs"][batch["targets"] == 0]
        seen[name] = [decode(row).strip("\n") for row in whole]
    assert sorted(chain(*seen.values())) == sorted(lines)
    assert [len(seen[name]) for name in ("train", "validation", "test")] == [144, 36, 20]
    assert seen["validation"] != sorted(lines)[-36:]


def test_every_seed_has_the_same_lines_held_out(write):
    path = write(a_txt="\n".join(NAMES))
    first, second = (
        prepare(Text(path, unit="lines", test=0.2), DataOptions(validation=0.2), seed=seed) for seed in (0, 1)
    )
    for name in ("validation", "test"):
        np.testing.assert_array_equal(arrays(getattr(first, name))["inputs"], arrays(getattr(second, name))["inputs"])


def test_next_token_sees_the_context_before_it_and_nothing_of_other_lines(write):
    data = prepared(write(a_txt="abc\nde"), task="next_token", context=2, validation=0)
    batch = arrays(data.train)
    assert batch["targets"].shape == (7,)
    vocabulary = data.info.vocabulary
    tokens = vocabulary.tokens
    found = {("".join(tokens[n] for n in x), tokens[y]) for x, y in zip(batch["inputs"], batch["targets"], strict=True)}
    expected = {("\n\n", "a"), ("\na", "b"), ("ab", "c"), ("bc", "\n"), ("\n\n", "d"), ("\nd", "e"), ("de", "\n")}
    assert found == expected


REVIEWS = "1 a good film\n0 a bad , bad film\n1 good\n0 bad\n"


def test_labelled_lines_become_padded_numbers_and_classes(write):
    path = write(sst_train=REVIEWS, sst_dev="1 good film\n", sst_test="0 terrible film\n", notes_md="nothing")
    data = prepared(path, task="classification", tokens="words")
    assert data.info.counts == {"train": 4, "validation": 1, "test": 1}
    assert data.info.input_shape == (5,)
    assert data.info.target_shape == ()
    assert data.info.classes == ["0", "1"]
    vocabulary = data.info.vocabulary
    assert (vocabulary.padding, vocabulary.unknown) == (0, 1)
    assert "terrible" not in vocabulary.tokens
    train, test = arrays(data.train), arrays(data.test)
    order = np.argsort(data.train.order(0))
    np.testing.assert_array_equal(train["targets"][order], [1, 0, 1, 0])
    np.testing.assert_array_equal(train["mask"][order].sum(axis=1), [3, 5, 1, 1])
    assert vocabulary.decode(train["inputs"][order][1]) == "a bad , bad film"
    assert (train["inputs"][~train["mask"]] == 0).all()
    np.testing.assert_array_equal(test["inputs"][0], [1, vocabulary.encode("film")[0], 0, 0, 0])


def test_tabs_and_csv_tables(write):
    tab = prepared(write(a_tsv="ham\tsee you\nspam\tbuy now\n"), task="classification", tokens="words", validation=0)
    assert tab.info.classes == ["ham", "spam"]
    table = 'text,label\n"see, you",ham\n"buy ""now""",spam\n'
    csv = prepared(write(b_csv=table), task="classification", tokens="words", validation=0)
    assert csv.info.classes == ["ham", "spam"]
    assert csv.info.vocabulary.decode(arrays(csv.train)["inputs"][list(csv.train.order(0)).index(0)]) == "see , you"


def test_a_pattern_chooses_among_the_files_of_a_folder(write, tmp_path: Path):
    files = {"b_train": REVIEWS, "b_dev": REVIEWS, "f_train": REVIEWS, "f_dev": REVIEWS}
    with pytest.raises(DataError, match=r"b\.train, f\.train could all be the train split"):
        Text(write(**files), task="classification").info()
    info = Text(f"{tmp_path}/b.*", task="classification").info()
    assert info.counts == {"train": 4, "validation": 4}


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({"context": 8}, STREAM),
        ({"unit": "lines"}, "\n".join(NAMES)),
        ({"task": "next_token", "context": 3, "tokens": "bpe", "vocabulary": 260}, "\n".join(NAMES)),
        ({"task": "classification", "tokens": "words", "min_count": 2}, REVIEWS),
    ],
    ids=["stream", "lines", "next_token", "classification"],
)
def test_preprocessing_json_is_all_that_the_same_numbers_need(write, tmp_path: Path, options, content: str):
    if options.get("tokens") == "bpe":
        pytest.importorskip("tokenizers", reason="needs the [text] extra")
    path = write(a_txt=content)
    first = prepared(path, **options)
    state = json.loads(json.dumps(first.preprocessing.to_json()))
    known = Preprocessing.from_json(state)
    assert known.to_json() == state
    again = prepare(Text(path, **options), DataOptions(validation=0.2, batch_size=4), preprocessing=known)
    for name, array in arrays(first.validation).items():
        np.testing.assert_array_equal(array, arrays(again.validation)[name])
    # Other text, whose own vocabulary would be another.
    (tmp_path / "other.txt").write_text(content[: len(content) // 2])
    other = Text(path, **options).after(known).at(str(tmp_path / "other.txt")).samples("test", "train")
    known.check(other, "other.txt")


def test_other_text_is_read_in_the_vocabulary_of_training(write, tmp_path: Path):
    known = prepared(write(a_txt=STREAM), context=8).preprocessing
    (tmp_path / "other.txt").write_text("zyxwvutsrq")  # whose own alphabet would begin with q
    other = Text(str(tmp_path / "a.txt"), context=8).after(known).at(str(tmp_path / "other.txt")).read("train")
    np.testing.assert_array_equal(other.take(np.arange(1))["inputs"], [25 - np.arange(8)])


def test_validation_by_a_path_counts_each_token_once(write, tmp_path: Path):
    path = write(a_txt=STREAM)
    (tmp_path / "other.txt").write_text(STREAM[:33])
    data = prepared(path, validation=str(tmp_path / "other.txt"), context=8)
    assert data.info.counts == {"train": len(STREAM) - 8, "validation": 4}


def test_predictions_are_made_for_lines(write, tmp_path: Path):
    known = prepared(write(a_txt=REVIEWS), task="classification", tokens="words", validation=0).preprocessing
    (tmp_path / "new.txt").write_text("a good film\n\nbad a a a a a\n∎∎∎\n", encoding="utf-8")
    inputs = read_inputs([tmp_path / "new.txt"], known)
    assert [label.rpartition(":")[2] for label in inputs.labels] == ["1", "3", "4"]
    assert inputs.array.shape == (3, 5)
    assert inputs.array.dtype == np.int64
    np.testing.assert_array_equal(inputs.mask.sum(axis=1), [3, 5, 3])
    assert len(inputs.notes) == 1
    assert "6 tokens, of which the model sees the first 5" in inputs.notes[0]


def test_a_language_model_predicts_by_generating(write, tmp_path: Path):
    path = write(a_txt=STREAM)
    with pytest.raises(DataError, match="gpubackprop generate"):
        read_inputs([path], prepared(path, context=8).preprocessing)


def test_a_text_without_tokens_is_one_unknown_word(write):
    path = write(a_csv="text,label\ngood film,1\n,0\nbad film,0\n")
    batch = prepared(path, task="classification", tokens="words", validation=0).train.split.take(np.arange(3))
    np.testing.assert_array_equal(batch["mask"], [[True, True], [True, False], [True, True]])
    np.testing.assert_array_equal(batch["inputs"][1], [1, 0])


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        ({"context": 300}, STREAM, r"203 tokens are too few for a context of 300"),
        ({"context": 3}, " \n", r"empty"),
        ({"task": "classification"}, "good\n", r"a\.txt:1: no text behind the label"),
        ({"task": "classification"}, "1\tgood\n0 bad\n", r"a\.txt:2: no text behind the label; .*label<tab>text"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(write, options, content: str, message: str):
    with pytest.raises(DataError, match=message):
        prepared(write(a_txt=content), validation=0, **options)


def test_a_label_that_training_has_not_is_named_with_its_line(write):
    path = write(x_train="pos good\nneg bad\n", x_dev="pos fine\nps worse\n")
    with pytest.raises(DataError, match=r"x\.dev:2: label 'ps', but .* neg, pos; did you mean 'pos'"):
        Text(path, task="classification").info()


def test_latin_1_and_tables_without_a_header_are_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("crème".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 2\)"):
        Text(str(tmp_path / "a.txt"), context=2).info()
    (tmp_path / "a.csv").write_text("3,good\n")
    with pytest.raises(DataError, match="a header with the columns text and label"):
        Text(str(tmp_path / "a.csv"), task="classification").info()


def test_options_that_do_not_fit_each_other():
    with pytest.raises(UsageError, match="context must be given for a stream"):
        Text("a.txt")
    with pytest.raises(UsageError, match="context must be given for next_token"):
        Text("a.txt", task="next_token")
    with pytest.raises(UsageError, match="contiguous is for"):
        Text("a.txt", task="classification", contiguous=True)


def test_a_transform_of_tokens_is_refused(write):
    from gpubackprop.data.transform import Normalize

    with pytest.raises(DataError, match="numbers of tokens"):
        check(Text(write(a_txt=STREAM), context=8), DataOptions(transforms=[Normalize()]))


def test_tinyshakespeare(real_data: Callable[[str], Path]):
    data = prepared(f"{real_data('tinyshakespeare')}/input.txt", validation=0.1, batch_size=64, context=64)
    assert len(data.info.classes) == 65
    assert data.info.counts == {"train": 1003854 - 64, "validation": 1743}


def test_names(real_data: Callable[[str], Path]):
    data = prepared(f"{real_data('names')}/names.txt", validation=0.1, unit="lines", test=0.1)
    assert len(data.info.classes) == 27
    assert data.info.input_shape == (16,)
    assert sum(data.info.counts.values()) == 32033


def test_sst(real_data: Callable[[str], Path]):
    info = Text(f"{real_data('text-sst')}/stsa.binary.*", task="classification", tokens="words").info()
    assert info.counts == {"train": 6920, "validation": 872, "test": 1821}
    assert info.classes == ["0", "1"]
