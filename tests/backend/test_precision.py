"""Short precisions, op by op: done in float32 and rounded once, whatever the op and whoever does it."""

from __future__ import annotations

import sys
from typing import get_args

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend, cpu
from gpubackprop.backend.precision import EXACT, PRECISIONS, STATISTICS, Widened, full, is_float, is_short, working
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.config.config import Precision
from gpubackprop.errors import UsageError
from gpubackprop.tape import FREE, SKIP, Slot
from tests.ops import harness
from tests.ops.specs import table

ROWS = table()
SHORT = [working(name) for name in ("bfloat16", "float16")]
by_dtype = pytest.mark.parametrize("dtype", SHORT, ids=lambda dtype: dtype.name)
by_row = pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.name)
FLOAT32 = np.dtype(np.float32)


def wide(a):
    return a.astype(np.float32) if harness.is_float(a) and is_short(a.dtype) else a


def bits(a):
    return np.ascontiguousarray(a).view(np.uint8)


def drawn(spec, dtype):
    """Inputs, outputs in float32 of these inputs, and gradients of the outputs."""
    inputs = harness.draw(spec, dtype)
    ys, saved = harness.forward(spec, [wide(a) for a in inputs])
    dys = [
        None if dy is None else dy.astype(dtype) if y.ndim else dy
        for dy, y in zip(harness.draw_dys(spec, ys), ys, strict=True)
    ]
    grads = harness.backward(spec, [wide(a) for a in inputs], saved, [wide(dy) for dy in dys])
    return inputs, ys, dys, grads


@by_dtype
@by_row
@pytest.mark.filterwarnings("ignore:overflow")
def test_an_op_on_short_arrays_is_that_in_float32_rounded_once(spec, dtype):
    b = NumpyBackend()
    inputs, wanted, dys, wanted_grads = drawn(spec, dtype)
    pair = b.pair(spec.op, inputs, spec.options)
    if not any(is_float(a.dtype) for a in inputs if a is not None):
        assert pair is spec.op
        return
    assert (pair is spec.op) == (spec.op.name in EXACT)
    y, saved = pair.forward(b, *inputs, **spec.options)
    ys = y if type(y) is tuple else (y,)
    rounded = 1 if spec.op.name in STATISTICS else len(ys)
    for place, (found, exact) in enumerate(zip(ys, wanted, strict=True)):
        kept = place >= rounded or not exact.ndim or exact.dtype != np.float32
        assert found.dtype == (exact.dtype if kept else dtype)
        assert np.array_equal(bits(found), bits(exact.astype(found.dtype)))
    slots = [FREE if i in harness.differentiable(spec, inputs) else SKIP for i in range(len(inputs))]
    grads = pair.backward(b, saved, dys[0] if len(dys) == 1 else tuple(dys), slots)
    for slot, found, exact in zip(slots, grads, wanted_grads, strict=True):
        if slot.wanted:
            assert np.array_equal(bits(b.cast(found, dtype)), bits(exact.astype(dtype)))


@by_dtype
@by_row
@pytest.mark.filterwarnings("ignore:overflow")
def test_the_strict_device_and_the_kernels_of_the_cpu_do_it_too(spec, dtype):
    inputs, wanted, dys, wanted_grads = drawn(spec, dtype)
    if not any(is_float(a.dtype) for a in inputs if a is not None):
        return
    for b in (StrictBackend(), cpu()[0]):
        arrays = [None if a is None else b.from_host(a) for a in inputs]
        pair = b.pair(spec.op, arrays, spec.options)
        y, saved = pair.forward(b, *arrays, **spec.options)
        given = tuple(None if dy is None else b.from_host(dy) for dy in dys)
        slots = [FREE if i in harness.differentiable(spec, inputs) else SKIP for i in range(len(inputs))]
        grads = pair.backward(b, saved, given[0] if len(given) == 1 else given, slots)
        pairs = list(zip(y if type(y) is tuple else (y,), wanted, strict=True))
        pairs += [(found, exact) for slot, found, exact in zip(slots, grads, wanted_grads, strict=True) if slot.wanted]
        for found, exact in pairs:
            host = b.to_host(found).astype(np.float32)
            error = 2.0**-7 if dtype.name == "bfloat16" else 2.0**-10
            close = np.abs(host - exact) <= error * (np.abs(exact) + np.abs(exact).max(initial=0) / 8)
            assert (close | (host == exact) | (np.isnan(host) & np.isnan(exact))).all()


def test_every_name_of_the_table_is_an_ops():
    assert {spec.op.name for spec in ROWS} >= EXACT | STATISTICS


def test_a_gradient_is_written_where_it_is_collected():
    b, bf16 = NumpyBackend(), SHORT[0]
    spec = next(spec for spec in ROWS if spec.op.name == "linear")
    inputs, _, (dy,), _ = drawn(spec, bf16)
    pair = b.pair(spec.op, inputs, spec.options)
    saved = pair.forward(b, *inputs, **spec.options)[1]
    place = np.empty(inputs[1].shape, np.float32)
    grads = pair.backward(b, saved, dy, [FREE, Slot(wide=place), *[FREE] * (len(inputs) - 2)])
    assert type(pair) is Widened
    assert grads[1] is place


def test_what_the_precisions_are_made_of():
    assert tuple(PRECISIONS) == get_args(Precision)
    for name, dtype in PRECISIONS.items():
        assert full(working(name)) == dtype
    assert [dtype.itemsize for dtype in SHORT] == [2, 2]
    assert not is_short(np.dtype(np.int16))
    assert not is_float(np.dtype(bool))


def test_a_missing_package_is_named_with_the_line_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UsageError, match=r"needs the package ml_dtypes .*pip install ml_dtypes"):
        working("bfloat16")
    with pytest.raises(UsageError, match=r"unknown precision 'float8'; known: float64, .*did you mean 'float"):
        working("float8")


@pytest.mark.parametrize("b", [NumpyBackend(), StrictBackend(), cpu()[0]], ids=["numpy", "strict", "cpu"])
def test_a_cast_is_silent_about_what_is_too_large(b):
    big = b.from_host(np.full(3, 1e6, np.float32))
    assert np.isinf(b.to_host(b.cast(big, SHORT[1]))).all()
    assert b.cast(big, FLOAT32) is big
    out = b.cast(big, SHORT[1])
    b.assign(out, big)
    assert np.isinf(b.to_host(out)).all()
