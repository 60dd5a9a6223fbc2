"""Convolution beyond the table's rows: drawn shapes, and samples in several chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.conv import output_size
from gpubackprop.tape import FREE
from tests.ops.harness import assert_close, run, run_torch
from tests.ops.specs import OpSpec, depthwise
from tests.ops.specs.conv import row, transposed_row

small = st.integers(1, 3)
border = st.integers(0, 3)
axes = st.sampled_from([1, 2, 2, 2, 3])


def each(draw, n, values):
    return tuple(draw(values) for _ in range(n))


@st.composite
def rows(draw):
    n = draw(axes)
    kernel, stride, dilation = (each(draw, n, small) for _ in range(3))
    padding = each(draw, n, st.tuples(border, border))
    groups, channels = draw(small), draw(small)
    least = [max(1, dilation[i] * (kernel[i] - 1) + 1 - sum(padding[i])) for i in range(n)]
    image = (*(draw(st.integers(low, low + (4 if n < 3 else 1))) for low in least), groups * channels)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    if draw(st.booleans()):
        return depthwise.row("drawn", image, kernel, groups, draw(small), draw(st.booleans()), **options)
    return row("drawn", image, kernel, groups * draw(small), draw(small), draw(st.booleans()), groups=groups, **options)


@st.composite
def transposed_rows(draw):
    n = draw(axes)
    kernel, stride, dilation = (each(draw, n, small) for _ in range(3))
    padding = tuple((cells, cells) for cells in each(draw, n, border))
    extra = tuple(draw(st.integers(0, max(pair) - 1)) for pair in zip(stride, dilation, strict=True))
    groups = draw(small)
    # As many windows as it takes to cover one cell, padding cut off.
    bare = (d * (k - 1) + 1 + e - sum(p) for d, k, e, p in zip(dilation, kernel, extra, padding, strict=True))
    least = [max(1, 1 - (-(1 - size) // s)) for size, s in zip(bare, stride, strict=True)]
    image = (*(draw(st.integers(low, low + (4 if n < 3 else 1))) for low in least), groups * draw(small))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra, "groups": groups}
    return transposed_row("drawn", image, kernel, groups * draw(small), draw(small), draw(st.booleans()), **options)


@pytest.mark.oracle
@settings(max_examples=100, deadline=None, derandomize=True)
@given(spec=st.one_of(rows(), transposed_rows()), chunk=st.sampled_from([1, 2000, 1 << 20]))
def test_any_geometry_equals_pytorch(spec: OpSpec, chunk: int):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    backend = NumpyBackend()
    backend.scratch = chunk
    inputs = list(spec.inputs(np.random.default_rng(0)))
    _, dys, _ = run(spec, inputs)
    y, saved = spec.op.forward(backend, *inputs, **spec.options)
    found = spec.op.backward(backend, saved, dys[0], [FREE] * 3)
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
