"""Every row of the op table by what the GPU's backend takes for it, its kernel or the reference, beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.tape import FREE, SKIP, Slot
from tests.ops import harness
from tests.ops.specs import table

pytestmark = pytest.mark.gpu
FLOAT32 = ("gaussian_noise", "gaussian_sample")  # whose random numbers are of float32, and equal to rounding


def on_gpu(b, spec, inputs, dys):
    """Outputs and gradients, of a run by Python and of a graph that was captured then."""
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
        grads = pair.backward(b, saved, given[0] if len(given) == 1 else tuple(given), slots)
        return [each.copy() for each in (y if type(y) is tuple else (y,))], {i: grads[i].copy() for i in wanted}

    def read(results):
        return harness.named([b.to_host(y) for y in results[0]], {i: b.to_host(d) for i, d in results[1].items()})

    with b.running():
        eager = read(step())
        memory = b.xp.cuda.MemoryPool()
        with b.xp.cuda.using_allocator(memory.malloc):
            b.stream.begin_capture()
            try:
                results = step()
            finally:
                graph = b.stream.end_capture()
        graph.launch(b.stream)
        return eager, read(results)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("spec", table(), ids=lambda spec: spec.name)
def test_a_gpu_gives_numpys_numbers(cuda, spec, dtype, tolerance):
    inputs = harness.draw(spec, dtype)
    ys, dys, grads = harness.run(spec, inputs)
    tolerance = max(tolerance, 1e-5 if spec.op.name in FLOAT32 else 0.0)
    for found in on_gpu(cuda, spec, inputs, dys):
        harness.assert_close(found, harness.named(ys, grads), tolerance)


@pytest.mark.parametrize("spec", [spec for spec in table() if spec.batched], ids=lambda spec: spec.name)
def test_an_empty_batch_is_one_there_too(cuda, spec):
    inputs = harness.empty(spec, harness.draw(spec, np.float32))
    ys, dys, grads = harness.run(spec, inputs)
    for found in on_gpu(cuda, spec, inputs, dys):
        for name, wanted in harness.named(ys, grads).items():
            assert found[name].shape == wanted.shape
            np.testing.assert_array_equal(found[name], wanted, err_msg=name)
