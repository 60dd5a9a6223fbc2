"""The kernels for GPUs against their references, on the test device, over the rows of the op table that they fit."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.strict import StrictArray
from gpubackprop.kernels.cuda.kernel import KERNELS
from gpubackprop.ops.adaptive_pool import adaptive_avg_pool
from gpubackprop.ops.upsample import upsample_linear
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS, TestDevice
from tests.ops import harness

pytestmark = rows.needs_compiler
#: Their references multiply by matrices that are mostly 0, and so give NaN to what has nothing to do with it.
SPREADING = (adaptive_avg_pool, upsample_linear)
each_row = pytest.mark.parametrize("spec", rows.ROWS, ids=lambda spec: spec.name)


def test_every_kernel_has_rows():
    assert {spec.op for spec in rows.ROWS} == set(KERNELS)


@pytest.mark.parametrize("dtype", rows.DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@each_row
def test_a_kernel_equals_its_reference_in_any_order_of_threads(spec, dtype):
    orders = ORDERS if dtype is np.float32 else ("random",)  # the code is the same for all
    rows.check(spec, harness.draw(spec, dtype), orders)


@each_row
def test_a_kernel_takes_an_empty_batch(spec):
    inputs = harness.draw(spec, np.float64)
    if not spec.batched:
        pytest.skip("no batch to be empty")
    rows.check(spec, harness.empty(spec, inputs), ("forward",))


@each_row
def test_a_kernel_takes_arrays_with_gaps(spec):
    inputs = harness.draw(spec, np.float64)
    b = TestDevice()
    whole = rows.on_device(spec, inputs)
    scattered = [None if a is None else StrictArray(harness.scattered(a)) for a in inputs]
    y, _ = b.pair(spec.op, inputs, spec.options).forward(b, *scattered, **spec.options)
    for i, each in enumerate(y if type(y) is tuple else (y,)):
        assert np.array_equal(b.to_host(each), whole[f"y{i}"])


@each_row
def test_a_nan_goes_through_a_kernel_as_through_its_reference(spec):
    inputs = harness.draw(spec, np.float32)
    first = next(i for i, a in enumerate(inputs) if harness.is_float(a) and a.size)
    inputs[first].reshape(-1)[0] = np.nan
    with np.errstate(invalid="ignore"):
        wanted, _ = harness.forward(spec, inputs)
    found = rows.on_device(spec, inputs)
    for i, y in enumerate(wanted):
        nan = np.isnan(found[f"y{i}"])
        assert (
            nan.any() and not (nan & ~np.isnan(y)).any() if spec.op in SPREADING else np.array_equal(nan, np.isnan(y))
        )


@pytest.mark.parametrize("start", [0, 1])
def test_numbers_that_do_not_fill_or_begin_a_pack_are_done_one_by_one(start):
    b = TestDevice()
    spec = next(spec for spec in rows.ROWS if spec.op.name == "silu")
    x = np.linspace(-9, 9, 1031, dtype=np.float32)
    y, _ = b.pair(spec.op, [x], {}).forward(b, b.from_host(x)[start:])
    np.testing.assert_allclose(b.to_host(y), spec.op.forward(b, b.from_host(x[start:]))[0]._host, rtol=1e-6)
