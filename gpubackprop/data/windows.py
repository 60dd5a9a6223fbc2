"""Samples cut from tokens: windows of a stream without a copy, lines padded to one length, contexts before a token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gpubackprop.data.source import IGNORED, Array, Split
from gpubackprop.errors import DataError


def every_window(stream: Array, context: int, where: str) -> Split:
    """Windows (T,) of a stream (L,) at every offset, targets one token on: L - T samples, views of the stream."""
    if len(stream) <= context:
        raise DataError(
            f"{where}: {len(stream)} tokens are too few for a context of {context} and the token behind it; "
            "lower context"
        )
    return Split(sliding_window_view(stream[:-1], context), sliding_window_view(stream[1:], context))


def windows_once(stream: Array, context: int, where: str, contiguous: bool = False) -> Split:
    """Windows (T,) of a stream (L,) side by side: each token but the first is a target once; the last is filled up."""
    if len(stream) < 2:
        raise DataError(f"{where}: {len(stream)} tokens, of which none can be predicted; two are the least")
    count = -(-(len(stream) - 1) // context)
    inputs = np.zeros(count * context, stream.dtype)
    targets = np.full(count * context, IGNORED, stream.dtype)
    inputs[: len(stream) - 1] = stream[:-1]
    targets[: len(stream) - 1] = stream[1:]
    return Split(inputs.reshape(count, context), targets.reshape(count, context), contiguous=contiguous)


def lines_shifted(lines: Sequence[Array], length: int, boundary: int, fill: int | None = None) -> Split:
    """Lines (L,) between boundaries, (N, T): inputs from the first boundary on, targets up to the second.

    Behind them inputs hold `fill` (the boundary, if it is None), targets -100.
    """
    whole = [np.concatenate(([boundary], line, [boundary])).astype(np.int32) for line in lines]
    inputs, mask = padded([line[:-1] for line in whole], length, boundary if fill is None else fill)
    targets, _ = padded([line[1:] for line in whole], length, IGNORED)
    return Split(inputs, targets, mask=mask)


def contexts(lines: Sequence[Array], context: int, boundary: int) -> Split:
    """For each token of each line, and the boundary behind it, the `context` tokens before it: (T,) -> ().

    The inputs are views of one stream of all lines, with `context` boundaries before each of them.
    """
    before = np.full(context, boundary, np.int32)
    stream = np.concatenate([part for line in lines for part in (before, line)] + [before[:1]])
    sizes = np.array([len(line) for line in lines])
    starts = np.cumsum(sizes + context) - (sizes + context)
    first = np.cumsum(sizes + 1) - (sizes + 1)  # of each line, among all samples
    rows = np.arange(len(stream) - context * len(lines) + len(lines) - 1) + np.repeat(starts - first, sizes + 1)
    return Split(sliding_window_view(stream[:-1], context), stream[context:], rows=rows)


def padded(lines: Sequence[Array], length: int, fill: int) -> tuple[Array, Array]:
    """Lines of unequal length, cut at `length` and filled up behind -> (N, T) int32, mask (N, T)."""
    cut = [line[:length] for line in lines]
    sizes = np.array([len(line) for line in cut])
    mask = np.arange(length) < sizes[:, None]
    out = np.full((len(lines), length), fill, np.int32)
    out[mask] = np.concatenate(cut)
    return out, mask
