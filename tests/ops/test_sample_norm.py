"""Norms of each sample: precision in float32, positions that do not count, and further shapes drawn by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend, choose
from gpubackprop.ops.sample_norm import group_norm, layer_norm, rms_norm, update_instance_statistics
from gpubackprop.tape import FREE, SKIP
from tests.ops import harness
from tests.ops.specs import OpSpec
from tests.ops.specs.sample_norm import _group_norm, _grouped, _inputs, _layer_norm, _rms, _rms_norm

B = NumpyBackend()


def test_float32_layer_norm_far_from_zero():
    x = np.random.default_rng(0).normal(1000, 1, size=(8, 512)).astype(np.float32)
    y, _ = layer_norm.forward(NumpyBackend(), x, None, None)
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean(axis=1, keepdims=True)) / np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, wanted, atol=2e-4)


def masked(rng):
    x, dy = rng.normal(size=(2, 3, 5, 4))
    return x, dy, np.arange(5) < np.array([[5], [3], [0]])


def test_nothing_leaks_from_positions_that_do_not_count():
    x, dy, mask = masked(np.random.default_rng(0))
    weight, bias = np.arange(1.0, 5.0), np.arange(4.0)
    y, saved = group_norm.forward(B, x, weight, bias, mask, groups=2)
    grads = group_norm.backward(B, saved, dy, (FREE, FREE, FREE, SKIP))
    out = ~mask[..., None]
    y2, saved = group_norm.forward(B, x + 100 * out, weight, bias, mask, groups=2)
    grads2 = group_norm.backward(B, saved, dy + 100 * out, (FREE, FREE, FREE, SKIP))
    for a, b in zip((y, *grads[:3]), (y2, *grads2[:3]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (y * out).any()
    assert not (grads[0] * out).any()


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_running_statistics_of_instances_leave_padding_out(device):
    b, _ = choose(device)
    x, _, mask = masked(np.random.default_rng(0))
    found = []
    for cut in (x[:2], x[:2] + 100 * ~mask[:2, :, None]):
        mean, var = b.from_host(np.zeros(4)), b.from_host(np.ones(4))
        b.capture(update_instance_statistics)(b, mean, var, b.from_host(cut), b.from_host(mask[:2]), 0.5)
        found.append((b.to_host(mean), b.to_host(var)))
    parts = [x[0], x[1, :3]]
    np.testing.assert_allclose(found[0][0], 0.5 * np.mean([part.mean(axis=0) for part in parts], axis=0))
    np.testing.assert_allclose(found[0][1], 0.5 + 0.5 * np.mean([part.var(axis=0, ddof=1) for part in parts], axis=0))
    np.testing.assert_array_equal(*found)


@st.composite
def rows(draw):
    """Any norm on any shape of up to four axes."""
    leading = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    kind = draw(st.sampled_from(["layer", "rms", "group"]))
    eps = draw(st.sampled_from([1e-5, 1e-2, 1.0]))
    affine = draw(st.booleans())
    if kind == "group":
        groups, width = draw(st.integers(1, 3)), draw(st.integers(2, 3))
        shape = (*leading, groups * width)
        inputs = _grouped(*shape, affine=affine, masked=len(shape) > 2 and draw(st.booleans()))
        return OpSpec("drawn", group_norm, inputs, _group_norm, {"groups": groups, "eps": eps})
    shape = (*leading, draw(st.integers(2, 5)))
    axes = draw(st.integers(1, len(shape) - 1))
    options = {"axes": axes, "eps": eps}
    if kind == "rms":
        return OpSpec("drawn", rms_norm, _rms(*shape, axes=axes, affine=affine), _rms_norm, options)
    return OpSpec("drawn", layer_norm, _inputs(*shape, axes=axes, affine=affine), _layer_norm, options)


@pytest.mark.oracle
@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows())
def test_drawn_shapes_and_options_equal_pytorch(spec):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    inputs = harness.draw(spec)
    ys, dys, grads = harness.run(spec, inputs)
    harness.assert_close(harness.named(ys, grads), harness.named(*harness.run_torch(spec, inputs, dys)), 1e-10)
