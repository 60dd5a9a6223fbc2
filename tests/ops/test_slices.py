"""Ops that work in pieces give the same result however small the pieces are."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.slices import at_once, slices
from tests.ops import harness
from tests.ops.specs import conv, norm, pool


@pytest.mark.parametrize("spec", [*conv.ROWS, *norm.ROWS, *pool.ROWS], ids=lambda spec: spec.name)
def test_one_sample_at_a_time(spec):
    inputs = harness.draw(spec)
    ys, dys, grads = harness.run(spec, inputs)
    backend = NumpyBackend()
    backend.scratch = 1
    outputs, saved = harness.forward(spec, inputs, backend)
    found = harness.backward(spec, inputs, saved, dys, b=backend)
    harness.assert_close(harness.named(outputs, {i: found[i] for i in grads}), harness.named(ys, grads), 1e-12)


def test_slices_cover_everything_once():
    covered = np.zeros(10, int)
    for piece in slices(10, 4):
        covered[piece] += 1
    assert covered.tolist() == [1] * 10
    assert list(slices(0, 4)) == []


def test_pieces_fill_the_scratch_memory():
    backend = NumpyBackend()
    backend.scratch = 1000
    assert at_once(backend, 50, 100) == 10
    assert at_once(backend, 5, 100) == 5
    assert at_once(backend, 50, 5000) == 1
