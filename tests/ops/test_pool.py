"""Pooling where several cells of a window hold the same, largest value: the first one gets the gradient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.adaptive_pool import adaptive_max_pool
from gpubackprop.ops.pool import avg_pool, global_max_pool, max_pool
from tests.ops.harness import assert_close, named, run, run_torch
from tests.ops.specs import OpSpec
from tests.ops.specs import adaptive_pool as adaptive_rows
from tests.ops.specs import pool as rows

NONE = ((0, 0), (0, 0))


def few_values(rng):
    return (rng.integers(-1, 2, size=(3, 6, 6, 3)).astype(np.float64),)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("op", "torch", "options"),
    [
        (max_pool, rows.torch_max, {"kernel": (2, 2), "stride": (2, 2), "padding": NONE, "dilation": (1, 1)}),
        (max_pool, rows.torch_max, {"kernel": (3, 3), "stride": (1, 1), "padding": rows.ONE, "dilation": (1, 1)}),
        (adaptive_max_pool, adaptive_rows.torch_max, {"output_size": (4, 3)}),
    ],
)
def test_of_equal_values_the_first_gets_the_gradient(op, torch, options):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    spec = OpSpec("ties", op, few_values, torch, options)
    inputs = list(spec.inputs(np.random.default_rng(0)))
    ys, dys, grads = run(spec, inputs)
    assert_close(named(ys, grads), named(*run_torch(spec, inputs, dys)), 1e-12)


def test_a_window_of_one_value_gives_its_first_cell_everything():
    options = {"kernel": (2, 2), "stride": (2, 2), "padding": NONE, "dilation": (1, 1)}
    _, saved = max_pool.forward(NumpyBackend(), np.zeros((1, 2, 2, 1)), **options)
    (dx,) = max_pool.backward(NumpyBackend(), saved, np.full((1, 1, 1, 1), 5.0), ())
    np.testing.assert_array_equal(dx.ravel(), [5, 0, 0, 0])


@pytest.mark.parametrize("shape", [(2, 3, 3, 1), (2, 9, 1)])
def test_the_global_maximum_gives_the_first_of_equal_values_everything(shape):
    x = np.zeros(shape)
    x.reshape(2, 9)[:, [2, 7]] = 1
    _, saved = global_max_pool.forward(NumpyBackend(), x, None)
    dx, _ = global_max_pool.backward(NumpyBackend(), saved, np.full((2, 1), 5.0), ())
    np.testing.assert_array_equal(dx.reshape(2, 9), [[0, 0, 5, 0, 0, 0, 0, 0, 0]] * 2)


@st.composite
def windows(draw):
    """A row of max or average pooling over one to three axes."""
    n = draw(st.sampled_from([1, 2, 2, 3]))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(n)) for _ in range(3))
    op, torch, options = max_pool, rows.torch_max, {"dilation": dilation}
    if draw(st.booleans()):
        op, torch, options = avg_pool, rows.torch_avg, {"count_include_pad": draw(st.booleans())}
        dilation = (1,) * n
    around = [draw(st.integers(0, k // 2)) for k in kernel]
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, around, strict=True)]
    shape = (2, *(draw(st.integers(low, low + 4)) for low in least), draw(st.integers(1, 3)))
    options |= {"kernel": kernel, "stride": stride, "padding": tuple((p, p) for p in around)}
    return OpSpec(
        "drawn", op, lambda rng: (rng.normal(size=shape),), torch, options | {"ceil_mode": draw(st.booleans())}
    )


@pytest.mark.oracle
@settings(max_examples=80, deadline=None, derandomize=True)
@given(spec=windows())
def test_any_windows_equal_pytorchs(spec):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    inputs = list(spec.inputs(np.random.default_rng(0)))
    ys, dys, grads = run(spec, inputs)
    assert_close(named(ys, grads), named(*run_torch(spec, inputs, dys)), 1e-10)
