"""Made-up batches for the trainings of golden.py, as what the configs read looks: shapes, dtypes, masks, targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
#: inputs, targets, and mask where sequences are ragged; several inputs, and their masks, by name.
Batch: TypeAlias = Mapping[str, Any]
#: The micro-batches of these sizes.
Draw: TypeAlias = Callable[[np.random.Generator, Sequence[int]], list[Batch]]

IGNORED = -100


def images(*shape: int, classes: int = 10) -> Draw:
    """Images (N, *shape) of order one around a constant image for each class; classes (N,)."""
    means = np.random.default_rng(0).normal(size=(classes, *shape))

    def draw(rng: np.random.Generator, sizes: Sequence[int]) -> list[Batch]:
        labels = [rng.integers(0, classes, size) for size in sizes]
        return [
            {"inputs": 0.5 * means[label] + rng.normal(size=(len(label), *shape)), "targets": label} for label in labels
        ]

    return draw


def scenes(*shape: int, classes: int) -> Draw:
    """Images (N, *shape, 1) and a class for every pixel, whose brightness it shifts."""

    def draw(rng: np.random.Generator, sizes: Sequence[int]) -> list[Batch]:
        found: list[Batch] = []
        for size in sizes:
            targets = rng.integers(0, classes, (size, *shape))
            inputs = targets / classes + rng.normal(size=targets.shape)
            found.append({"inputs": inputs[..., None], "targets": targets})
        return found

    return draw


def _numbers(rng: np.random.Generator, shape: Sequence[int], first: int, end: int) -> Array:
    """Whole numbers from `first` on, small ones more often, so that there is something to learn."""
    return first + ((end - first) * rng.random(shape) ** 2).astype(np.int64)


def _real(rng: np.random.Generator, size: int, length: int) -> Array:
    """A mask (size, length) of ragged sequences, the first of them a whole one."""
    lengths = rng.integers(1, length + 1, size)
    lengths[0] = length
    mask: Array = np.arange(length) < lengths[:, None]
    return mask


def stream(length: int, vocabulary: int) -> Draw:
    """Windows (N, T) of a text, and what follows each of their characters."""

    def draw(rng: np.random.Generator, sizes: Sequence[int]) -> list[Batch]:
        windows = [_numbers(rng, (size, length + 1), 0, vocabulary) for size in sizes]
        return [{"inputs": window[:, :-1], "targets": window[:, 1:]} for window in windows]

    return draw


def _shifted(rng: np.random.Generator, size: int, length: int, vocabulary: int, first: int) -> tuple[Array, ...]:
    """Lines of numbers from `first` on, behind a boundary, 0 where they end; what follows, -100 there; the mask."""
    lines, mask = _numbers(rng, (size, length + 1), first, vocabulary), _real(rng, size, length)
    lines[:, 0] = first - 1
    return np.where(mask, lines[:, :-1], 0), np.where(mask, lines[:, 1:], IGNORED), mask


def lines(length: int, vocabulary: int) -> Draw:
    """Ragged lines (N, T) for a language model."""

    def draw(rng: np.random.Generator, sizes: Sequence[int]) -> list[Batch]:
        drawn = [_shifted(rng, size, length, vocabulary, 1) for size in sizes]
        return [{"inputs": inputs, "targets": targets, "mask": mask} for inputs, targets, mask in drawn]

    return draw


def sentences(length: int, vocabulary: int) -> Draw:
    """Ragged sentences (N, T), filled up with 0, and one of two classes for each.

    0 stands among the words too: behind their ends a mask would hide whether its row is trained.
    """

    def draw(rng: np.random.Generator, sizes: Sequence[int]) -> list[Batch]:
        found: list[Batch] = []
        for size in sizes:
            mask = _real(rng, size, length)
            inputs = np.where(mask, _numbers(rng, (size, length), 0, vocabulary), 0)
            found.append({"inputs": inputs, "targets": rng.integers(0, 2, size), "mask": mask})
        return found

    return draw


def translation(length: int, longest: int, vocabulary: int) -> Draw:
    """Ragged words (N, length) and (N, longest), and what follows each letter of the second ones."""

    def draw(rng: np.random.Generator, sizes: Sequence[int]) -> list[Batch]:
        found: list[Batch] = []
        for size in sizes:
            read = _real(rng, size, length)[::-1]
            source = np.where(read, _numbers(rng, (size, length), 2, vocabulary), 0)
            target, targets, written = _shifted(rng, size, longest, vocabulary, 2)
            inputs, mask = {"source": source, "target": target}, {"source": read, "target": written}
            found.append({"inputs": inputs, "targets": targets, "mask": mask})
        return found

    return draw
