"""Rows of the op table on the test device, beside the reference in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from gpubackprop.backend import NumpyBackend
from gpubackprop.backend.strict import StrictArray
from gpubackprop.kernels.cuda.kernel import computed
from gpubackprop.tape import FREE, SKIP, Slot
from tests.kernels.cuda.device import COMPILER, ORDERS, TestDevice, inside_step
from tests.ops import harness
from tests.ops.specs import OpSpec, table

needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="no g++, which compiles the CUDA kernels for the test device"
)
#: Largest errors by dtype. The short ones keep 8 and 11 bits of an output, and of what a backward pass goes on with.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.5e-2}
LARGER = {"rnn": 2, "gru": 4}  # times that, where a step goes on with what others have rounded
FLOAT32 = ("gaussian_noise", "gaussian_sample")  # ops whose random numbers are of float32 and equal to rounding
DTYPES = [np.float64, np.float32, np.float16, bfloat16]
ROWS = [
    spec for spec in table() if TestDevice().pair(spec.op, harness.draw(spec, np.float32), spec.options) is not spec.op
]


def locked(inputs: list[Any]) -> list[Any]:
    """Read-only arrays of the test device."""
    return [None if a is None else StrictArray(harness.lock(a)) for a in inputs]


def on_device(spec: OpSpec, inputs: list[Any], order: str = "forward", **options: Any) -> dict[str, Any]:
    """Outputs y0, …, and gradients d0, … of the kernel, run inside a step, where nothing may wait for the device."""
    b = TestDevice(order, **options)
    arrays = locked(inputs)
    pair = b.pair(spec.op, arrays, spec.options)
    assert pair is not spec.op, "no kernel takes this row"
    y, saved = inside_step(pair.forward)(b, *arrays, **spec.options)
    ys = y if type(y) is tuple else (y,)
    dys = [dy if dy is None else StrictArray(harness.lock(dy)) for dy in harness.draw_dys(spec, ys)]
    wanted = harness.differentiable(spec, inputs)
    slots = [
        Slot(out=b.empty(a.shape, a.dtype)) if i in wanted and i % 2 else FREE if i in wanted else SKIP
        for i, a in enumerate(inputs)
    ]
    grads = inside_step(pair.backward)(b, saved, dys[0] if len(ys) == 1 else tuple(dys), slots)
    assert len(grads) == len(inputs)
    assert all(grads[i] is None for i in range(len(inputs)) if i not in wanted), "a gradient that nobody wanted"
    return harness.named([b.to_host(y) for y in ys], {i: b.to_host(grads[i]) for i in wanted})


def reference(spec: OpSpec, inputs: list[Any]) -> dict[str, Any]:
    """The same by NumPy, in float64; the gradients that come in are those of the inputs' precision."""
    wide = [a.astype(np.float64) if harness.is_float(a) else a for a in inputs]
    ys, saved = harness.forward(spec, wide, NumpyBackend())
    narrow = next(a.dtype for a in inputs if harness.is_float(a))
    dys = harness.draw_dys(spec, [y.astype(computed(narrow) if y.ndim == 0 else narrow) for y in ys])
    found = harness.backward(spec, wide, saved, [dy if dy is None else dy.astype(np.float64) for dy in dys])
    return harness.named(ys, {i: found[i] for i in harness.differentiable(spec, inputs)})


def check(
    spec: OpSpec, inputs: list[Any], orders: tuple[str, ...] = ORDERS, tolerance: float = 0.0, **options: Any
) -> None:
    """The kernel gives what the reference gives, and the same in all orders of threads."""
    dtype = next(a.dtype for a in inputs if harness.is_float(a))
    found = [on_device(spec, inputs, order, **options) for order in orders]
    for name, a in found[0].items():  # a loss is never short, nor are statistics, which no gradient comes back through
        wide = name.startswith("y") and (a.ndim == 0 or (int(name[1:]) >= spec.outputs and a.ndim == 1))
        assert a.dtype == (computed(dtype) if wide else dtype), f"{name}: {a.dtype} came out"
    wide = {name: a.astype(np.float64) for name, a in found[0].items()}
    least = TOLERANCES["float32"] if spec.op.name in FLOAT32 else 0.0
    usual = TOLERANCES[dtype.name] * (1 if computed(dtype) == dtype else LARGER.get(spec.op.name, 1))
    harness.assert_close(wide, reference(spec, inputs), tolerance or max(usual, least))
    for order, other in zip(orders, found, strict=True):
        for name, a in other.items():
            assert np.array_equal(a, found[0][name]), f"{name} depends on the order of the threads: {order}"
