"""Norms down columns on the test device: shapes, strips, arrays out of alignment, precision, and running statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda import grid
from gpubackprop.kernels.cuda.kernel import RULES
from gpubackprop.ops.batch_norm_act import batch_norm_add_relu, batch_norm_relu
from gpubackprop.ops.norm import (
    batch_norm,
    batch_norm_inference,
    masked_batch_norm,
    update_masked_statistics,
    update_statistics,
)
from gpubackprop.ops.sample_norm import group_norm, update_instance_statistics
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS, CudaBackend, TestDevice, doubles, inside_step
from tests.kernels.cuda.test_faults import broken
from tests.ops import harness
from tests.ops.specs import OpSpec

pytestmark = rows.needs_compiler
drawn = settings(max_examples=20, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64, bfloat16])
channels = st.sampled_from([1, 3, 4, 8, 10, 64, 130])
orders = st.sampled_from(ORDERS[1:])
RNG = np.random.default_rng(0)


def check(op, inputs, order="random", options=None, constants=(), **more):
    rows.check(OpSpec("drawn", op, None, None, options or {}, 1, constants), inputs, ("forward", order), **more)


def shifted(x):
    """The same numbers from a place that is no multiple of 16 bytes."""
    flat = np.empty(x.size + 1, x.dtype)[1:]
    flat[:] = x.reshape(-1)
    return flat.reshape(x.shape)


def drawn_inputs(shape, affine, dtype):
    x = RNG.normal(0.5, 1.5, size=shape).astype(dtype)
    return [x, *(RNG.normal(size=shape[-1:]).astype(dtype) if given else None for given in affine)]


@drawn
@given(st.integers(2, 90), channels, st.tuples(*[st.booleans()] * 2), st.booleans(), dtypes, orders)
def test_batch_norms(positions, width, affine, aligned, dtype, order):
    inputs = drawn_inputs((positions, width), affine, dtype)
    inputs = inputs if aligned else [shifted(inputs[0]), *inputs[1:]]
    shortcut = RNG.normal(size=(positions, width)).astype(dtype)
    tolerance = 0.05 if dtype is bfloat16 else 2e-5 if dtype is np.float32 else 1e-11  # of two values each, at worst
    for op, others in ((batch_norm, []), (batch_norm_relu, []), (batch_norm_add_relu, [shortcut])):
        check(op, [*inputs, *others], order, {"eps": 1e-2}, tolerance=tolerance)
    statistics = [RNG.normal(size=width).astype(dtype), RNG.uniform(0.5, 2, width).astype(dtype)]
    check(batch_norm_inference, [*inputs, *statistics], order, constants=(3, 4))


@drawn
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 3)),
    st.sampled_from([(1, 1), (4, 4), (6, 2), (8, 2), (20, 5), (64, 8), (130, 1)]),
    st.tuples(*[st.booleans()] * 3),
    dtypes,
    orders,
)
def test_norms_by_sample_and_with_masks(shape, groups, parts, dtype, order):
    *affine, masked = parts
    inputs = drawn_inputs((*shape, groups[0]), affine, dtype)
    mask = RNG.random(shape[:2]) < 0.6
    tolerance = 0.1 if dtype is bfloat16 else 1e-4 if dtype is np.float32 else 1e-11  # of two values each, at worst
    options = {"groups": groups[1], "eps": 1e-2}
    check(group_norm, [*inputs, mask if masked else None], order, options, tolerance=tolerance)
    check(masked_batch_norm, [*inputs, mask], order, {"eps": 1e-2}, tolerance=tolerance)


@pytest.mark.parametrize("blocks", [1, 3, 2048])
def test_rows_in_any_number_of_strips(monkeypatch, blocks):
    monkeypatch.setattr(grid, "BLOCKS", blocks)
    monkeypatch.setattr(grid, "TURNS", 1)
    check(
        batch_norm_add_relu,
        [*drawn_inputs((333, 12), (True, True), np.float32), RNG.normal(size=(333, 12)).astype(np.float32)],
    )
    check(group_norm, [*drawn_inputs((2, 400, 8), (True, True), np.float32), None], options={"groups": 2})


def test_a_mean_far_from_zero_costs_no_digits_of_the_variance():
    """E[x²] − E[x]² in float32 would have none left."""
    x = (3000 + RNG.normal(size=(1500, 4))).astype(np.float32)
    x[0] = 1e4  # nor does a first value that lies apart
    b = TestDevice()
    (_, mean, var), _ = b.pair(batch_norm, [x, None, None], {}).forward(b, b.from_host(x), None, None)
    np.testing.assert_allclose(b.to_host(mean), x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(b.to_host(var), x.var(axis=0, dtype=np.float64), rtol=2e-5)


def moved(b, function, running, *inputs, **options):
    """The running statistics after two updates, each inside a step."""
    running = [b.from_host(each.copy()) for each in running]
    inputs = [b.from_host(each) if isinstance(each, np.ndarray) else each for each in inputs]
    for _ in range(2):
        inside_step(b.rule(function))(b, *running, *inputs, **options)
    return [b.to_host(each) for each in running]


MASKS = [np.ones((6, 5), bool), np.zeros((6, 5), bool), np.arange(30).reshape(6, 5) == 7, RNG.random((6, 5)) < 0.5]
COUNTED = [(update_statistics, None), *((update_masked_statistics, mask) for mask in MASKS)]
BY_SAMPLE = [(update_instance_statistics, mask) for mask in (None, MASKS[0], MASKS[3])]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, bfloat16], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("function", "mask"), COUNTED + BY_SAMPLE)
def test_running_statistics_equal_the_references(function, mask, momentum, dtype):
    x = RNG.normal(0.5, 2, size=(6, 5, 2, 20)).astype(dtype)
    wide = np.float64 if dtype is np.float64 else np.float32
    running = [RNG.normal(size=20).astype(wide), RNG.uniform(0.5, 2, 20).astype(wide), np.array(3)]
    inputs = [x, mask, momentum]
    if function is update_statistics:
        over = x.astype(wide)
        inputs = [over.mean(axis=(0, 1, 2)), over.var(axis=(0, 1, 2)), 60, momentum]
    elif function is update_instance_statistics:
        running, inputs[2] = running[:2], momentum or 0.5
    assert function in RULES
    doubled = [each.astype(np.float64) if getattr(each, "dtype", None) in (dtype, wide) else each for each in inputs]
    wanted = moved(NumpyBackend(), function, [each.astype(np.float64) for each in running[:2]] + running[2:], *doubled)
    for order in ORDERS:
        device = TestDevice(order)
        found = moved(device, function, running, *inputs)
        assert device.double.launches == (2 if function is update_statistics else 6)
        for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert one.dtype == running[i].dtype
            np.testing.assert_allclose(one, other, rtol=1e-12 if wide is np.float64 else 1e-5, atol=1e-6)


def row(name):
    return next(spec for spec in rows.ROWS if spec.name == name)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("columns.cuh", "    __syncthreads();\n", ""),
        ("columns.cuh", "half = (rows + 1) / 2", "half = rows / 2"),
        ("columns.cuh", "k < at.count ? Acc<I>(row[at.start + k]) : Acc<I>(0)", "Acc<I>(row[at.start])"),
        ("channel_norm.cu", "off * off * part * one[2 * WIDTH]", "off * off * part"),
        ("channel_norm.cu", "value.at[k] > 0 ? dy.at[k]", "value.at[k] < 0 ? dy.at[k]"),
        ("channel_norm.cu", "means[group * 2 + 1] : Acc", "means[group * 2] : Acc"),
        ("channel_norm.cu", "weight && width == 1 ? Acc", "weight && width == 2 ? Acc"),
    ],
)
def test_a_broken_kernel_is_seen(tmp_path, file, right, wrong):
    spec = row("batch_norm_relu images")
    inputs = [each if i else np.tile(each, (3, 1, 1, 1)) for i, each in enumerate(harness.draw(spec, np.float32))]
    rows.check(spec, inputs)
    with pytest.raises(AssertionError):
        rows.check(spec, inputs, folder=broken(tmp_path, file, right, wrong))


def test_a_counter_that_is_read_while_it_is_written_is_seen(tmp_path):
    folder = broken(tmp_path, "running.cu", "  __syncthreads();  // all have read it\n", "")
    running = [np.zeros(40), np.ones(40), np.array(0)]
    mean, var = RNG.normal(size=(2, 40))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            *(
                moved(TestDevice(order, folder=folder), update_statistics, running, mean, var, 9, None)[0]
                for order in ORDERS[:2]
            )
        )


def train(device, precision):
    """Three steps of a model whose norms are followed by ReLU, and its predictions by the running statistics."""
    rng = np.random.default_rng(0)
    hidden = [nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm(8, momentum=None), nn.GroupNorm(2)]
    model = nn.Sequential(nn.Linear(6, 8), *hidden, nn.AvgPool1d(2), nn.GlobalMaxPool1d(), nn.Linear(8, 3))
    model.build((10, 6), 0, device, precision, "reference" if device == "cpu" else "auto")
    step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=1e-2))
    x, target = rng.normal(size=(4, 10, 6)), rng.integers(0, 3, 4)
    losses = [float(step([{"inputs": x, "targets": target}])) for _ in range(3)]
    return {"losses": np.array(losses), "predicted": model(x)} | model.state_dict()


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_captured_steps_equal_those_of_the_cpu(monkeypatch, precision, tolerance):
    wanted = train("cpu", precision)
    launched = set()
    right = CudaBackend.launch
    monkeypatch.setattr(CudaBackend, "launch", lambda self, *args: (launched.add(args[0].file), right(self, *args))[1])
    with doubles() as cupy:
        found = train("cuda", precision)
        assert cupy.device.launches == 2, "the second step is captured, and launched, and the third"
    assert {"channel_norm.cu", "running.cu", "pool.cu", "global_pool.cu"} <= launched
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)
