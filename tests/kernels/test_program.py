"""Launches one after another without Python between them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba, which compiles the kernels, is not installed")
from gpubackprop.kernels.cpu.backend import CpuBackend  # behind the check that Numba is there
from gpubackprop.kernels.cpu.jit import parallel, prange, single  # as above
from gpubackprop.kernels.cpu.program import Program, Refused
from gpubackprop.kernels.cpu.record import Recording


@parallel
def _mix(x, y, pairs, seed, shift, factor, both, threads):
    # (M, N), (M, N), a pair and a pair of pairs, a number of each kind
    for t in prange(threads):
        for i in range(t, x.shape[0], threads):
            for j in range(x.shape[1]):
                y[i, j] = x[i, j] * factor + shift + pairs[0][0] + 10 * pairs[1][1][0]
                if both:
                    y[i, j] += np.float64(seed >> np.uint64(60))


@single
def _refuse_negative(x):
    for i in range(x.size):
        if x[i] < 0:
            raise IndexError("a negative number")


@single
def _increase(count):
    count[0] += 1


def _recorded(launches, threads=2):
    """What `launches(launch)` launches, and the program of it."""
    b, recording = CpuBackend(threads=threads), None
    recording = Recording(b.memory)
    with b.recording_into(recording):
        launches(b.launch)
    return Program(recording.launches)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arguments_of_every_kind_arrive(threads, dtype):
    wide, y = np.arange(24, dtype=dtype).reshape(4, 6), np.zeros((4, 3), dtype)
    x, pairs = wide[:, ::2], ((1, 2), ((3, 4), (5, 6)))
    numbers = np.uint64(2**63 + 1), 7, dtype(0.5)
    for both in (np.bool_(True), np.bool_(False)):
        program = _recorded(lambda launch, both=both: launch(_mix, x, y, pairs, *numbers, both, cost=1e9), threads)
        for start in (0, 100):  # as they are when the program runs
            wide[:] = np.arange(start, start + 24).reshape(4, 6)
            y[:] = np.nan
            program()
            assert y.tolist() == (x * 0.5 + 7 + 1 + 50 + (8 if both else 0)).tolist()


def test_pythons_functions_have_their_turn():
    count, seen, wide = np.zeros(1), np.zeros(1), np.zeros(1)

    def launches(launch):
        launch(_increase, count)
        launch(np.copyto, seen, count)
        launch(_increase, count)
        launch(np.add, count, seen, wide)

    program = _recorded(launches)
    assert not program.compiled
    program()
    assert (count[0], seen[0], wide[0]) == (4, 3, 7)
    assert _recorded(lambda launch: launch(_increase, count)).compiled


def test_what_lies_behind_a_launch_that_raises_does_not_run():
    x, count = np.ones(3), np.zeros(1)

    def launches(launch):
        for _ in range(2):
            launch(_increase, count)
            launch(_refuse_negative, x)

    program = _recorded(launches)
    program()
    assert count[0] == 4
    x[1] = -1
    with pytest.raises(Refused, match="launch 1 of 4"):
        program()
    assert count[0] == 5
