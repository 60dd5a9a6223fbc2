"""Every op, over all rows of the table in tests/ops/specs."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest

import gpubackprop.ops
from gpubackprop.backend import choose
from gpubackprop.errors import DeviceError
from gpubackprop.tape import Op
from tests.ops import harness
from tests.ops.specs import table

ROWS = table()
REMEDY = "run python -m scripts.record_references (needs PyTorch)"
each_row = pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.name)


def modules():
    return [
        importlib.import_module(f"gpubackprop.ops.{module.name}")
        for module in pkgutil.iter_modules(gpubackprop.ops.__path__)
    ]


def test_every_op_has_a_row():
    ops = {id(op): op for module in modules() for op in vars(module).values() if isinstance(op, Op)}
    missing = [op.name for key, op in ops.items() if key not in {id(row.op) for row in ROWS}]
    assert ops
    assert not missing, f"ops without a row in tests/ops/specs: {missing}"


def test_row_names_are_unique():
    names = [row.name for row in ROWS]
    assert sorted(names) == sorted(set(names))


@pytest.mark.oracle
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)], ids=["float64", "float32"])
@each_row
def test_forward_and_gradients_equal_pytorch(spec, dtype, tolerance):
    pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    inputs = harness.draw(spec, dtype)
    ys, dys, grads = harness.run(spec, inputs)
    torch_ys, torch_grads = harness.run_torch(spec, inputs, dys)
    assert all(y.dtype == dtype for y in ys)
    harness.assert_close(harness.named(ys, grads), harness.named(torch_ys, torch_grads), tolerance)


@pytest.fixture(scope="module")
def recorded():
    return harness.read_references()


@each_row
def test_forward_and_gradients_equal_the_recorded_reference(spec, recorded):
    inputs = harness.draw(spec)
    ys, _, grads = harness.run(spec, inputs)
    found = {name: harness.thinned(a) for name, a in harness.named(ys, grads).items()}
    assert spec.name in recorded, f"no reference was recorded for this row; {REMEDY}"
    checksum, values = recorded[spec.name]
    assert checksum == harness.fingerprint(inputs), f"recorded for other inputs; {REMEDY}"
    assert values.size == sum(a.size for a in found.values())
    wanted = np.split(values, np.cumsum([a.size for a in found.values()])[:-1])
    harness.assert_close(found, dict(zip(found, wanted, strict=True)), 1e-6)


def test_references_hold_nothing_but_the_rows_and_are_small(recorded):
    stale = set(recorded) - {row.name for row in ROWS}
    assert not stale, f"references without a row: {stale}; {REMEDY}"
    assert sum(path.stat().st_size for path in harness.REFERENCES.glob("*")) < 300_000


@each_row
def test_gradient_along_a_random_direction(spec):
    inputs = harness.draw(spec)
    ys, dys, grads = harness.run(spec, inputs)
    rng = np.random.default_rng(1)
    directions = {i: rng.normal(size=inputs[i].shape) for i in grads}
    for i, row in spec.fixed.items():
        directions[i][row] = 0

    def objective(t):
        moved = [a + t * directions[i] if i in directions else a for i, a in enumerate(inputs)]
        outputs, _ = harness.forward(spec, moved)
        return sum(np.sum(y * dy) for y, dy in zip(outputs, dys, strict=True) if dy is not None)

    step = 1e-6
    numerical = (objective(step) - objective(-step)) / (2 * step)
    analytical = sum(np.sum(grads[i] * directions[i]) for i in grads)
    scale = sum(np.sum(np.abs(grads[i] * directions[i])) for i in grads) + 1e-3 * np.abs(objective(0.0))
    assert np.abs(numerical - analytical) <= 1e-6 * scale + 1e-12
    assert len(ys) >= spec.outputs


def on(backend, spec, inputs):
    """Outputs and gradients by a backend inside a captured step, back on the host."""
    device_inputs = [None if a is None else backend.from_host(a) for a in inputs]
    ys, _ = harness.forward(spec, inputs)
    dys = [None if dy is None else backend.from_host(dy) for dy in harness.draw_dys(spec, ys)]

    def step():
        outputs, saved = harness.forward(spec, device_inputs, backend)
        return outputs, harness.backward(spec, device_inputs, saved, dys, b=backend)

    outputs, grads = backend.capture(step)()
    by_input = {i: backend.to_host(grads[i]) for i in harness.differentiable(spec, inputs)}
    return harness.named([backend.to_host(y) for y in outputs], by_input)


@each_row
def test_the_strict_backend_gives_exactly_numpys_results(spec):
    inputs = harness.draw(spec, np.float32)
    ys, _, grads = harness.run(spec, inputs)
    found = on(choose("strict")[0], spec, inputs)
    for name, wanted in harness.named(ys, grads).items():
        np.testing.assert_array_equal(found[name], wanted, err_msg=name, strict=True)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)], ids=["float64", "float32"])
@each_row
def test_cupy_equals_numpy(spec, dtype, tolerance):
    try:
        backend, _ = choose("cuda")
    except DeviceError as error:
        pytest.skip(str(error))
    inputs = harness.draw(spec, dtype)
    ys, _, grads = harness.run(spec, inputs)
    harness.assert_close(on(backend, spec, inputs), harness.named(ys, grads), tolerance)


@each_row
def test_non_contiguous_inputs(spec):
    inputs = harness.draw(spec)
    ys, dys, grads = harness.run(spec, inputs)
    views = [harness.scattered(a) for a in inputs]
    outputs, saved = harness.forward(spec, views)
    found = harness.backward(spec, views, saved, [harness.scattered(dy) for dy in dys])
    harness.assert_close(harness.named(outputs, {i: found[i] for i in grads}), harness.named(ys, grads), 1e-12)


@each_row
def test_empty_batch(spec):
    if not spec.batched:
        pytest.skip("this op does not take an empty batch")
    inputs = harness.empty(spec, harness.draw(spec))
    full_ys, _ = harness.forward(spec, harness.draw(spec))
    ys, _, grads = harness.run(spec, inputs)
    for y, full in zip(ys, full_ys, strict=True):
        assert y.shape == ((0, *full.shape[1:]) if full.ndim else ())
        assert np.isfinite(y).all()
    for i, grad in grads.items():
        assert i in spec.batched or not grad.any(), f"gradient {i} of an empty batch is not zero"


@each_row
def test_inputs_saved_and_dy_are_left_alone(spec):
    inputs = harness.lock(harness.draw(spec))
    ys, saved = harness.forward(spec, inputs)
    dys = harness.lock(harness.draw_dys(spec, ys))
    harness.lock(saved)
    harness.backward(spec, inputs, saved, dys)


@each_row
def test_slots_are_respected(spec):
    inputs = harness.draw(spec)
    _, dys, grads = harness.run(spec, inputs)
    _, saved = harness.forward(spec, inputs)
    for i, wanted in grads.items():
        out = np.full_like(inputs[i], np.nan)
        alone = harness.backward(spec, inputs, saved, dys, harness.only(i, inputs))[i]
        written = harness.backward(spec, inputs, saved, dys, harness.only(i, inputs, out))[i]
        assert harness.error(alone, wanted) < 1e-12
        assert harness.error(written, wanted) < 1e-12
