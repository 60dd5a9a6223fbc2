"""Random numbers as a pure function of what they are for.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) encrypts a counter. The counter
here is (block, sample, step, seed's high word) and the key (seed's low word, stream), so that the numbers of one sample
depend neither on the batch it is in nor on the device, and resuming needs no state: only the step's number.
"""

from __future__ import annotations

import zlib
from math import pi
from typing import Any

from gpubackprop.backend.base import Array

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def stream_of(path: str, call: int = 0) -> int:
    """The stream (uint32) of the `call`-th draw in one step by the thing called `path`."""
    return (zlib.crc32(path.encode()) + call * 0x9E3779B1) & _LOW


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, ...]:
    """Ten rounds of Philox4x32. Counter words: uint64 arrays below 2**32 that broadcast; result likewise."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def random_bits(xp: Any, seed: int, stream: int, step: int | Array, sample: Array, count: int) -> Array:
    """`count` random uint32 words for each sample: sample (N,) integers, step a number or 0-d array -> (N, count)."""
    blocks = -(-count // 4)
    block = xp.arange(blocks, dtype=xp.uint64)[None, :]
    sample = sample.astype(xp.uint64)[:, None]
    zero = xp.zeros((1, 1), xp.uint64)
    if not isinstance(step, int):
        step = step.astype(xp.uint64)  # uint64 and int64 arrays would meet in float64
    words = philox((block + zero, sample + zero, zero + step, zero + (seed >> 32)), (seed & _LOW, stream))
    shape = (sample.shape[0], blocks)
    bits = xp.stack([xp.broadcast_to(word, shape) for word in words], axis=-1)
    return bits.astype(xp.uint32).reshape(shape[0], 4 * blocks)[:, :count]


def uniform(xp: Any, seed: int, stream: int, step: int | Array, sample: Array, count: int) -> Array:
    """Uniform float32 in [0, 1), multiples of 2**-24: (N, count)."""
    bits = random_bits(xp, seed, stream, step, sample, count)
    return (bits >> 8).astype(xp.float32) * xp.float32(2.0**-24)


def normal(xp: Any, seed: int, stream: int, step: int | Array, sample: Array, count: int) -> Array:
    """Standard normal float32, by Box and Muller 1958: (N, count). Equal across devices to rounding.

    No value lies beyond ±6.8, where less than one in 10¹⁰ would.
    """
    pairs = -(-count // 2)
    words = random_bits(xp, seed, stream, step, sample, 2 * pairs).reshape(sample.shape[0], pairs, 2)
    share = (words[..., 0].astype(xp.float32) + 0.5) * xp.float32(2.0**-32)  # in (0, 1]: its logarithm is finite
    radius = xp.sqrt(-2 * xp.log(share))
    angle = (words[..., 1] >> 8).astype(xp.float32) * xp.float32(2 * pi * 2.0**-24)
    both = xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=-1)
    return both.reshape(sample.shape[0], 2 * pairs)[:, :count]
