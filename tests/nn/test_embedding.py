"""Layers that take whole numbers: their starting weights, what they refuse, and masks."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Tape


def test_starting_weights_are_normal_and_the_padding_row_is_zero():
    weight = nn.Embedding(2000, 20, padding_idx=3).build((5,), precision="float64").state_dict()["weight"]
    rest = np.delete(weight, 3, axis=0)
    assert not weight[3].any()
    assert abs(rest.std() - 1) < 0.02
    assert abs(rest.mean()) < 0.02
    small = nn.Embedding(2000, 20, std=0.02).build((5,)).state_dict()["weight"]
    assert abs(small.std() - 0.02) < 4e-4


@pytest.mark.parametrize("layer", [nn.Embedding(7, 2), nn.EmbeddingBag(7, 2)])
@pytest.mark.parametrize("wrong", [-1, 7])
def test_a_number_that_names_no_row_is_a_clear_error(layer, wrong):
    with pytest.raises(UsageError, match="not one of 0 to 6; num_embeddings must be larger"):
        layer(np.array([[1, wrong]]))


@pytest.mark.parametrize("layer", [nn.Embedding(7, 2), nn.EmbeddingBag(7, 2), nn.OneHot(7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_pixels_and_quantities_are_no_symbols(layer, dtype):
    with pytest.raises(UsageError, match=r"takes whole numbers, and its input is float32; save the data as int64"):
        nn.Sequential(layer)(np.ones((2, 3), dtype))


def test_the_padding_row_must_be_there():
    with pytest.raises(UsageError, match="padding_idx is 7; it must be below num_embeddings, 7"):
        nn.Embedding(7, 2, padding_idx=7)


def test_a_bag_is_a_row():
    with pytest.raises(ShapeError, match=r"needs samples \(T,\)"):
        nn.EmbeddingBag(7, 2).build((3, 4))


def test_one_hot_has_the_models_precision():
    x = np.array([[0, 2], [1, 9]])
    for precision in ("float32", "float64"):
        y = nn.OneHot(3).build((2,), precision=precision)(x)
        assert y.dtype == precision
        np.testing.assert_array_equal(y, [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]])


def test_masks_travel_through_an_embedding_and_end_in_a_bag():
    x, mask = np.array([[1, 2], [3, 0]]), np.array([[True, True], [True, False]])
    bag, table = nn.EmbeddingBag(5, 2).build((2,)), nn.Embedding(5, 2).build((2,))
    tape = Tape(bag.built.backend)
    y = bag.forward(tape.input(x, mask=mask))
    assert y.mask is None  # of the mask's own shape, and yet without positions
    weight = bag.state_dict()["weight"]
    np.testing.assert_allclose(y.value, [(weight[1] + weight[2]) / 2, weight[3]], rtol=1e-6)
    assert table.forward(tape.input(x, mask=mask)).mask is mask
