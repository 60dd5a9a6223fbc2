"""Any size and factor of upsampling, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop import nn
from gpubackprop.errors import ShapeError
from tests.nn.specs import LayerSpec
from tests.nn.test_layers import test_output_gradients_and_state_equal_pytorch as compare


@st.composite
def upsamplings(draw):
    axes = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["nearest", ["linear", "bilinear", "trilinear"][axes - 1]]))
    sizes = st.tuples(*[st.integers(1, 7)] * axes)
    options = {"mode": mode}
    if draw(st.booleans()):
        options["size"] = draw(sizes)
    else:
        options["scale_factor"] = draw(st.tuples(*[st.floats(0.3, 4)] * axes))
        # Where a factor that is not 1 or 2 happens to keep or double a size, PyTorch 2.13's backward pass of nearest
        # takes it for 1 or 2, unlike its forward pass.
        if mode == "nearest":
            options["scale_factor"] = draw(st.tuples(*[st.sampled_from([0.4, 1.0, 2.0, 2.6, 3.0, 3.7])] * axes))
            sizes = st.tuples(*[st.integers(5, 7)] * axes)
    if mode != "nearest":
        options["align_corners"] = draw(st.booleans())
    return options, (*draw(sizes), 2)


@pytest.mark.oracle
@settings(max_examples=25, deadline=None, derandomize=True)
@given(drawn=upsamplings())
def test_any_upsampling_equals_pytorchs(drawn):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    options, shape = drawn
    try:
        nn.Upsample(**options).infer(shape, {})
    except ShapeError:
        return  # nothing would be left
    row = LayerSpec(str(drawn), lambda: nn.Upsample(**options), lambda: torch.nn.Upsample(**options), shape, True)
    compare(row, True)


def test_pixel_unshuffle_undoes_pixel_shuffle():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 18)).astype(np.float32)
    shuffled = nn.PixelShuffle(3)(x)
    assert shuffled.shape == (2, 9, 12, 2)
    np.testing.assert_array_equal(nn.PixelUnshuffle(3)(shuffled), x)
