from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.errors import ShapeError
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


@pytest.mark.parametrize(("cls", "shape"), [(nn.Dropout1d, (6, 500)), (nn.Dropout2d, (3, 2, 500))])
def test_whole_channels_are_dropped(cls, shape):
    layer = cls(0.25).build(shape)
    y = run(layer, np.ones((8, *shape), np.float32)).reshape(8, -1, 500)
    assert np.unique(y).tolist() == pytest.approx([0, 1 / 0.75])
    assert (y == y[:, :1]).all()
    assert (y[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert (y[0, 0] != y[1, 0]).any()


def test_channel_dropout_needs_the_axes_of_its_name():
    with pytest.raises(ShapeError, match=r"needs \(N, H, W, C\), got samples of shape \(5, 4\); use dropout"):
        nn.Dropout2d().build((5, 4))


def test_stochastic_depth_drops_whole_samples():
    layer, x = nn.StochasticDepth(0.25).build((2, 3)), np.ones((2000, 2, 3), np.float32)
    y = run(layer, x)
    assert np.unique(y).tolist() == pytest.approx([0, 1 / 0.75])
    assert (y == y[:, :1, :1]).all()
    assert (y[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(layer(x), x)


def test_stochastic_depth_by_batch_decides_once_a_step_however_the_batch_is_split():
    layer, x = nn.StochasticDepth(0.25, "batch").build((3,)), np.ones((6, 3), np.float32)
    steps = [run(layer, x, step=step) for step in range(400)]
    assert all((y == y[0, 0]).all() for y in steps)
    assert np.mean([y[0, 0] == 0 for y in steps]) == pytest.approx(0.25, abs=0.05)
    for step in range(5):
        np.testing.assert_array_equal(run(layer, x[4:], step=step, samples=np.array([4, 5])), steps[step][4:])


def test_stochastic_depth_ends_the_body_of_a_residual():
    body = [nn.ReLU(), nn.StochasticDepth(0.5)]
    x = np.ones((64, 3), np.float32)
    y = run(nn.Residual(body).build((3,)), x)
    assert np.unique(y).tolist() == [1.0, 3.0]
