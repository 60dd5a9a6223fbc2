"""Activations of any shape and options against PyTorch, and their slopes where two pieces meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops import gated, rectified
from gpubackprop.tape import FREE
from tests.ops.harness import error

B = NumpyBackend()


def _prelu(F, x, weight):
    return F.prelu(x.movedim(-1, 1) if x.ndim > 1 else x, weight).movedim(1, -1)


@pytest.mark.oracle
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_against_pytorch(data):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    F = torch.nn.functional
    shape = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    axis = data.draw(st.integers(1, len(shape) - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    low, high = sorted(rng.normal(size=2).tolist())
    weight = rng.normal(size=data.draw(st.sampled_from([1, shape[-1]])))
    shape[axis] *= 2 if (halved := data.draw(st.booleans())) else 1
    x = 3 * rng.normal(size=shape)
    if halved:
        op, inputs, options, theirs = data.draw(
            st.sampled_from(
                [
                    (gated.glu, [x], {"axis": axis}, lambda x: F.glu(x, axis)),
                    (gated.swiglu, [x], {"axis": axis}, lambda x: F.silu(x.chunk(2, axis)[0]) * x.chunk(2, axis)[1]),
                ]
            )
        )
    else:
        op, inputs, options, theirs = data.draw(
            st.sampled_from(
                [
                    (rectified.prelu, [x, weight], {}, lambda x, w: _prelu(F, x, w)),
                    (rectified.hardtanh, [x], {"low": low, "high": high}, lambda x: F.hardtanh(x, low, high)),
                    (rectified.selu, [x], {}, F.selu),
                    (gated.mish, [x], {}, F.mish),
                    (gated.hardswish, [x], {}, F.hardswish),
                ]
            )
        )
    y, saved = op.forward(B, *inputs, **options)
    there = [torch.tensor(a, requires_grad=True) for a in inputs]
    wanted = theirs(*there)
    dy = rng.normal(size=y.shape)
    (wanted * torch.tensor(dy)).sum().backward()
    assert error(y, wanted.detach().numpy()) < 1e-12
    for grad, tensor in zip(op.backward(B, saved, dy, [FREE] * len(inputs)), there, strict=True):
        assert error(grad, tensor.grad.numpy()) < 1e-10


@pytest.mark.parametrize(
    ("op", "x", "options", "y", "slope"),
    [
        (rectified.hardtanh, [-1, 1], {}, [-1, 1], [0, 0]),
        (rectified.hardsigmoid, [-3, 3], {}, [0, 1], [0, 0]),
        (gated.hardswish, [-3, 3], {}, [0, 3], [-0.5, 1.5]),
    ],
)
def test_slopes_at_the_joints(op, x, options, y, slope):
    with np.errstate(invalid="ignore"):
        found, saved = op.forward(B, np.array(x, float), **options)
        np.testing.assert_array_equal(op.backward(B, saved, np.ones(2), [FREE])[0], slope)
    np.testing.assert_array_equal(found, y)
