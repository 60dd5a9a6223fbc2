"""What the errors of the op table, relative to the largest element, do not see."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops import activation

B = NumpyBackend()


def test_the_logistic_function_is_precise_where_it_is_small():
    y = activation.logistic(np, np.array([-700.0, -300.0, -40.0, 0.0, 40.0, 800.0]))
    np.testing.assert_allclose(y, [*np.exp([-700.0, -300.0, -40.0]), 0.5, 1, 1], rtol=1e-14)


def test_positive_inputs_pass_unchanged():
    x = np.float32([0.1, 0.3, 1 / 3, 7])
    for op, options in ((activation.relu, {}), (activation.leaky_relu, {"negative_slope": 0.01}), (activation.elu, {})):
        y, saved = op.forward(B, x, **options)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(op.backward(B, saved, x, [])[0], x)


def test_slopes_at_zero_are_pytorchs():
    zero, one = np.zeros(1), np.ones(1)
    slopes = {
        op.name: float(op.backward(B, op.forward(B, zero)[1], one, [])[0][0])
        for op in (activation.relu, activation.leaky_relu, activation.elu)
    }
    assert slopes == {"relu": 0.0, "leaky_relu": 0.01, "elu": 1.0}


def test_infinite_inputs():
    x = np.array([-np.inf, np.inf])
    for op, wanted in (
        (activation.relu, [0, np.inf]),
        (activation.elu, [-1, np.inf]),
        (activation.sigmoid, [0, 1]),
        (activation.softplus, [0, np.inf]),
        (activation.tanh, [-1, 1]),
    ):
        np.testing.assert_array_equal(op.forward(B, x)[0], wanted, err_msg=op.name)
