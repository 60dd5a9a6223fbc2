"""Pooling where several cells of a window hold the same, largest value: the first one gets the gradient."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.pool import adaptive_max_pool2d, global_max_pool2d, max_pool2d
from tests.ops.harness import assert_close, named, run, run_torch
from tests.ops.specs import OpSpec
from tests.ops.specs import pool as rows


def few_values(rng):
    return (rng.integers(-1, 2, size=(3, 6, 6, 3)).astype(np.float64),)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("op", "torch", "options"),
    [
        (max_pool2d, rows._max, {"kernel": (2, 2), "stride": (2, 2)}),
        (max_pool2d, rows._max, {"kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1))}),
        (adaptive_max_pool2d, rows._adaptive_max, {"output_size": (4, 3)}),
        (global_max_pool2d, rows._global_max, {}),
    ],
)
def test_of_equal_values_the_first_gets_the_gradient(op, torch, options):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    spec = OpSpec("ties", op, few_values, torch, options)
    inputs = list(spec.inputs(np.random.default_rng(0)))
    ys, dys, grads = run(spec, inputs)
    assert_close(named(ys, grads), named(*run_torch(spec, inputs, dys)), 1e-12)


def test_a_window_of_one_value_gives_its_first_cell_everything():
    _, saved = max_pool2d.forward(NumpyBackend(), np.zeros((1, 2, 2, 1)), kernel=(2, 2), stride=(2, 2))
    (dx,) = max_pool2d.backward(NumpyBackend(), saved, np.full((1, 1, 1, 1), 5.0), ())
    np.testing.assert_array_equal(dx.ravel(), [5, 0, 0, 0])
