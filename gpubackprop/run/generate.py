"""Text from a trained language model, one token after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.backend import HostArray
from gpubackprop.backend.philox import stream_of, uniform
from gpubackprop.data.vocabulary import Vocabulary
from gpubackprop.errors import UsageError
from gpubackprop.nn.layer import Layer, Shape
from gpubackprop.tape import Tape


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Raises UsageError for an option out of its range.

    temperature  below 1 likely tokens become likelier still; 0: always the likeliest
    top_k        draw from the k likeliest tokens only
    top_p        draw from the fewest tokens that together have this probability (Holtzman et al. 2020)
    seed         the same seed gives the same texts
    samples      how many texts
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        for name, fits, allowed in (
            ("temperature", 0 <= self.temperature < np.inf, "at least 0"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("samples", self.samples >= 1, "at least 1"),
            ("seed", 0 <= self.seed < 2**64, "from 0 to 2**64 - 1"),
        ):
            if not fits:
                raise UsageError(f"{name} must be {allowed}")


AS_LIKELY = Sampling()


def generate(
    model: Layer,
    vocabulary: Vocabulary,
    context: int,
    prompt: str = "",
    tokens: int = 200,
    sampling: Sampling = AS_LIKELY,
) -> Iterator[list[str]]:
    """The texts so far, prompt included: once for the prompt, then after every token.

    A model of lines begins each with the boundary and ends it there; one of a stream goes on for `tokens` tokens.

    context   tokens that the model was trained to see; further back it forgets, unless it is recurrent

    Raises UsageError for a number of tokens below 0, DataError for a prompt that the vocabulary cannot write.
    """
    boundary = vocabulary.boundary
    start = list(vocabulary.encode(prompt))
    if boundary is not None:
        start = [boundary, *start]
    # A stream has no beginning; a line's end is the best place to take one up.
    start = start or [int(vocabulary.encode("\n")[0]) if "\n" in vocabulary.tokens else 0]
    ahead = _Ahead(model, context, boundary)
    return _written(ahead, vocabulary, start, prompt, tokens, sampling)


def translate(
    model: Layer,
    vocabulary: Vocabulary,
    shapes: Mapping[str, Shape],
    prompt: str,
    tokens: int = 200,
    sampling: Sampling = AS_LIKELY,
) -> Iterator[list[str]]:
    """As `generate`, for a model that reads a text, `source` (S,), and writes another, `target` (T,).

    The prompt is what is read; the texts are answers to it, of at most T tokens.
    """
    if vocabulary.boundary is None:
        raise UsageError("the vocabulary has no boundary, so that nothing says where an answer begins and ends")
    ahead = _Answer(model, vocabulary, shapes, prompt)
    tokens = min(tokens, ahead.longest)
    return _written(ahead, vocabulary, [vocabulary.boundary], "", tokens, sampling)


def _written(
    ahead: Callable[[HostArray], HostArray],
    vocabulary: Vocabulary,
    start: Sequence[int],
    prompt: str,
    tokens: int,
    sampling: Sampling,
) -> Iterator[list[str]]:
    """The loop of both: `ahead` gives logits (N, V) for the token behind ids (N, T), which begin with `start`."""
    if tokens < 0:
        raise UsageError("tokens must be at least 0")
    samples, boundary = sampling.samples, vocabulary.boundary
    never = [number for number in (vocabulary.padding, vocabulary.unknown) if number is not None]
    ids = np.tile(np.asarray(start, np.int64), (samples, 1))  # (N, T)
    ended = np.zeros(samples, bool)
    yield [prompt] * samples
    for number in range(tokens):
        logits = ahead(ids)[:, : len(vocabulary)]  # a table may have more rows than there are tokens
        logits[:, never] = -np.inf
        draw = uniform(np, sampling.seed, stream_of("generate"), number, np.arange(samples), 1)[:, 0]
        chosen = sample(logits, draw.astype(np.float64), sampling.temperature, sampling.top_k, sampling.top_p)
        if boundary is not None:
            chosen[ended] = boundary
            ended |= chosen == boundary
        ids = np.concatenate([ids, chosen[:, None]], axis=1)
        if ended.all():
            return
        yield [_continued(prompt, vocabulary, row[len(start) :], boundary) for row in ids]


def sample(
    logits: HostArray, draw: HostArray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> HostArray:
    """Logits (N, V) and uniform numbers (N,) in [0, 1) -> token numbers (N,)."""
    if temperature == 0:
        return np.asarray(np.argmax(logits, axis=-1))
    order = np.argsort(-logits, axis=-1, kind="stable")  # likeliest first
    ranked = np.take_along_axis(logits, order, axis=-1)
    with np.errstate(over="ignore"):  # a temperature next to 0
        p = np.exp((ranked - ranked[:, :1]) / temperature)
    p /= p.sum(axis=-1, keepdims=True)
    if top_k is not None:
        p[:, top_k:] = 0
    if top_p is not None:
        before = np.cumsum(p, axis=-1) - p
        p[before >= top_p * p.sum(axis=-1, keepdims=True)] = 0
    heap = np.cumsum(p, axis=-1)
    place = (draw[:, None] * heap[:, -1:] >= heap).sum(axis=-1)
    return np.asarray(np.take_along_axis(order, place[:, None], axis=-1)[:, 0])


class _Ahead:
    """The logits of the next token, from the cache where all layers stream, else from the last tokens over again."""

    def __init__(self, model: Layer, context: int, boundary: int | None) -> None:
        self.model, self.context, self.boundary = model, context, boundary
        shape = model.infer((context,), {})
        if len(shape) not in (1, 2):
            raise UsageError(f"the model's output has shape {shape}; that of a language model is (T, V), or (V,)")
        self.whole = len(shape) == 2  # logits for every position
        self.cache: dict[str, Any] | None = {} if model.streams else None
        self.bounded = any(layer.bounded for _, layer in model.walk())
        self.fed = 0  # tokens that the cache has seen

    def __call__(self, ids: HostArray) -> HostArray:
        """ids (N, T), of which the cache knows the first -> (N, V) float64."""
        count = ids.shape[1]
        if self.cache is not None and not (self.bounded and count > self.context):
            piece, cache = ids[:, self.fed :], self.cache
            self.fed = count
            return self._logits(piece, cache)[:, -1]
        window = ids[:, -self.context :]
        last = window.shape[1] - 1
        # What stands behind the last token makes no difference to a model that does not look ahead; before the first
        # one the boundary is what a model of one next token was trained on.
        missing = (0, self.context - last - 1) if self.whole else (self.context - last - 1, 0)
        logits = self._logits(np.pad(window, ((0, 0), missing), constant_values=self.boundary or 0), None)
        return logits[:, last] if self.whole else logits

    def _logits(self, ids: HostArray, cache: dict[str, Any] | None) -> HostArray:
        backend = self.model.built.backend
        with backend.running():
            y = self.model.forward(Tape(backend, cache=cache).input(backend.from_host(ids)))
        return backend.to_host(y.value).astype(np.float64)


class _Answer:
    """The logits of the next token of an answer, from the text that was read and the answer so far."""

    def __init__(self, model: Layer, vocabulary: Vocabulary, shapes: Mapping[str, Shape], prompt: str) -> None:
        read = vocabulary.encode(prompt)
        (room,), (self.longest,) = shapes["source"], shapes["target"]
        if not 1 <= len(read) <= room:
            raise UsageError(f"the prompt has {len(read)} tokens; the model was trained on 1 to {room}")
        self.model, self.padding = model, vocabulary.padding or 0
        self.source = self._padded(read[None].astype(np.int64), room)

    def __call__(self, ids: HostArray) -> HostArray:
        """ids (N, T) -> (N, V) float64."""
        backend = self.model.built.backend
        count, last = len(ids), ids.shape[1] - 1
        read, real = (np.repeat(array, count, axis=0) for array in self.source)
        written, so_far = self._padded(ids, self.longest)
        inputs = {"source": backend.from_host(read), "target": backend.from_host(written)}
        masks = {"source": backend.from_host(real), "target": backend.from_host(so_far)}
        with backend.running():
            y = self.model.forward(Tape(backend).input(inputs, mask=masks))
        return backend.to_host(y.value)[:, last].astype(np.float64)

    def _padded(self, ids: HostArray, length: int) -> tuple[HostArray, HostArray]:
        """ids (N, L) -> (N, length), and the mask of what is real."""
        behind = ((0, 0), (0, length - ids.shape[1]))
        return np.pad(ids, behind, constant_values=self.padding), np.pad(np.ones(ids.shape, bool), behind)


def _continued(prompt: str, vocabulary: Vocabulary, ids: HostArray, boundary: int | None) -> str:
    row = ids.tolist()
    text = vocabulary.decode(row[: row.index(boundary)] if boundary in row else row)
    between = " " if vocabulary.kind == "words" and prompt and text[:1].isalnum() else ""
    return prompt + between + text
