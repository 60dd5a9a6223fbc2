"""Every kernel against its reference, over the rows of the op table that it fits."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from tests.kernels import harness
from tests.ops import harness as rows
from tests.ops.specs import table

pytest.importorskip("numba", reason="Numba, which compiles the kernels, is not installed")


def taken(spec):
    """Whether a kernel takes the inputs of a row."""
    return harness.backend().pair(spec.op, rows.draw(spec, np.float32), spec.options) is not spec.op


ROWS = [spec for spec in table() if taken(spec)]
each_row = pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.name)


def kernels_for(spec, inputs, threads=2):
    b = harness.backend(threads)
    assert b.pair(spec.op, inputs, spec.options) is not spec.op
    return b


def test_most_rows_are_taken():
    assert len(ROWS) > 0.6 * len(table())


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@each_row
def test_a_kernel_equals_its_reference(spec, dtype):
    inputs = rows.draw(spec, dtype)
    b = kernels_for(spec, inputs)
    options = {"outputs": spec.outputs, "constants": spec.constants}
    harness.assert_equals_reference(b, spec.op, inputs, spec.options, **options)


@each_row
def test_a_kernel_takes_arrays_with_gaps_and_read_only_ones(spec):
    inputs = [rows.scattered(a) for a in rows.draw(spec, np.float64)]
    b = kernels_for(spec, inputs)
    for a in inputs:
        if a is not None:
            a.flags.writeable = False
    harness.assert_equals_reference(b, spec.op, inputs, spec.options, outputs=spec.outputs, constants=spec.constants)


@each_row
def test_a_nan_goes_through_a_kernel_as_through_its_reference(spec):
    inputs = rows.draw(spec, np.float32)
    b = kernels_for(spec, inputs)
    first = next(i for i, a in enumerate(inputs) if rows.is_float(a) and a.size)
    inputs[first].reshape(-1)[0] = np.nan
    with np.errstate(invalid="ignore"):
        wanted, _ = rows.forward(spec, inputs)
        found = b.pair(spec.op, inputs, spec.options).forward(b, *inputs, **spec.options)[0]
    for a, reference in zip(found if type(found) is tuple else (found,), wanted, strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(reference))


@each_row
def test_one_two_and_four_threads_agree_to_rounding(spec):
    inputs = rows.draw(spec, np.float64)
    found = []
    for threads in (1, 2, 4):
        b = kernels_for(spec, inputs, threads)
        ys, _ = rows.forward(spec, inputs)
        dys = rows.draw_dys(spec, ys)
        wanted = rows.differentiable(spec, inputs)
        found.append(harness.run(b, b.pair(spec.op, inputs, spec.options), inputs, spec.options, dys, wanted))
    for other in found[1:]:
        rows.assert_close(other, found[0], 1e-12)


class Placed:
    """Memory of which one array begins `gap` bytes behind the last one's end, or ends as far before its beginning."""

    def __init__(self, gap, down):
        self.room = np.full(1 << 20, 255, np.uint8)
        self.gap, self.down, self.at = gap, down, self.room.size if down else 0

    def empty(self, shape, dtype):
        size = prod(shape) * np.dtype(dtype).itemsize
        if size > 1 << 14:
            return np.empty(shape, dtype)
        step = -(-(size + self.gap) // 16) * 16
        begin = self.at - step if self.down else self.at
        self.at = begin if self.down else begin + step
        return self.room[begin : begin + size].view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@each_row
def test_bits_do_not_depend_on_where_arrays_lie(spec, dtype):
    """Compiled loops ask whether arrays are close together, and go one by one where they are."""
    given = rows.draw(spec, dtype)
    ys, _ = rows.forward(spec, given)
    dys, wanted, found = rows.draw_dys(spec, ys), rows.differentiable(spec, given), []
    for memory in (Placed(4096, False), Placed(0, False), Placed(0, True)):
        b = kernels_for(spec, given)
        b.memory.empty = memory.empty
        inputs = [a if a is None else memory.empty(a.shape, a.dtype) for a in given]
        for a, values in zip(inputs, given, strict=True):
            if a is not None:
                a[...] = values
        found.append(harness.run(b, b.pair(spec.op, inputs, spec.options), inputs, spec.options, dys, wanted))
    for other in found[1:]:
        assert all(np.array_equal(found[0][name], a, equal_nan=True) for name, a in other.items())
