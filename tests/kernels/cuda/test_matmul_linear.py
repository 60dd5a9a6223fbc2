"""Fully connected layers on a double of cuBLASLt and the strict device, against the reference in float64.

None of it has run on a GPU.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda import matmul_linear
from gpubackprop.kernels.cuda.cublaslt import StatusError
from gpubackprop.kernels.cuda.kernel import KERNELS
from gpubackprop.kernels.cuda.matmul import Multiplier
from gpubackprop.ops.linear import linear
from gpubackprop.ops.linear_activation import linear_activation, linear_gelu_linear
from gpubackprop.tape import Op, Slot
from tests.kernels.cuda.cublaslt_double import BGRADB, DGELU, GELU, HAS_AUX
from tests.kernels.cuda.device import TestDevice, inside_step
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
TOLERANCE = {"float16": 6e-3, "float32": 1e-5, "float64": 1e-12}
BIAS = 4


def Device(**options: Any) -> Any:
    """The test device, its products as `options` say, and not timed, so that each is one call."""
    b = TestDevice()
    b.multiply = Multiplier(b.library, lambda array: array.data.ptr, **options)
    return b


def epilogues(b: Any) -> list[int]:
    return [call.epilogue for call in b.double.products.calls]


@pytest.fixture
def device() -> Any:
    return Device()


def draw(*shapes: Any, dtype: str = "float32", seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [None if shape is None else rng.normal(size=shape).astype(dtype) for shape in shapes]


def on(b: Any, pair: Any, inputs: list[Any], dy: np.ndarray, wanted: Any, **options: Any) -> list[Any]:
    """y and the gradients, of a step that may wait for nothing; the weight's gradient into memory given."""
    arrays = [None if x is None else b.from_host(x) for x in inputs]
    slots = [Slot(i in wanted and x is not None) for i, x in enumerate(arrays)]
    for slot, x in list(zip(slots, arrays, strict=True))[1:2]:
        slot.out = b.xp.full(x.shape, np.nan, x.dtype)
    upper = b.from_host(dy)

    def step() -> Any:
        y, saved = pair.forward(b, *arrays, **options)
        return y, *pair.backward(b, saved, upper, slots)

    results = inside_step(step)()
    for slot, gradient in zip(slots, results[1:], strict=True):
        assert (gradient is None) == (not slot.wanted)
        if slot.out is not None and slot.wanted:
            assert gradient is slot.out, "not in the caller's memory"
    return [None if x is None else b.to_host(x) for x in results]


def assert_equal(device: Any, op: Op, pair: Op, inputs: list[Any], wanted: Any = None, **options: Any) -> None:
    dtype = inputs[0].dtype.name
    wanted = [i for i, x in enumerate(inputs) if x is not None] if wanted is None else wanted
    exact = [None if x is None else x.astype(np.float64) for x in inputs]
    (dy,) = draw(op.forward(NumpyBackend(), *exact, **options)[0].shape, dtype=dtype, seed=9)
    found = on(device, pair, inputs, dy, wanted, **options)
    expected = on(NumpyBackend(), op, exact, dy.astype(np.float64), wanted, **options)
    for name, x, y in zip(("y", "dx", "dweight", "dbias", "dweight2", "dbias2"), found, expected, strict=False):
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == dtype
            assert x.shape == y.shape, name
            worst = np.abs(x - y).max(initial=0) / max(1.0, np.abs(y).max(initial=0))
            assert worst <= TOLERANCE[dtype], f"{name}: off by {worst}"


ACTIVATIONS = [
    ("relu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("gelu", {"approximate": "none"}),
    ("gelu", {}),
    ("silu", {}),
]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (1, 1), (2, 3, 9), (0, 4), (2, 0, 4)])
def test_linear(device: Any, dtype: str, with_bias: bool, shape: tuple[int, ...]) -> None:
    for outputs in (1, 7, 16):
        inputs = draw(shape, (outputs, shape[-1]), (outputs,) if with_bias else None, dtype=dtype)
        assert_equal(device, linear, KERNELS[linear], inputs)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("activation", "options"), ACTIVATIONS)
def test_linear_activation(device: Any, dtype: str, activation: str, options: dict[str, str]) -> None:
    pair = KERNELS[linear_activation]
    for shape, outputs, with_bias in itertools.product([(5, 3), (2, 3, 9), (0, 4)], (1, 13), (True, False)):
        inputs = draw(shape, (outputs, shape[-1]), (outputs,) if with_bias else None, dtype=dtype)
        if dtype != "float16" or activation != "gelu" or options.get("approximate") == "tanh":
            assert_equal(device, linear_activation, pair, inputs, activation=activation, **options)


