"""What lies between the ops: filling, copying and adding whole arrays, each thread its own part of them."""

from __future__ import annotations

from gpubackprop.kernels.cpu.jit import inline, parallel, prange, serial

LINE = 16  # numbers of a cache line: threads do not write into each other's
STREAM = 0.3  # nanoseconds that a number of a large array takes one thread to read or to write, about


@inline
def part(size, threads, t):
    """Where thread t of `threads` begins and ends in a flat array."""
    width = -(-size // (threads * LINE)) * LINE
    return min(size, t * width), min(size, (t + 1) * width)


@serial
def _fill(out, value):
    for i in range(out.size):
        out[i] = value


@serial
def _copy(out, x):
    for i in range(out.size):
        out[i] = x[i]


@serial
def _add(x, y, out):
    for i in range(out.size):
        out[i] = x[i] + y[i]


@serial
def _add_to(out, x):
    for i in range(out.size):
        out[i] += x[i]


@serial
def _times(x, factor):
    for i in range(x.size):
        x[i] *= factor


@parallel
def fill(out, value, threads):  # (P,), a number of out's dtype
    """out ← value."""
    for t in prange(threads):
        low, high = part(out.size, threads, t)
        _fill(out[low:high], value)


@parallel
def copy(out, x, threads):  # (P,), (P,) of the same dtype or another
    """out ← x."""
    for t in prange(threads):
        low, high = part(out.size, threads, t)
        _copy(out[low:high], x[low:high])


@parallel
def add(x, y, out, threads):  # (P,), (P,), (P,)
    """out ← x + y."""
    for t in prange(threads):
        low, high = part(out.size, threads, t)
        _add(x[low:high], y[low:high], out[low:high])


@parallel
def add_to(out, x, threads):  # (P,), (P,)
    """out ← out + x."""
    for t in prange(threads):
        low, high = part(out.size, threads, t)
        _add_to(out[low:high], x[low:high])


@parallel
def scale(x, by, threads):  # (P,), (1,)
    """x ← x / by, of which the kernel reads the value when it runs: 1 leaves x as it is."""
    for t in prange(threads):
        if by[0] != 1:
            low, high = part(x.size, threads, t)
            _times(x[low:high], 1 / by[0])


@parallel
def quotient(x, y, out, threads):  # (P,), (P,), (P,)
    """out ← x / y."""
    for t in prange(threads):
        low, high = part(out.size, threads, t)
        for i in range(low, high):
            out[i] = x[i] / y[i]
