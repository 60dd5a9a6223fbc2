"""The whole op table on the GPU's backend, kernels and references alike: run as it is, and captured in a graph."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.strict import StrictError
from gpubackprop.kernels import cuda
from gpubackprop.kernels.cuda.cublaslt import StatusError
from gpubackprop.tape import FREE, SKIP
from tests.kernels.cuda import rows
from tests.kernels.cuda.cupy_double import CaptureError, MemoryPool
from tests.kernels.cuda.device import doubles
from tests.ops import harness
from tests.ops.specs import table

pytestmark = rows.needs_compiler


@pytest.mark.parametrize("spec", table(), ids=lambda spec: spec.name)
def test_an_op_is_captured_and_gives_the_same_again(spec):
    inputs = harness.draw(spec, np.float64)
    wanted = harness.differentiable(spec, inputs)
    with doubles() as cupy:
        b = cuda.load()
        arrays = [None if a is None else b.from_host(a) for a in inputs]
        dys = [dy if dy is None else b.from_host(dy) for dy in harness.draw_dys(spec, harness.forward(spec, inputs)[0])]

        def step():
            pair = b.pair(spec.op, arrays, spec.options)
            y, saved = pair.forward(b, *arrays, **spec.options)
            ys = y if type(y) is tuple else (y,)
            slots = [FREE if i in wanted else SKIP for i in range(len(inputs))]
            grads = pair.backward(b, saved, dys[0] if len(dys) == 1 else tuple(dys), slots)
            return [y.copy() for y in ys], {i: grads[i].copy() for i in wanted}

        def read(results):
            ys, grads = results
            return harness.named(list(map(b.to_host, ys)), {i: b.to_host(grad) for i, grad in grads.items()})

        with b.running():
            eager = read(step())
            with cupy.cuda.using_allocator(MemoryPool().malloc):
                b.stream.begin_capture()
                results = step()
                graph = b.stream.end_capture()
            unwritten = read(results)
            assert all(np.isnan(a).all() for a in unwritten.values() if harness.is_float(a)), "something ran"
            graph.launch()
            found = read(results)
    drawn = spec.op.name in rows.FLOAT32  # normal numbers are float32's
    harness.assert_close(found, rows.reference(spec, inputs), 1e-5 if drawn else 1e-10)
    for name, a in eager.items():
        assert np.array_equal(found[name], a), name


def test_what_cuda_refuses_while_a_stream_is_captured_is_refused():
    with doubles() as cupy:
        b = cuda.load()
        x = b.from_host(np.ones((2, 2)))
        for what in (
            lambda: float(x[0, 0]),
            lambda: b.to_host(x),
            lambda: b.from_host(np.ones(2)),
            lambda: x[x > 0],
            lambda: cupy.matmul(x, x),
            lambda: cupy.cuda.Event().synchronize(),
            b.stream.synchronize,
            b.stream.begin_capture,
            lambda: b.matmul(x, x),  # never seen before: its algorithm is still to be chosen
            lambda: cupy.RawModule(code="", options=("-std=c++17",)),
            lambda: b.empty((2,), np.float32),  # of the common pool
        ):
            b.stream.begin_capture()
            with pytest.raises((CaptureError, StrictError, StatusError)) as caught:
                what()
            b.stream.end_capture()
            assert "captur" in str(caught.value), what
        with pytest.raises(CaptureError, match="default stream"):
            cupy.cuda.Stream(null=True).begin_capture()
