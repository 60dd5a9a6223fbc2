"""Order and division of samples as pure functions of a seed."""

from __future__ import annotations

import math

import numpy as np

from gpubackprop.backend.philox import random_bits, stream_of
from gpubackprop.data.source import Array, Rows, Split
from gpubackprop.errors import DataError


def permutation(count: int, seed: int, purpose: str, epoch: int = 0) -> Rows:
    """A random order of `range(count)`: the same on every machine and with every version of NumPy."""
    words = random_bits(np, seed, stream_of(purpose), epoch, np.arange(count), 2).astype(np.uint64)
    keys = (words[:, 0] << np.uint64(32)) | words[:, 1]
    return np.argsort(keys, kind="stable").astype(np.int64)


def held_out_count(count: int, share: float) -> int:
    """How many of `count` samples a share holds out: rounded up, as scikit-learn does."""
    return math.ceil(round(share * count, 6))


def hold_out(split: Split, share: float, seed: int, purpose: str) -> tuple[Split, Split]:
    """(kept, held out): `share` in (0, 1) of the samples, with the same mix of classes where that is possible.

    DataError where nothing would be left to train on.
    """
    count, wanted = len(split), held_out_count(len(split), share)
    if wanted >= count:
        raise DataError(f"a share of {share:g} of {count} samples leaves none to train on; lower it or set it to 0")
    order = permutation(count, seed, purpose)
    labels = split.labels()
    chosen = None if labels is None else _stratified(labels[order], wanted)
    if chosen is None:
        chosen = np.arange(count) < wanted
    return split.subset(np.sort(order[~chosen])), split.subset(np.sort(order[chosen]))


def _stratified(labels: Array, wanted: int) -> Array | None:
    """Mask (N,) that takes the first samples of each class, as many as its share; None where a class has too few."""
    _, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    exact = wanted * sizes / len(labels)
    quota = np.floor(exact).astype(np.int64)
    largest_remainder = np.argsort(quota - exact, kind="stable")
    quota[largest_remainder[: wanted - quota.sum()]] += 1
    if (quota >= sizes).any():
        return None
    by_group = np.argsort(group, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_group] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    mask: Array = rank < quota[group]
    return mask