@pytest.mark.parametrize("wanted", [[], [0], [1], [2], [0, 2], [1, 2]])
def test_only_what_is_wanted_is_computed(device: Any, wanted: list[int]) -> None:
    inputs = draw((5, 3), (7, 3), (7,))
    assert_equal(device, linear, KERNELS[linear], inputs, wanted)
    device.double.products.calls.clear()  # ways were chosen among them
    assert_equal(device, linear, KERNELS[linear], inputs, wanted)
    assert len(device.double.products.calls) == 1 + (0 in wanted) + (1 in wanted)


def test_the_epilogues_do_it(device: Any) -> None:
    inputs = draw((5, 3), (7, 3), (7,))
    gelu = {"activation": "gelu", "approximate": "tanh"}
    for op, options, first in ((linear, {}, BIAS), (linear_activation, gelu, GELU | HAS_AUX | BIAS)):
        for _ in range(2):  # ways are chosen in the first
            device.double.products.calls.clear()
            assert_equal(device, op, KERNELS[op], inputs, **options)
        assert epilogues(device) == [first, 1, BGRADB]


def test_the_quicker_way_is_taken_and_kept(device: Any) -> None:
    inputs = draw((5, 3), (7, 3), (7,))
    slow = iter([2.0, 1.0] * 2)  # the epilogues take longer
    device.seconds = lambda call: (call(), next(slow))[1]
    for _ in range(2):
        device.double.products.calls.clear()
        assert_equal(device, linear, KERNELS[linear], inputs)
    assert epilogues(device) == [1, 1, 1]
    assert set(device.choices.values()) >= {"apart"}
    again = Device()
    again.seconds = None  # nothing is measured
    again.adopt(device.choices)
    assert_equal(again, linear, KERNELS[linear], inputs)
    assert epilogues(again) == [1, 1, 1]


def test_rows_that_are_not_contiguous(device: Any) -> None:
    x, weight, bias, dy = draw((3, 5), (7, 3), (7,), (7, 5), seed=2)
    b, plain = device, NumpyBackend()
    y, saved = matmul_linear.linear_forward(b, b.from_host(x).T, b.from_host(weight), b.from_host(bias))
    np.testing.assert_allclose(b.to_host(y), linear.forward(plain, x.T, weight, bias)[0], rtol=1e-5, atol=1e-5)
    slots = [Slot(), Slot(out=b.xp.zeros((3, 7), np.float32).T), Slot()]
    found = matmul_linear.linear_backward(b, saved, b.from_host(dy).T, slots)
    expected = linear.backward(plain, (x.T, weight), dy.T, [Slot()] * 3)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(b.to_host(one), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_nan_gets_through(device: Any, activation: str) -> None:
    x, weight, bias = map(device.from_host, draw((4, 3), (5, 3), (5,)))
    x[1, 2] = np.nan
    options = {"approximate": "tanh"} if activation == "gelu" else {}
    y, _ = matmul_linear.linear_activation_forward(device, x, weight, bias, activation=activation, **options)
    assert np.isnan(device.to_host(y)).all(axis=1).tolist() == [False, True, False, False]


def test_float32_may_be_multiplied_as_tf32() -> None:
    inputs = draw((4, 64), (5, 64), (5,))
    exact, rough = Device(), Device(float32="tf32")
    one, other = (b.to_host(matmul_linear.linear_forward(b, *map(b.from_host, inputs))[0]) for b in (exact, rough))
    assert 1e-5 < np.abs(one - other).max() < 1e-1


def test_other_errors_are_not_hidden(device: Any) -> None:
    x, weight, bias = map(device.from_host, draw((4, 3), (5, 3), (5,)))
    device.multiply.close()
    with pytest.raises(StatusError, match="CUBLAS_STATUS_INVALID_VALUE"):
        matmul_linear.linear_forward(device, x, weight, bias)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_two_layers_with_gelu_between(device: Any, dtype: str) -> None:
    op, pair = linear_gelu_linear, KERNELS[linear_gelu_linear]
    for shape, hidden, outputs in (((5, 3), 13, 4), ((2, 3, 6), 16, 1)):
        inputs = draw(shape, (hidden, shape[-1]), (hidden,), (outputs, hidden), (outputs,), dtype=dtype)
        assert_equal(device, op, pair, inputs)
        assert_equal(device, op, pair, inputs, [0, 1, 3])
        assert_equal(device, op, pair, inputs, [3, 4])
        assert_equal(device, op, pair, [*inputs[:2], None, inputs[3], None])
    assert DGELU | HAS_AUX in epilogues(device) or dtype == "float64"
