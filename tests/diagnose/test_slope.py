from __future__ import annotations

import math

import pytest

from gpubackprop.diagnose.slope import compare


def of(f, claimed, scale=1.0):
    return compare(f, claimed, scale=scale, size=1.0, tolerance=1e-5)


def test_a_right_slope_and_wrong_ones():
    assert of(lambda t: math.sin(t + 1), math.cos(1)).error < 1e-6
    for wrong in (-math.cos(1), 1.001 * math.cos(1), 0.0):
        slope = of(lambda t: math.sin(t + 1), wrong)
        assert slope.error > 1e-5
        assert not slope.kink


def test_rounding_is_no_mistake():
    assert of(lambda t: 1e9 + (t + 1) ** 2, 2.0).error <= 1e-5
    assert of(lambda t: 1.0, 0.0, scale=1e-300).error == 0.0


@pytest.mark.parametrize(("value", "wrong"), [(1e4, 1.01), (1e6, 1.01), (1e6, -1.0), (1e7, 2.0)])
def test_rounding_does_not_excuse_a_mistake(value, wrong):
    assert of(lambda t: value + t, 1.0).error <= 1e-5
    assert of(lambda t: value + t, wrong).error > 1e-3


def test_at_a_kink_left_and_right_differ():
    slope = of(lambda t: max(t, 0.0), 1.0)
    assert slope.kink
    assert slope.error > 0.4


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 3e-8])
def test_a_kink_close_by_is_seen_through(distance):
    assert of(lambda t: max(t + distance, 0.0), 1.0).error <= 1e-5
    assert of(lambda t: max(t + distance, 0.0), 0.9).error > 0.05


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_agrees_with_nothing(bad):
    assert of(lambda t: t, bad).error == math.inf
    assert of(lambda t: bad, 1.0).error == math.inf
