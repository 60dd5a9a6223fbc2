"""Random numbers as in backend/philox.py, bit for bit, four words from each block of a sample."""

from __future__ import annotations

import numpy as np

from gpubackprop.kernels.cpu.jit import inline

U = np.uint64
LOW = U(0xFFFFFFFF)
HALF = U(32)
COST = 0.5  # nanoseconds for a word
BLOCKS = 256  # whose words stay in the first cache


@inline
def words(block, sample, step, high, k0, k1):
    """The four words of a block, as uint64: ten rounds. Products of two words, which vectors have."""
    c0, c1, c2, c3 = block, sample, step, high
    for _ in range(10):
        p0, p1 = (c0 & LOW) * U(0xD2511F53), (c2 & LOW) * U(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + U(0x9E3779B9)) & LOW, (k1 + U(0xBB67AE85)) & LOW
    return c0, c1, c2, c3
