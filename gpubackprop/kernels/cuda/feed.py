"""Batches on their way from the host to fixed places on a GPU, while the step before is still running there."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array, HostArray

SLOTS = 2  # while one batch is used the next one comes


class _Slot:
    """Memory for one batch on its way: on the host, where the GPU can fetch it, and on the GPU."""

    def __init__(self, cupy: Any, arrays: Sequence[HostArray]) -> None:
        self.pinned = [_pinned(cupy, a) for a in arrays]
        self.staged = [cupy.empty(a.shape, a.dtype) for a in arrays]
        self.arrived, self.used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        # Pinned memory that is given back is given out again at once, though a copy from it may be on its way.
        weakref.finalize(self, self.arrived.synchronize).atexit = False


class Feed:
    """`feed(arrays)` brings arrays to where a captured step `held` its own, in their dtypes.

    Host arrays are copied to pinned memory at once, so that the caller may overwrite them; from there a second stream
    fetches them. Nothing here waits for a step: only for the copies of the batch before the last.
    """

    def __init__(self, cupy: Any, held: Sequence[Array]) -> None:
        self._cupy, self._held = cupy, held
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._slots: list[_Slot] = []
        self._turn = 0

    def __call__(self, arrays: Sequence[Any]) -> None:
        """On the current stream, which goes on with what was fed."""
        host = [a for a in arrays if isinstance(a, np.ndarray)]
        staged = iter(self._fetched(host) if host else ())
        for held, given in zip(self._held, arrays, strict=True):
            held[...] = next(staged) if isinstance(given, np.ndarray) else given
        if host:
            self._slots[self._turn].used.record(self._cupy.cuda.get_current_stream())

    def _fetched(self, arrays: Sequence[HostArray]) -> list[Array]:
        current, stream = self._cupy.cuda.get_current_stream(), self._stream
        self._turn = (self._turn + 1) % SLOTS
        if len(self._slots) < SLOTS:
            self._slots.append(_Slot(self._cupy, arrays))
            self._turn = len(self._slots) - 1
            self._slots[-1].used.record(current)  # what this memory was before may still be in use
        slot = self._slots[self._turn]
        slot.arrived.synchronize()  # the host waits until its copies of two steps ago have left pinned memory
        stream.wait_event(slot.used)
        for pinned, staged, array in zip(slot.pinned, slot.staged, arrays, strict=True):
            np.copyto(pinned, array)
            if array.nbytes:
                staged.data.copy_from_host_async(pinned.ctypes.data, array.nbytes, stream)
        slot.arrived.record(stream)
        current.wait_event(slot.arrived)
        return slot.staged


def _pinned(cupy: Any, like: HostArray) -> HostArray:
    """An array like this one in page-locked memory, which it keeps alive."""
    memory = cupy.cuda.alloc_pinned_memory(max(like.nbytes, 1))
    return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)
