"""Norms: what they refuse, and masks."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.errors import ShapeError
from gpubackprop.tape import Tape


def test_groups_must_divide_the_channels():
    with pytest.raises(ShapeError, match="num_groups is 4, but must divide the 6 channels: 1, 2, 3, 6"):
        nn.GroupNorm(4).build((5, 6))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.GroupNorm(6), (6,)), (nn.InstanceNorm(), (6,)), (nn.InstanceNorm(), (1, 6))]
)
def test_a_single_value_has_no_variance(layer, shape):
    with pytest.raises(ShapeError, match=r"single value|more than one position"):
        layer.build(shape)


def test_rms_norms_shape_must_be_the_inputs():
    with pytest.raises(ShapeError, match=r"normalized_shape is \(5,\), but the input has \(6,\)"):
        nn.RMSNorm(5).build((4, 6))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        nn.GroupNorm(2),
        nn.InstanceNorm(),
        nn.InstanceNorm(track_running_stats=True),
        nn.BatchNorm(),
        nn.BatchNorm(momentum=None),
        nn.BatchNorm(track_running_stats=False),
    ],
)
def test_padding_does_not_leak(layer, training):
    layer.build((5, 4), precision="float64")
    x, mask = np.random.default_rng(0).normal(size=(2, 5, 4)), np.arange(5) < np.array([[5], [2]])
    found = []
    for noise in (0.0, 7.0):
        tape = Tape(layer.built.backend, training=training)
        y = layer.forward(tape.input(x + noise * ~mask[..., None], mask=mask))
        tape.apply_effects()
        found.append(np.concatenate([y.value[mask].ravel(), *(a.ravel() for a in layer.state_dict().values())]))
        layer.build((5, 4), precision="float64")
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("device", ["cpu", "strict"])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_masked_batch_norm_is_that_of_the_real_positions(device, momentum):
    lengths = [np.array([[5], [2], [0]]), np.array([[0], [0], [0]]), np.array([[3], [1], [4]])]
    states = []
    for masked in (True, False):
        layer = nn.BatchNorm(momentum=momentum).build((5, 4) if masked else (4,), 0, device, "float64")
        rng = np.random.default_rng(0)
        for ends in lengths:
            x, mask = rng.normal(size=(3, 5, 4)), np.arange(5) < ends
            if not masked and not mask.any():
                continue
            backend = layer.built.backend
            tape = Tape(backend, training=True)
            kept = backend.from_host(mask) if masked else None
            layer.forward(tape.input(backend.from_host(x if masked else x[mask]), mask=kept))
            tape.apply_effects()
        states.append(layer.state_dict())
    for key, value in states[0].items():
        np.testing.assert_allclose(value, states[1][key], rtol=1e-12, err_msg=key)
