"""Gradient clipping against PyTorch's and by arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import choose
from gpubackprop.optim import clip, clip_norm, clip_value
from tests.optim.specs import draw, params

NUMPY = choose("cpu")[0]
STRICT = choose("strict")[0]


@pytest.mark.oracle
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1000.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 1e-6)])
def test_clip_norm_equals_pytorchs(max_norm, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    ours = params(dtype)
    draw(ours, 0)
    tensors = [torch.zeros(param.shape) for _, param, _, _ in ours.segments]
    for tensor, (_, param, _, _) in zip(tensors, ours.segments, strict=True):
        tensor.data, tensor.grad = torch.from_numpy(param.value.copy()), torch.from_numpy(param.grad.copy())
    wanted = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    norm = clip_norm(NUMPY, ours.grad, max_norm)
    assert norm.dtype == dtype
    assert float(norm) == pytest.approx(float(wanted), rel=tolerance)
    for tensor, (name, param, _, _) in zip(tensors, ours.segments, strict=True):
        assert np.abs(param.grad - tensor.grad.numpy()).max() <= tolerance * np.abs(param.grad).max(), name


def test_the_norm_of_many_small_numbers_is_exact_in_float32():
    grad = np.full(3 * clip.BLOCK + 5, 0.1, np.float32)
    wanted = np.sqrt(len(grad)) * float(np.float32(0.1))
    assert float(clip_norm(NUMPY, grad, 1e9)) == pytest.approx(wanted, rel=1e-6)


def test_a_small_norm_leaves_the_gradients_alone():
    grad = np.array([0.3, 0.4])
    assert clip_norm(NUMPY, grad, 1.0) == pytest.approx(0.5)
    assert grad.tolist() == [0.3, 0.4]


def test_a_large_norm_is_scaled_down():
    grad = np.array([3e-6, 4e-6])
    assert clip_norm(NUMPY, grad, 1e-6) == pytest.approx(5e-6)
    assert grad == pytest.approx(np.array([3e-6, 4e-6]) / 6)  # the 1e-6 beside the norm is PyTorch's


def test_zero_and_no_gradients():
    zero = np.zeros(4)
    assert clip_norm(NUMPY, zero, 1.0) == 0
    assert not zero.any()
    assert clip_norm(NUMPY, np.zeros(0), 1.0) == 0


def test_a_norm_that_is_not_finite_is_not_hidden():
    grad = np.array([1.0, np.nan])
    assert np.isnan(clip_norm(NUMPY, grad, 1.0))
    assert np.isnan(grad).all()


def test_clip_value():
    grad = np.array([-3.0, -0.5, 0.0, 2.0])
    clip_value(NUMPY, grad, 1.0)
    assert grad.tolist() == [-1.0, -0.5, 0.0, 1.0]


@pytest.mark.parametrize("function", [clip_norm, clip_value])
def test_clipping_can_be_captured(function):
    host = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    grad = STRICT.from_host(host)
    STRICT.capture(lambda: function(STRICT, grad, 0.5))()
    function(NUMPY, host, 0.5)
    assert np.array_equal(STRICT.to_host(grad), host)
