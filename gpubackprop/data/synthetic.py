"""Made-up tasks with known answers: reversal and addition of texts, and two tests of a recurrent network's memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from gpubackprop.backend.philox import stream_of, uniform
from gpubackprop.data.source import Array, DataInfo, Source, Split, SplitName, describe, sources
from gpubackprop.data.vocabulary import BOUNDARY, PAD, Vocabulary
from gpubackprop.data.windows import lines_shifted, padded
from gpubackprop.errors import DataError, UsageError
from gpubackprop.registry import NonNegative, Positive

LETTERS = "abcdefghijklmnopqrstuvwxyz"
COPIED, SYMBOLS, MARKER = 10, 8, 9  #: of the copying task: how many symbols, of how many kinds, and the call for them


@sources.register("synthetic")
class Synthetic(Source):
    """Samples of a task, a function of `seed` (which is not the run's): `samples` to train on and `test` others.

    reverse   a word of 1 to `length` letters -> the same backwards. Inputs {"source": (S,), "target": (T,)}, numbers of
              letters; the target begins with the boundary 1, the targets (T,) end with it, and are -100 behind it.
    addition  "12+34" -> "46", of numbers of 1 to `length` digits; in the same form.
    adding    (T, 2) -> (1,): the sum of the two numbers in [0, 1) that the second channel marks, one in each half;
              answering 1 has the mean squared error 1/6. Hochreiter, Schmidhuber 1997, as in Le et al. 2015.
    copy      (T,) -> (T,), T = length + 20: ten symbols 1 to 8, blanks 0, and behind the marker 9 the ten
              again. Knowing only when to answer costs 10 ln 8 / T. Arjovsky et al. 2016.
    """

    def __init__(
        self,
        task: Literal["reverse", "addition", "adding", "copy"],
        samples: Positive = 10_000,
        length: Positive = 10,
        test: Positive = 1000,
        seed: NonNegative = 0,
    ) -> None:
        if task == "adding" and length < 2:
            raise UsageError("length must be at least 2 for adding, which marks two numbers")
        if task == "addition" and length > 17:
            raise UsageError("length must be at most 17 for addition: longer numbers do not fit 64 bits")
        self.task, self.length, self.seed = task, length, seed
        self.sizes: dict[SplitName, int] = {"train": samples, "test": test}

    def info(self) -> DataInfo:
        """The samples are made: no two are alike, which may not be possible."""
        names = self._vocabulary.tokens if self._vocabulary else [str(n) for n in range(MARKER + 1)]
        return describe(self._all, None if self.task == "adding" else names, self.sizes, self._vocabulary)

    def read(self, name: SplitName) -> Split | None:
        """The first `samples` to train on, those behind them to test on."""
        if name == "validation":
            return None
        first = 0 if name == "train" else self.sizes["train"]
        return self._all.subset(np.arange(first, first + self.sizes[name]))

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        letters = {"reverse": LETTERS, "addition": "+0123456789"}.get(self.task)
        return None if letters is None else Vocabulary("characters", [PAD, BOUNDARY, *letters], special=2)

    @cached_property
    def _all(self) -> Split:
        count = sum(self.sizes.values())
        if self.task == "adding":
            return self._adding(count)
        if self.task == "copy":
            return self._copy(count)
        make = self._reversals if self.task == "reverse" else self._sums
        pairs = _different(make, count)
        if len(pairs) < count:
            raise DataError(
                f"synthetic: only {len(pairs)} different samples of length {self.length} were found for samples + test "
                f"= {count}; lower samples, or raise length"
            )
        return self._translation(pairs)

    def _uniform(self, what: str, count: int, width: int) -> npt.NDArray[np.float32]:
        drawn: npt.NDArray[np.float32] = uniform(
            np, self.seed, stream_of(f"data.synthetic.{self.task}.{what}"), 0, np.arange(count), width
        )
        return drawn

    def _whole(self, what: str, count: int, width: int, below: int) -> npt.NDArray[np.int64]:
        return (self._uniform(what, count, width) * np.float32(below)).astype(np.int64)

    def _reversals(self, count: int) -> list[tuple[str, str]]:
        letters = self._whole("letters", count, self.length, len(LETTERS))
        sizes = 1 + self._whole("length", count, 1, self.length)[:, 0]
        words = ["".join(LETTERS[n] for n in row[:size]) for row, size in zip(letters, sizes, strict=True)]
        return [(word, word[::-1]) for word in words]

    def _sums(self, count: int) -> list[tuple[str, str]]:
        digits = self._whole("digits", count, 2 * self.length, 10).reshape(count, 2, self.length)
        sizes = 1 + self._whole("length", count, 2, self.length)
        kept = digits * (np.arange(self.length) < sizes[..., None])  # the least digit first
        a, b = (kept * 10 ** np.arange(self.length)).sum(axis=-1).T.tolist()
        return [(f"{left}+{right}", str(left + right)) for left, right in zip(a, b, strict=True)]

    def _translation(self, pairs: list[tuple[str, str]]) -> Split:
        vocabulary = self._vocabulary
        assert vocabulary is not None, "both tasks of texts have one"
        sources_, answers = ([vocabulary.encode(text) for text in texts] for texts in zip(*pairs, strict=True))
        widest = self.length if self.task == "reverse" else 2 * self.length + 1
        longest = self.length if self.task == "reverse" else self.length + 1
        source, source_mask = padded(sources_, widest, 0)
        target = lines_shifted(answers, longest + 1, vocabulary.boundary or 0, fill=0)
        assert isinstance(target.inputs, np.ndarray)
        assert isinstance(target.mask, np.ndarray)
        inputs = {"source": source, "target": target.inputs}
        return Split(inputs, target.targets, mask={"source": source_mask, "target": target.mask})

    def _adding(self, count: int) -> Split:
        values, half = self._uniform("values", count, self.length), self.length // 2
        first = self._whole("first", count, 1, half)[:, 0]
        second = half + self._whole("second", count, 1, self.length - half)[:, 0]
        rows = np.arange(count)
        marks = np.zeros_like(values)
        marks[rows, first] = marks[rows, second] = 1
        total = values[rows, first] + values[rows, second]
        return Split(np.stack([values, marks], axis=-1), total[:, None])

    def _copy(self, count: int) -> Split:
        symbols = 1 + self._whole("symbols", count, COPIED, SYMBOLS)
        inputs: Array = np.zeros((count, self.length + 2 * COPIED), np.int32)
        targets = inputs.copy()
        inputs[:, :COPIED] = targets[:, -COPIED:] = symbols
        inputs[:, -COPIED - 1] = MARKER
        return Split(inputs, targets)


def _different(make: Callable[[int], list[tuple[str, str]]], count: int) -> list[tuple[str, str]]:
    """The first `count` different samples, so that none is in two splits; fewer where there are no more."""
    drawn = count
    while True:
        drawn *= 2
        found = list(dict.fromkeys(make(drawn)))
        if len(found) >= count or drawn > 16 * count:
            return found[:count]
