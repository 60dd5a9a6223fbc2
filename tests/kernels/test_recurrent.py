"""Recurrent layers by kernels: shapes and options that the rows of the op table do not have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.ops.recurrent import gru, lstm, rnn
from tests.kernels import harness

KINDS = {"rnn": (rnn, 1, 1), "gru": (gru, 3, 1), "lstm": (lstm, 4, 2)}  # op, gates, states


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_recurrent_kernels_over_shapes_and_options(kind, dtype, data):
    op, gates, states = KINDS[kind]
    n, t = data.draw(st.integers(1, 19)), data.draw(st.integers(1, 7))
    d, h = (data.draw(st.integers(1, most) | st.sampled_from([16, 32, 64])) for most in (6, 40))
    rng = np.random.default_rng(n * h)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype) / 2

    def perhaps(array):
        return array if data.draw(st.booleans()) else None

    # Larger recurrent weights would multiply rounding errors from step to step.
    recurrent = normal(gates * h, h) * dtype(h**-0.5)
    weights = [normal(gates * h, d), recurrent, perhaps(normal(gates * h)), perhaps(normal(gates * h))]
    starts = [perhaps(normal(n, h)) for _ in range(states)]
    mask = perhaps(rng.random((n, t)) < 0.7)
    options = {"reverse": data.draw(st.booleans())}
    if kind == "rnn":
        options["nonlinearity"] = data.draw(st.sampled_from(["tanh", "relu"]))
    outputs = data.draw(st.integers(1, 1 + states))
    constants = [i for i in range(5 + states) if data.draw(st.integers(0, 9)) == 0]
    inputs = [normal(n, t, d), *weights, *starts, mask]
    b = harness.backend(threads=data.draw(st.sampled_from([1, 2, 3])))
    harness.assert_equals_reference(b, op, inputs, options, outputs=outputs, constants=constants)
