from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.tape import Tape


def run(layer, x, *, samples=None, **options):
    samples = np.arange(len(x)) if samples is None else samples
    tape = Tape(layer.built.backend, training=True, samples=samples, **options)
    return layer.forward(tape.input(x)).value


@pytest.fixture
def model():
    return nn.Sequential(nn.Dropout(0.25), nn.ReLU()).build((1000,))


@pytest.fixture
def x():
    return np.ones((8, 1000), np.float32)


def test_share_and_scale(model, x):
    y = run(model, x)
    assert np.unique(y).tolist() == pytest.approx([0, 1 / 0.75])
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)


def test_mask_does_not_depend_on_how_the_batch_is_split(model, x):
    whole = run(model, x, step=3)
    parts = [run(model, x[s], step=3, samples=np.arange(8)[s]) for s in (slice(0, 3), slice(3, 8))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_mask_depends_on_seed_step_sample_and_path(model, x):
    masks = [
        run(model, x),
        run(model, x, seed=1),
        run(model, x, step=1),
        run(model, x, samples=np.arange(8) + 8),
        run(nn.Sequential(nn.ReLU(), nn.Dropout(0.25)).build((1000,)), x),
    ]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert 0.3 < (a != b).mean() < 0.45  # independent masks differ in 2 · 0.25 · 0.75
    assert (masks[0][0] != masks[0][1]).any()


def test_step_in_a_device_array_gives_the_same_mask(model, x):
    np.testing.assert_array_equal(run(model, x, step=np.array(7)), run(model, x, step=7))


def test_a_layer_used_twice_draws_anew(x):
    shared = nn.Dropout(0.25)
    model = nn.Sequential(shared, shared).build((1000,))
    kept = (run(model, x) != 0).mean()
    assert kept == pytest.approx(0.75**2, abs=0.02)


def test_inference_leaves_the_input_alone(model, x):
    np.testing.assert_array_equal(model(x), x)
