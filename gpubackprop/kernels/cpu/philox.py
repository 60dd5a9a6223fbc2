"""Random numbers as in backend/philox.py, bit for bit, compiled: eight blocks of four words to a vector."""

from __future__ import annotations

import numpy as np

from gpubackprop.kernels.cpu.jit import inline, serial

U = np.uint64
LOW, HALF = U(0xFFFFFFFF), U(32)
COST = 0.5  # nanoseconds for a word


@inline
def _round(c, k0, k1):
    p0, p1 = (c[0] & LOW) * U(0xD2511F53), (c[2] & LOW) * U(0xCD9E8D57)
    return (p1 >> HALF) ^ c[1] ^ k0, p1 & LOW, (p0 >> HALF) ^ c[3] ^ k1, p0 & LOW


@inline
def _next(k0, k1):
    return (k0 + U(0x9E3779B9)) & LOW, (k1 + U(0xBB67AE85)) & LOW


@inline
def words(block, sample, step, seed, stream):
    """The four words of a block, as uint64. Ten rounds, written out: a loop here would keep vectors out."""
    k0, k1 = seed & LOW, stream
    c = _round((block, sample, step, seed >> HALF), k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    c = _round(c, k0, k1)
    k0, k1 = _next(k0, k1)
    return _round(c, k0, k1)


@serial
def draw_kept(kept, limit, sample, step, seed, stream):
    """kept (blocks,) uint32: four bytes each, 1 where the word is not below `limit`, all numbers uint64.

    The whole word is written at a time, and without a comparison: the carry into bit 32 says it.
    """
    above = U(1 << 32) - limit
    for i in range(kept.size):
        w0, w1, w2, w3 = words(U(i), sample, step, seed, stream)
        low = ((w0 + above) >> HALF) | (((w1 + above) >> HALF) << U(8))
        kept[i] = np.uint32(low | (((w2 + above) >> HALF) << U(16)) | (((w3 + above) >> HALF) << U(24)))
