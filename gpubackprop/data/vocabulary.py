"""The tokens of a text as numbers: characters, words, or byte-pair pieces."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpubackprop.errors import DataError

Kind = Literal["characters", "words", "bpe"]
Ids = npt.NDArray[np.int32]

PAD, UNKNOWN, BOUNDARY = "<pad>", "<unk>", "\n"
BYTES = 256  #: the smallest alphabet of byte-pair pieces, with which every text can be written
PIECES = 1000  #: how many byte-pair pieces there are where nobody says
# A word, with its apostrophes and hyphens; any other sign alone; a line's end, which a stream of text keeps.
WORD = re.compile(r"[\w'’-]+|[^\w\s]|\n")


@dataclass(frozen=True)
class Vocabulary:
    """`encode` text into numbers, `decode` numbers into text."""

    kind: Kind  #: what the text is cut into
    tokens: list[str]  #: token i is `tokens[i]`; those with a meaning of their own first
    special: int = 0  #: how many of them have one: padding `<pad>`, unknown `<unk>`, a line's boundary (a newline)
    lowercase: bool = False  #: whether capitals are made small
    pieces: Mapping[str, Any] | None = None  #: of bpe: the JSON of the library `tokenizers`

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        kind: Kind,
        special: Sequence[str] = (),
        size: int | None = None,
        min_count: int = 1,
        lowercase: bool = False,
    ) -> Vocabulary:
        """The vocabulary of `texts`: at most `size` tokens, `special` ones included, each seen `min_count` times.

        The commonest are kept, and stand first (characters: by code point). DataError where `size` leaves no room.
        """
        if lowercase:
            texts = (text.lower() for text in texts)
        if kind == "bpe":
            return _fit_pieces(texts, special, PIECES if size is None else size, min_count, lowercase)
        counts = Counter(chain.from_iterable(texts if kind == "characters" else map(WORD.findall, texts)))
        for token in special:
            counts.pop(token, None)
        room = None if size is None else size - len(special)
        if room is not None and room < 1:
            raise DataError(f"a vocabulary of {size} leaves no room beside {len(special)} special tokens; raise it")
        often = sorted((token for token, count in counts.items() if count >= min_count), key=lambda t: (-counts[t], t))
        kept = often[:room]
        return cls(kind, [*special, *(sorted(kept) if kind == "characters" else kept)], len(special), lowercase)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> Ids:
        """Text -> numbers (T,) int32. DataError for what is unknown, where nothing stands for it."""
        text = text.lower() if self.lowercase else text
        if self.kind == "bpe":
            return np.asarray(self._pieces.encode(text).ids, np.int32) + self.special
        found = list(text) if self.kind == "characters" else WORD.findall(text)
        if self.unknown is not None:
            return np.fromiter((self._number.get(token, self.unknown) for token in found), np.int32, len(found))
        try:
            return np.fromiter((self._number[token] for token in found), np.int32, len(found))
        except KeyError as error:
            raise DataError(f"{error} is none of the {len(self)} {self.kind} that this vocabulary holds") from error

    def decode(self, numbers: Iterable[int]) -> str:
        """Numbers -> text, padding left out; words with a space between. DataError for a number that is none."""
        ids = [int(number) for number in numbers if number != self.padding]
        if strange := [number for number in ids if not 0 <= number < len(self)]:
            raise DataError(f"{strange[0]} is no token; this vocabulary has 0 to {len(self) - 1}")
        if self.kind == "characters":
            return "".join(self.tokens[number] for number in ids)
        if self.kind == "words":
            return re.sub(r" ?\n ?", "\n", " ".join(self.tokens[number] for number in ids))
        return "".join(
            "".join(self.tokens[n] for n in run) if special else self._pieces.decode([n - self.special for n in run])
            for special, group in groupby(ids, lambda number: number < self.special)
            for run in [list(group)]
        )

    @property
    def padding(self) -> int | None:
        """The number that fills up short texts."""
        return self._special(PAD)

    @property
    def unknown(self) -> int | None:
        """The number of whatever the vocabulary lacks."""
        return self._special(UNKNOWN)

    @property
    def boundary(self) -> int | None:
        """The number that begins and ends a line, where each line is a sample."""
        return self._special(BOUNDARY)

    @property
    def start(self) -> int | None:
        """What a generated text begins with if nothing is given: a line's boundary, else a newline."""
        return self._number.get(BOUNDARY)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain texts and numbers."""
        tokens = self.tokens[: self.special] if self.pieces is not None else self.tokens
        head = {"kind": self.kind, "lowercase": self.lowercase, "special": self.special, "tokens": tokens}
        return head if self.pieces is None else head | {"pieces": self.pieces}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Vocabulary:
        """What `to_json` gave."""
        tokens, pieces = list(content["tokens"]), content.get("pieces")
        if pieces is not None:
            tokens += _in_order(pieces)
        return cls(content["kind"], tokens, content["special"], content["lowercase"], pieces)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def _special(self, token: str) -> int | None:
        number = self._number.get(token)
        return number if number is not None and number < self.special else None

    @cached_property
    def _pieces(self) -> Any:
        return _tokenizers().Tokenizer.from_str(json.dumps(self.pieces))


def _fit_pieces(texts: Iterable[str], special: Sequence[str], size: int, min_count: int, lowercase: bool) -> Vocabulary:
    """Byte-pair pieces as in GPT-2: every byte is a token, so that nothing is unknown (Sennrich et al. 2016)."""
    special = [token for token in special if token != UNKNOWN]
    if size < BYTES + len(special):
        raise DataError(
            f"a vocabulary of {size} is too small for bpe: it holds every byte, so at least {BYTES + len(special)}"
        )
    library = _tokenizers()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - len(special), min_frequency=min_count, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = json.loads(tokenizer.to_str())
    return Vocabulary("bpe", [*special, *_in_order(pieces)], len(special), lowercase, pieces)


def _in_order(pieces: Mapping[str, Any]) -> list[str]:
    numbers: dict[str, int] = pieces["model"]["vocab"]
    return sorted(numbers, key=lambda token: numbers[token])


def _tokenizers() -> Any:
    try:
        import tokenizers  # for byte-pair pieces alone
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        remedy = "pip install tokenizers"
        raise DataError(f"tokens: bpe needs the library tokenizers: {remedy}; or use characters, words") from error
    return tokenizers
