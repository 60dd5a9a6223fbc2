"""Which neighbours are done as one op, and that this changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.nn.fuse import chain

SHARED = nn.Linear(5, 5)
LISTS = {
    "relu": ([nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)], 2),
    "gelu": ([nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)], 2),
    "gelu by tanh between two": ([nn.Linear(4, 5), nn.GELU("tanh"), nn.Linear(5, 3, bias=False)], 1),
    "gelu by tanh between three": (
        [nn.Linear(4, 5), nn.GELU("tanh"), nn.Linear(5, 5), nn.GELU("tanh"), nn.Linear(5, 3)],
        2,
    ),
    "gelu by tanh between one and itself": ([nn.Linear(4, 5), nn.GELU("tanh"), *(SHARED, nn.GELU("tanh"), SHARED)], 2),
    "gelu by tanh at the end": ([nn.Linear(4, 5), nn.GELU("tanh"), nn.LayerNorm(5)], 2),
    "batch norm": ([nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU()], 2),
    "residual": ([nn.Residual([nn.Linear(4, 4), nn.BatchNorm1d(4)]), nn.ReLU()], 1),
}


@pytest.mark.parametrize("name", LISTS)
def test_neighbours_are_one_op_which_computes_what_they_do(name):
    layers, steps = LISTS[name]
    assert len(chain(layers)) == steps
    rng = np.random.default_rng(0)
    x, target, found = rng.normal(size=(6, 4)), rng.integers(0, 3, 6), {}
    for kernels in ("reference", "auto"):
        model = nn.Sequential(*layers).build((4,), 0, precision="float64", kernels=kernels)
        loss, grads = gbp.value_and_grad(model, nn.CrossEntropyLoss(), x, target)
        found[kernels] = {"loss": loss, **grads}
    for key, value in found["reference"].items():
        np.testing.assert_allclose(found["auto"][key], value, rtol=1e-10, atol=1e-12, err_msg=key)


class Louder(nn.GELU):
    """An activation of a user's own."""


def test_layers_of_a_users_own_and_watched_ones_run_by_themselves():
    assert len(chain([nn.Linear(4, 5), Louder("tanh"), nn.Linear(5, 3)])) == 3
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU("tanh"), nn.Linear(5, 3)).build((4,), kernels="auto")
    seen, inner = [], model.layers[1].forward
    model.layers[1].forward = lambda x: (seen.append(x.shape), inner(x))[1]
    model(np.zeros((2, 4)))
    assert seen == [(2, 5)]
