"""Fully connected layers on kernels: products of any size, beside the references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.ops.linear import linear
from gpubackprop.ops.linear_activation import linear_activation, linear_gelu_linear
from gpubackprop.tape import FREE, SKIP
from tests.kernels.harness import assert_equals_reference, backend

ACTIVATIONS = [
    {"activation": "relu"},
    {"activation": "tanh"},
    {"activation": "sigmoid"},
    {"activation": "silu"},
    {"activation": "gelu"},
    {"activation": "gelu", "approximate": "tanh"},
]
SIZE = st.integers(1, 200)


def _inputs(rows: int, features: int, outputs: int, dtype: str, biased: bool = True) -> list[np.ndarray | None]:
    rng = np.random.default_rng(rows * 40_000 + features * 200 + outputs)
    weight = rng.normal(size=(outputs, features)) / np.sqrt(max(features, 1))
    arrays = [rng.normal(size=(rows, features)), weight, rng.normal(size=outputs) if biased else None]
    return [a if a is None else a.astype(dtype) for a in arrays]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SIZE, SIZE, SIZE, st.sampled_from(["float32", "float64"]), st.sampled_from([1, 2, 4]), st.booleans())
def test_any_size(rows: int, features: int, outputs: int, dtype: str, threads: int, biased: bool) -> None:
    assert_equals_reference(backend(threads), linear, _inputs(rows, features, outputs, dtype, biased))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(SIZE, SIZE, SIZE, st.sampled_from(["float32", "float64"]), st.sampled_from(ACTIVATIONS))
def test_any_size_with_an_activation(
    rows: int, features: int, outputs: int, dtype: str, options: dict[str, str]
) -> None:
    assert_equals_reference(backend(2), linear_activation, _inputs(rows, features, outputs, dtype), options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (7, 300, 1100), (300, 1100, 7), (1100, 7, 300), (33, 257, 1025), (513, 16, 33), (0, 5, 3)],
)
def test_several_blocks_of_each_axis(shape: tuple[int, int, int], threads: int, dtype: str) -> None:
    assert_equals_reference(backend(threads), linear, _inputs(*shape, dtype))


@pytest.mark.parametrize("options", ACTIVATIONS, ids=str)
def test_an_activation_follows_the_last_block(options: dict[str, str]) -> None:
    assert_equals_reference(backend(2), linear_activation, _inputs(35, 700, 41, "float32"), options)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_agree_to_rounding(threads: int) -> None:
    x, weight, bias = _inputs(130, 600, 70, "float64")
    alone, together = (
        backend(n).pair(linear, [x, weight, bias], {}).forward(backend(n), x, weight, bias)[0] for n in (1, threads)
    )
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("inner", [5, 700])
def test_a_nan_stays_in_its_row_and_its_column(inner: int) -> None:
    b = backend(2)
    x, weight, bias = _inputs(37, inner, 45, "float32")
    x[9, inner // 2] = np.nan
    pair = b.pair(linear, [x, weight, bias], {})
    y, saved = pair.forward(b, x, weight, bias)
    assert np.isnan(y[9]).all()
    assert np.isfinite(np.delete(y, 9, axis=0)).all()
    dx, dweight, dbias = pair.backward(b, saved, np.ones_like(y), [FREE] * 3)
    assert np.isfinite(dx).all()
    assert np.isfinite(dbias).all()
    assert np.isnan(dweight[:, inner // 2]).all()
    assert np.isfinite(np.delete(dweight, inner // 2, axis=1)).all()


def test_what_lies_behind_a_part_is_not_written() -> None:
    b = backend(1)
    x, weight, bias = _inputs(9, 40, 33, "float32")
    memory = np.full((11, 33), 7, np.float32)
    b.pair(linear, [x, weight, bias], {})
    from gpubackprop.kernels.cpu.linear import _multiply
    from gpubackprop.kernels.cpu.panels import scratch_for

    y, zero = memory[1:10], np.float32(0)
    factors, scratch = (x, np.bool_(False), weight, np.bool_(True)), scratch_for(b, 40, 33, x.dtype)
    b.launch(_multiply, *factors, y, 0, zero, zero, bias, y, scratch)
    assert (memory[[0, 10]] == 7).all()
    np.testing.assert_allclose(y, x @ weight.T + bias, rtol=1e-5, atol=1e-5)


def test_nothing_is_computed_for_layers_below_that_want_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    b, launched = backend(1), []
    (x, first, bias), (_, second, bias2) = _inputs(4, 5, 6, "float32"), _inputs(4, 6, 3, "float32")
    pair = b.pair(linear_gelu_linear, [x, first, bias, second, bias2], {})
    y, saved = pair.forward(b, x, first, bias, second, bias2)
    right = type(b).launch
    monkeypatch.setattr(type(b), "launch", lambda *args, **rest: (launched.append(args[1]), right(*args, **rest))[1])
    below = pair.backward(b, saved, np.ones_like(y), [SKIP, SKIP, SKIP, FREE, FREE])
    assert below[:3] == (None, None, None)
    assert len(launched) == 2, "the sums of the second bias, and the product of its weight"
    assert all(grad is not None for grad in pair.backward(b, saved, np.ones_like(y), [FREE] * 5))
    assert len(launched) > 4
