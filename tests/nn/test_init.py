from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from gpubackprop.nn import init

SHAPE = (300, 200)


@pytest.mark.parametrize(
    ("rule", "mean", "std"),
    [
        (init.constant(3.0), 3.0, 0.0),
        (init.zeros, 0.0, 0.0),
        (init.ones, 1.0, 0.0),
        (init.uniform(0.6), 0.0, 0.6 / sqrt(3)),
        (init.normal(0.2), 0.0, 0.2),
        (init.truncated_normal(0.2), 0.0, 0.2 * 0.8796),  # the standard deviation of N(0, 1) cut at ±2
        (init.kaiming_uniform(200), 0.0, 1 / sqrt(3 * 200)),
        (init.kaiming_normal(200), 0.0, sqrt(2 / 200)),
        (init.xavier_uniform(200, 300), 0.0, sqrt(2 / 500)),
        (init.xavier_normal(200, 300), 0.0, sqrt(2 / 500)),
        (init.orthogonal(2.0), 0.0, 2 / sqrt(300)),
    ],
)
def test_moments(rule, mean, std, rng):
    x = rule(rng, SHAPE)
    assert x.shape == SHAPE
    assert x.dtype == np.float64
    assert abs(x.mean() - mean) < 0.02 * max(std, 1e-9)
    assert abs(x.std() - std) < 0.01 * max(std, 1e-9)


def test_bounds(rng):
    assert np.abs(init.uniform(0.6)(rng, SHAPE)).max() <= 0.6
    assert np.abs(init.truncated_normal(0.2, 1.5)(rng, SHAPE)).max() <= 0.3


@pytest.mark.parametrize("shape", [(20, 5), (5, 20), (6, 2, 3)])
def test_orthogonal_rows_or_columns(shape, rng):
    x = init.orthogonal(3.0)(rng, shape).reshape(shape[0], -1)
    square = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    np.testing.assert_allclose(square, 9 * np.eye(len(square)), atol=1e-12)
