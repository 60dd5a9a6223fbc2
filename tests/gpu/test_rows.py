"""Every row of the op table by what the GPU's backend takes for it, its kernel or the reference, beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.tape import FREE, SKIP, Slot
from tests.ops import harness
from tests.ops.specs import table

pytestmark = pytest.mark.gpu


def on_gpu(b, spec, inputs, dys):
    """Outputs and gradients, computed as a captured step computes them."""
    arrays = [None if a is None else b.from_host(a) for a in inputs]
    given = [None if dy is None else b.from_host(dy) for dy in dys]
    pair = b.pair(spec.op, arrays, spec.options)
    wanted = harness.differentiable(spec, inputs)

    def step():
        y, saved = pair.forward(b, *arrays, **spec.options)
        slots = [
            Slot(out=b.xp.empty(a.shape, a.dtype)) if i in wanted and i % 2 else FREE if i in wanted else SKIP
            for i, a in enumerate(arrays)
        ]
        return y, pair.backward(b, saved, given[0] if len(given) == 1 else tuple(given), slots)

    y, grads = b.capture(step)()
    outputs = [b.to_host(each) for each in (y if type(y) is tuple else (y,))]
    return harness.named(outputs, {i: b.to_host(grads[i]) for i in wanted})


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("spec", table(), ids=lambda spec: spec.name)
def test_a_gpu_gives_numpys_numbers(cuda, spec, dtype, tolerance):
    inputs = harness.draw(spec, dtype)
    ys, dys, grads = harness.run(spec, inputs)
    harness.assert_close(on_gpu(cuda, spec, inputs, dys), harness.named(ys, grads), tolerance)


@pytest.mark.parametrize("spec", [spec for spec in table() if spec.batched], ids=lambda spec: spec.name)
def test_an_empty_batch_is_one_there_too(cuda, spec):
    inputs = harness.empty(spec, harness.draw(spec, np.float32))
    ys, dys, grads = harness.run(spec, inputs)
    found = on_gpu(cuda, spec, inputs, dys)
    for name, wanted in harness.named(ys, grads).items():
        assert found[name].shape == wanted.shape
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)
