"""Work in pieces: what one pass writes, the next one still finds in the cache."""

from __future__ import annotations

from collections.abc import Iterator

from gpubackprop.backend import Backend


def at_once(b: Backend, n: int, size: int) -> int:
    """How many of n items to work on at a time, each with intermediate results of `size` bytes; at least 1."""
    return max(1, min(n, b.scratch // max(size, 1)))


def slices(n: int, step: int) -> Iterator[slice]:
    """[0, n) in pieces of `step`, the last one shorter."""
    return (slice(i, min(i + step, n)) for i in range(0, n, step))
