"""Whatever is written in a config, the answer is a Config or a ConfigError with one line for each mistake."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.config import load_config
from gpubackprop.config.document import Problems, parse
from gpubackprop.errors import ConfigError
from tests.config.test_config import FULL
from tests.config.test_dump import scalars, texts, trees
from tests.config.toys import KINDS

PLAIN = parse(FULL, "full", Problems()).plain()
WORDS = [
    "type",
    "name",
    "linear",
    "relu",
    "residual",
    "layers",
    "conv2d",
    "idx",
    "sgd",
    "cosine",
    "warmup",
    "after",
    "0",
]
words = st.sampled_from(WORDS)
likely = st.recursive(
    words | scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | texts, inner, max_size=3)
)


def lines(source, overrides=()):
    """The lines of the ConfigError, or none."""
    try:
        load_config(source, overrides, kinds=KINDS)
    except ConfigError as error:
        return [str(problem) for problem in error.problems] or [""]
    return []


def answer(source, overrides=()):
    assert all(line and len(line.splitlines()) == 1 for line in lines(source, overrides))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PLAIN)), trees | likely)
def test_any_value_at_any_key(key, value):
    answer(PLAIN | {key: value})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*PLAIN, *WORDS, "1", "2", "lr", "extends"]), max_size=5).map(".".join), texts)
def test_any_override(path, value):
    answer(PLAIN, [f"{path}={value}"])
    answer(PLAIN, {path: value})


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab:-#{}[]&*!|>'\"%@`$ \n\t,?~0.") | st.characters(), max_size=40))
def test_any_text(text):
    problems = Problems()
    assert parse(text, "a.yaml", problems) is not None or problems
    assert all(len(str(problem).splitlines()) == 1 for problem in problems)


@pytest.mark.parametrize("cut", range(0, len(FULL), 7))
def test_a_file_cut_short(cut, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(FULL[:cut])
    answer(path)
