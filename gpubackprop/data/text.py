"""Text: language models over a stream or over lines, the next token from a few before it, and classification."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gpubackprop.data.preprocessing import Preprocessing
from gpubackprop.data.source import Array, DataInfo, Rows, Source, Split, SplitName, describe, sources
from gpubackprop.data.split import held_out_count, hold_out
from gpubackprop.data.textfiles import files_by_split, read_labelled, read_lines, read_text
from gpubackprop.data.vocabulary import BOUNDARY, PAD, UNKNOWN, Ids, Kind, Vocabulary
from gpubackprop.data.windows import contexts, every_window, lines_shifted, padded, windows_once
from gpubackprop.errors import DataError, UsageError
from gpubackprop.registry import Fraction, Positive, did_you_mean

Task = Literal["language_model", "next_token", "classification"]


class Part(NamedTuple):
    """The text of one split, before it becomes numbers."""

    texts: list[str]  #: a stream is one text
    labels: list[str] | None = None
    lines: list[str] | None = None  #: where each labelled text stands


@sources.register("text")
class Text(Source):
    """A text file, or a folder (or pattern, `data/sst/binary.*`) of files named train, dev or valid, and test.

    tokens      characters, words (signs apart), or bpe: byte-pair pieces, which need tokenizers
    task        language_model: each token from all before it, (T,) numbers -> (T,) numbers, -100 where there is none.
                next_token: one token from the `context` before it, (T,) -> (); lines, padded with their boundary 0.
                classification: labelled texts, `label<tab>text`, `label text` or .csv; (T,) -> (), 0 is padding.
    unit        of a language model: `stream`, windows of `context` at every offset, and the last share of the text is
                held out; or `lines`, each a sample that begins and ends with the boundary 0, padded to the longest.
    context     tokens that the model sees; lines without it: as many as the longest has
    vocabulary  at most so many tokens, the commonest of the training split (characters: of the file)
    min_count   rarer tokens are unknown
    contiguous  of a stream: windows that do not overlap, and row r of a batch goes on where row r of the last one
                ended (with accumulate: of the same micro-batch of the last step), for recurrent layers that carry
                their state; nothing is shuffled
    test        share that is the test split, where no file is; the same for every seed, as the validation share is
    """

    def __init__(
        self,
        path: str,
        tokens: Kind = "characters",
        task: Task = "language_model",
        unit: Literal["stream", "lines"] = "stream",
        context: Positive | None = None,
        vocabulary: Positive | None = None,
        min_count: Positive = 1,
        lowercase: bool = False,
        contiguous: bool = False,
        test: Fraction = 0.0,
    ) -> None:
        streaming = task == "language_model" and unit == "stream"
        if context is None and (streaming or task == "next_token"):
            raise UsageError(f"context must be given for {'a stream' if streaming else task}: how many tokens it sees")
        if contiguous and not streaming:
            raise UsageError("contiguous is for a language model over a stream; leave it out")
        self.path: str = path
        self.tokens, self.task, self.streaming, self.context = tokens, task, streaming, context
        self.vocabulary, self.min_count, self.lowercase = vocabulary, min_count, lowercase
        self.contiguous, self.test = contiguous, test
        self._held_out = 0.0
        self._known: Preprocessing | None = None  # what an earlier training has learned
        self._measuring = False  # every token counts once, in the training split too

    def info(self) -> DataInfo:
        """The files are read: a vocabulary has to be seen."""
        counts = {name: len(split) for name, split in self._splits.items()}
        return describe(self._splits["train"], self._classes, counts, self._vocabulary)

    def read(self, name: SplitName) -> Split | None:
        """Numbers of tokens (N, T) int32, targets (N, T) or (N,); a mask (N, T) where samples are padded."""
        return self._splits.get(name)

    def holding_out(self, share: float) -> Source:
        """The last share of a stream, or lines drawn by a constant permutation: windows would overlap."""
        return self if share == self._held_out else self.changed(_held_out=share)

    def after(self, preprocessing: Preprocessing) -> Source:
        """With the vocabulary, classes and length of an earlier training."""
        return self.changed(_known=preprocessing)

    def at(self, path: str) -> Source:
        """Other text in this one's vocabulary, to measure on: nothing is held out, nothing counts twice."""
        known = self._known or Preprocessing.of("text", self.info(), [])
        return self.changed(path=path, _known=known, _measuring=True, _held_out=0.0, test=0.0)

    @cached_property
    def _parts(self) -> dict[SplitName, Part]:
        parts = {name: self._part(file) for name, file in files_by_split(self.path).items()}
        shares: dict[SplitName, float] = {"test": self.test, "validation": self._held_out}
        for name, share in shares.items():
            if share and name not in parts:
                parts["train"], parts[name] = self._divided(parts["train"], share, f"data.text.{name}")
        return parts

    def _part(self, file: Path) -> Part:
        if self.streaming:
            return Part([read_text(file)])
        return Part(*read_labelled(file)) if self.task == "classification" else Part(read_lines(file))

    def _divided(self, part: Part, share: float, purpose: str) -> tuple[Part, Part]:
        if self.streaming:
            text = part.texts[0]
            cut = len(text) - held_out_count(len(text), share)
            return Part([text[:cut]]), Part([text[cut:]])
        groups = np.zeros(len(part.texts)) if part.labels is None else np.unique(part.labels, return_inverse=True)[1]
        halves = hold_out(Split(np.arange(len(part.texts)), groups), share, 0, purpose)
        kept, held = (_chosen(part, half.rows) for half in halves)
        return kept, held

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        if self._known is not None and self._known.vocabulary is not None:
            return self._known.vocabulary
        special = [PAD, UNKNOWN] if self.task == "classification" else [] if self.streaming else [BOUNDARY]
        limited = self.vocabulary is not None or self.min_count > 1
        if UNKNOWN not in special and (self.tokens == "words" or limited):
            special.append(UNKNOWN)
        # An alphabet is no knowledge: characters are numbered over all splits, unless some of them are unknown anyway.
        everything = self.tokens == "characters" and UNKNOWN not in special
        texts = [text for name, part in self._parts.items() if everything or name == "train" for text in part.texts]
        return Vocabulary.fit(texts, self.tokens, special, self.vocabulary, self.min_count, self.lowercase)

    @cached_property
    def _classes(self) -> list[str]:
        if self.task != "classification":
            return self._vocabulary.tokens
        if self._known is not None and self._known.classes is not None:
            return self._known.classes
        return sorted(set(self._parts["train"].labels or []), key=_numbers_first)

    @cached_property
    def _splits(self) -> dict[SplitName, Split]:
        encoded = {name: self._encoded(part) for name, part in self._parts.items()}
        return {name: self._split(name, lines) for name, lines in encoded.items()}

    def _encoded(self, part: Part) -> list[Ids]:
        try:
            return [self._vocabulary.encode(text) for text in part.texts]
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    def _split(self, name: SplitName, lines: list[Ids]) -> Split:
        where, boundary = f"{self.path}: {name} split", self._vocabulary.boundary or 0
        if self.streaming:
            assert self.context is not None, "the constructor has seen to it"
            if name == "train" and not self.contiguous and not self._measuring:
                return every_window(lines[0], self.context, where)
            return windows_once(lines[0], self.context, where, self.contiguous)
        if self.task == "next_token":
            return contexts(lines, self._length, boundary)
        if self.task == "language_model":
            return lines_shifted(lines, self._length, boundary)
        inputs, mask = encoded_lines(lines, self._length, self._vocabulary)
        return Split(inputs, self._labels(self._parts[name]), mask=mask)

    @cached_property
    def _length(self) -> int:
        """Positions of a sample."""
        if self._known is not None and isinstance(self._known.input_shape, tuple):
            return self._known.input_shape[0]
        if self.context is not None:
            return self.context
        longest = max(len(line) for part in self._parts.values() for line in self._encoded(part))
        return max(longest, 1) if self.task == "classification" else longest + 1

    def _labels(self, part: Part) -> Array:
        number = {label: n for n, label in enumerate(self._classes)}
        labels, lines = part.labels or [], part.lines or []
        for label, line in zip(labels, lines, strict=True):
            if label not in number:
                known = ", ".join(self._classes[:10])
                raise DataError(
                    f"{line}: label {label!r}, but the training data has only {known}{did_you_mean(label, number)}"
                )
        return np.array([number[label] for label in labels], np.int64)


def encoded_lines(lines: Sequence[Ids], length: int, vocabulary: Vocabulary) -> tuple[Array, Array]:
    """Encoded texts as a classifier takes them: (N, T) int32 and mask (N, T), of which the first is always True."""
    inputs, mask = padded(lines, length, vocabulary.padding or 0)
    mask[:, 0] = True  # a text without any token is one unknown token: pooling over nothing is not a number
    inputs[[not len(line) for line in lines], 0] = vocabulary.unknown or 0
    return inputs, mask


def _chosen(part: Part, rows: Rows | None) -> Part:
    def of(texts: list[str] | None) -> list[str] | None:
        return texts if texts is None or rows is None else [texts[row] for row in rows]

    return Part(of(part.texts) or [], of(part.labels), of(part.lines))


def _numbers_first(label: str) -> tuple[float, str]:
    """Sorts numbers by value, other labels behind them by name."""
    return (float(label), "") if label.lstrip("-").isdecimal() else (float("inf"), label)
