from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubackprop.data import Vocabulary
from gpubackprop.data.vocabulary import BOUNDARY, PAD, UNKNOWN
from gpubackprop.errors import DataError

TEXTS = ["the cat sat on the mat .", "the dog sat , isn't it ?"]


def stored(vocabulary: Vocabulary) -> Vocabulary:
    return Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))


@given(st.text(max_size=80))
def test_characters_round_trip(text: str):
    vocabulary = Vocabulary.fit([text, "abc"], "characters")
    numbers = vocabulary.encode(text)
    assert numbers.dtype == np.int32
    assert vocabulary.decode(numbers) == text
    np.testing.assert_array_equal(stored(vocabulary).encode(text), numbers)


def test_characters_are_numbered_by_code_point_behind_the_special_ones():
    assert Vocabulary.fit(["cab", "a"], "characters").tokens == ["a", "b", "c"]
    vocabulary = Vocabulary.fit(["cab"], "characters", special=[BOUNDARY])
    assert vocabulary.tokens == ["\n", "a", "b", "c"]
    assert (vocabulary.boundary, vocabulary.start, vocabulary.padding, vocabulary.unknown) == (0, 0, None, None)


def test_a_newline_of_a_stream_is_a_start_but_no_boundary():
    vocabulary = Vocabulary.fit(["b\na"], "characters")
    assert vocabulary.start == 0
    assert vocabulary.boundary is None
    assert Vocabulary.fit(["ba"], "characters").start is None


def test_words_are_numbered_by_frequency_and_the_rest_is_unknown():
    vocabulary = Vocabulary.fit(TEXTS, "words", special=[PAD, UNKNOWN], size=4)
    assert vocabulary.tokens == [PAD, UNKNOWN, "the", "sat"]
    np.testing.assert_array_equal(vocabulary.encode("the cow sat"), [2, 1, 3])
    assert len(Vocabulary.fit(TEXTS, "words", special=[UNKNOWN], min_count=2)) == 3


def test_words_are_cut_from_signs_but_keep_apostrophe_and_hyphen():
    vocabulary = Vocabulary.fit(["Well-made, isn't it?\nYes"], "words")
    assert set(vocabulary.tokens) == {"Well-made", ",", "isn't", "it", "?", "\n", "Yes"}
    assert vocabulary.decode(vocabulary.encode("isn't it?\nYes")) == "isn't it ?\nYes"


def test_lowercase_holds_for_fitting_and_encoding():
    vocabulary = stored(Vocabulary.fit(["Cat"], "characters", lowercase=True))
    assert vocabulary.tokens == ["a", "c", "t"]
    np.testing.assert_array_equal(vocabulary.encode("CAT"), [1, 0, 2])


def test_padding_is_not_decoded():
    vocabulary = Vocabulary.fit(TEXTS, "words", special=[PAD, UNKNOWN])
    assert vocabulary.decode([*vocabulary.encode("the cat"), 0, 0]) == "the cat"


def test_an_unknown_character_and_a_number_that_is_none_are_named():
    vocabulary = Vocabulary.fit(["abc"], "characters")
    with pytest.raises(DataError, match="'x' is none of the 3 characters"):
        vocabulary.encode("ax")
    for number in (3, -1):
        with pytest.raises(DataError, match=f"{number} is no token; this vocabulary has 0 to 2"):
            vocabulary.decode([0, number])


def test_a_vocabulary_with_no_room_is_an_error():
    with pytest.raises(DataError, match="leaves no room beside 2 special"):
        Vocabulary.fit(TEXTS, "words", special=[PAD, UNKNOWN], size=2)


@pytest.mark.parametrize("special", [(), (PAD,), (BOUNDARY,)])
def test_byte_pairs_round_trip_whatever_the_text(special: tuple[str, ...]):
    pytest.importorskip("tokenizers", reason="needs the [text] extra")
    vocabulary = Vocabulary.fit(TEXTS * 5, "bpe", special=special, size=270 + len(special))
    assert len(vocabulary) == 270 + len(special)
    again = stored(vocabulary)
    assert again.tokens == vocabulary.tokens
    for text in ("the cat sat", "ÄÖ 漢字 \U0001f600", "  two  spaces"):
        numbers = again.encode(text)
        assert numbers.min() >= len(special)
        assert again.decode(numbers) == text
    assert len(again.encode("the cat sat")) < len("the cat sat")
    assert again.decode([*range(len(special)), *again.encode("mat")]).strip("\n") == "mat"


def test_byte_pairs_need_room_for_every_byte():
    pytest.importorskip("tokenizers", reason="needs the [text] extra")
    with pytest.raises(DataError, match="at least 257"):
        Vocabulary.fit(TEXTS, "bpe", special=[PAD, UNKNOWN], size=256)


def test_byte_pairs_without_the_library_name_the_pip_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match="pip install tokenizers; or use characters"):
        Vocabulary.fit(TEXTS, "bpe", size=300)
