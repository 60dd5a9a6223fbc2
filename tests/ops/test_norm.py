"""Batch norm's statistics: precision in float32, the effect that tracks them, and batches that have none."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend, choose
from gpubackprop.errors import ShapeError
from gpubackprop.ops.norm import batch_norm, update_statistics


def test_float32_statistics_of_many_values_far_from_zero():
    x = np.random.default_rng(0).normal(1000, 1, size=(64, 40, 40, 2)).astype(np.float32)
    (_, mean, var), _ = batch_norm.forward(NumpyBackend(), x, None, None)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, x.var(axis=(0, 1, 2), dtype=np.float64), rtol=1e-3)
    assert mean.dtype == var.dtype == np.float32


def test_one_value_per_channel_is_refused():
    with pytest.raises(ShapeError, match=r"more than one value per channel.*\(1, 1, 1, 3\)"):
        batch_norm.forward(NumpyBackend(), np.zeros((1, 1, 1, 3)), None, None)


def test_a_gradient_through_the_statistics_is_refused():
    (y, mean, _), saved = batch_norm.forward(NumpyBackend(), np.arange(6.0).reshape(3, 2), None, None)
    with pytest.raises(NotImplementedError, match="running statistics"):
        batch_norm.backward(NumpyBackend(), saved, (y, mean, None), ())


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_running_statistics_move_in_place_without_a_wait(device):
    b, _ = choose(device)
    mean, var = b.from_host(np.zeros(2)), b.from_host(np.ones(2))
    tracked = b.from_host(np.zeros((), np.int64))
    batch = b.from_host([1.0, 2.0]), b.from_host([3.0, 4.0])
    b.capture(update_statistics)(b, mean, var, tracked, *batch, 5, 0.1)
    np.testing.assert_allclose(b.to_host(mean), [0.1, 0.2])
    np.testing.assert_allclose(b.to_host(var), 0.9 + 0.1 * np.array([3.0, 4.0]) * 5 / 4)
    assert b.to_host(tracked) == 1


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_without_momentum_the_statistics_are_means_over_all_batches(device):
    b, _ = choose(device)
    mean, var = b.from_host(np.zeros(1)), b.from_host(np.ones(1))
    tracked = b.from_host(np.zeros((), np.int64))
    for value in (1.0, 2.0, 6.0):
        b.capture(update_statistics)(b, mean, var, tracked, b.from_host([value]), b.from_host([value]), 2, None)
    np.testing.assert_allclose([b.to_host(mean), b.to_host(var)], [[3.0], [6.0]])
