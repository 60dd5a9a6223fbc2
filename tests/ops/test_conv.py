"""Convolution beyond the table's rows: drawn shapes, and samples in several chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.conv import conv2d, output_size
from gpubackprop.tape import FREE
from tests.ops.harness import assert_close, run, run_torch
from tests.ops.specs import OpSpec
from tests.ops.specs.conv import _row

small = st.integers(1, 3)
border = st.integers(0, 3)


@st.composite
def rows(draw):
    kernel, stride, dilation = (draw(st.tuples(small, small)) for _ in range(3))
    padding = tuple(draw(st.tuples(border, border)) for _ in range(2))
    groups, channels = draw(small), draw(small)
    least = [max(1, dilation[i] * (kernel[i] - 1) + 1 - sum(padding[i])) for i in (0, 1)]
    image = tuple(draw(st.integers(low, low + 4)) for low in least)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    shape = (*image, groups * channels)
    return _row("drawn", shape, kernel, groups * draw(small), draw(small), draw(st.booleans()), **options)


@pytest.mark.oracle
@settings(max_examples=80, deadline=None)
@given(spec=rows(), chunk=st.sampled_from([1, 2000, 1 << 20]))
def test_any_geometry_equals_pytorch(spec: OpSpec, chunk: int):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    backend = NumpyBackend()
    backend.scratch = chunk
    inputs = list(spec.inputs(np.random.default_rng(0)))
    _, dys, _ = run(spec, inputs)
    y, saved = conv2d.forward(backend, *inputs, **spec.options)
    found = conv2d.backward(backend, saved, dys[0], [FREE] * 3)
    (wanted,), grads = run_torch(spec, inputs, dys)
    assert_close(
        {"y": y} | {f"d{i}": found[i] for i in grads}, {"y": wanted} | {f"d{i}": g for i, g in grads.items()}, 1e-10
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "count"),
    [(28, 3, 1, (1, 1), 1, 28), (28, 3, 2, (1, 1), 1, 14), (5, 3, 1, (0, 0), 2, 1), (2, 3, 1, (0, 0), 1, 0)],
)
def test_output_size(size, kernel, stride, padding, dilation, count):
    assert output_size(size, kernel, stride, padding, dilation) == count
