"""Tables: numbers that name no row, rows that are not trained, and further shapes drawn by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.embedding import embedding, embedding_bag
from gpubackprop.tape import FREE, SKIP, Slot
from tests.ops import harness
from tests.ops.specs import OpSpec
from tests.ops.specs.embedding import _bag, _bags, _embedding, _symbols

B = NumpyBackend()


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_number_that_names_no_row_is_found(wrong):
    x, weight = np.array([[0, wrong]]), np.ones((3, 2))
    with pytest.raises(IndexError):
        embedding.forward(B, x, weight)
    with pytest.raises(IndexError):
        embedding_bag.forward(B, x, weight, None)


def test_the_gradient_is_written_where_it_is_asked_for_and_what_was_there_is_gone():
    x, weight = np.array([[2, 0], [2, 2]]), np.ones((3, 2))
    _, saved = embedding.forward(B, x, weight)
    out = np.full((3, 2), np.nan)
    _, grad = embedding.backward(B, saved, np.ones((2, 2, 2)), (SKIP, Slot(out=out)))
    assert grad is out
    np.testing.assert_array_equal(out, [[1, 1], [0, 0], [3, 3]])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_an_empty_bag_gives_zeros_and_no_gradient(mode):
    x, weight, mask = (
        np.array([[1, 2], [1, 1]]),
        np.arange(6.0).reshape(3, 2) - 9,
        np.array([[True, True], [False, False]]),
    )
    y, saved = embedding_bag.forward(B, x, weight, mask, mode=mode)
    _, grad, _ = embedding_bag.backward(B, saved, np.ones((2, 2)), (SKIP, FREE, SKIP))
    alone, saved = embedding_bag.forward(B, x[:1], weight, None, mode=mode)
    np.testing.assert_array_equal(y, [alone[0], [0, 0]])
    np.testing.assert_array_equal(grad, embedding_bag.backward(B, saved, np.ones((1, 2)), (SKIP, FREE, SKIP))[1])
    assert embedding_bag.forward(B, x[:, :0], weight, None, mode=mode)[0].tolist() == [[0, 0], [0, 0]]


@st.composite
def specs(draw):
    """Tables and bags of any size, with and without padding and masks."""
    rows, width, length = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    samples = draw(st.integers(1, 5))
    options = {"padding_idx": draw(st.none() | st.integers(0, rows - 1))}
    if draw(st.booleans()):
        return OpSpec("drawn", embedding, _symbols(samples, length, rows=rows, width=width), _embedding, options)
    options["mode"] = draw(st.sampled_from(["sum", "mean", "max"]))
    inputs = _bags(samples, length, rows=rows, width=width, masked=draw(st.booleans()))
    return OpSpec("drawn", embedding_bag, inputs, _bag, options)


@pytest.mark.oracle
@settings(max_examples=25, deadline=None, derandomize=True)
@given(specs())
def test_drawn_sizes_and_options_equal_pytorch(spec):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    inputs = harness.draw(spec)
    ys, dys, grads = harness.run(spec, inputs)
    harness.assert_close(harness.named(ys, grads), harness.named(*harness.run_torch(spec, inputs, dys)), 1e-10)
