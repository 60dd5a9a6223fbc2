"""cuDNN's pairs on the double, which computes the graphs that it was given, against the references in float64.

The op table's rows, and shapes that cuDNN takes where the rows' are too small for it. No GPU has run any of it.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.errors import DeviceError
from gpubackprop.kernels import cuda
from gpubackprop.kernels.cuda import cudnn_library
from gpubackprop.kernels.cuda.cudnn import TABLE, Cudnn
from gpubackprop.kernels.cuda.kernel import KERNELS
from gpubackprop.ops.attention import scaled_dot_product_attention, self_attention
from gpubackprop.ops.conv import conv, conv_transpose
from gpubackprop.ops.depthwise import depthwise_conv
from gpubackprop.ops.norm import batch_norm
from gpubackprop.tape import FREE
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda import rows
from tests.kernels.cuda.cudnn_double import CudnnDouble
from tests.kernels.cuda.device import TestDevice, doubles
from tests.ops import harness
from tests.ops.specs import OpSpec, table

SHORT = [np.float16, bfloat16]
DTYPES = [np.float32, *SHORT]
pytestmark = rows.needs_compiler
drawn = settings(max_examples=25, deadline=None, derandomize=True)
counts, dtypes, shorts = st.integers(1, 6), st.sampled_from(DTYPES), st.sampled_from(SHORT)


def Device(order="forward", folder=None, **options):
    """The test device with the double of cuDNN."""
    b = TestDevice(order)
    b.double = CudnnDouble(b.double.device)
    b.cudnn = Cudnn(
        b.double, b.double.address, lambda n: b.empty((n,), np.dtype(np.uint8)), lambda: 7,
        handle="handle", folder=folder, **options,
    )  # fmt: skip  # one argument list
    return b


@pytest.fixture(autouse=True)
def _on_the_double(monkeypatch):
    monkeypatch.setattr(rows, "TestDevice", Device)


def taken(spec, dtype):
    plans = Cudnn(CudnnDouble(), lambda array: 0, lambda count: None, handle="handle")
    return plans.pair(spec.op, harness.draw(spec, dtype), spec.options) is not None


def check(spec, dtype, **options):
    assert taken(spec, dtype)
    rows.check(spec, harness.draw(spec, dtype), ("forward",), **options)


def spec(op, shapes, constants=(), **options):
    """A row with normal numbers of these shapes."""

    def inputs(rng):
        return [None if shape is None else rng.normal(size=shape) for shape in shapes]

    return OpSpec("drawn", op, inputs, None, options, 1, constants)


ROWS = [row for row in table() if row.op in TABLE.kernels]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@pytest.mark.parametrize("dtype", [np.float64, *DTYPES], ids=lambda dtype: np.dtype(dtype).name)
@each_row
def test_rows(row, dtype):
    if taken(row, dtype):
        check(row, dtype)
    else:  # so it is by the library itself: test_cudnn_plans.py
        assert row.op not in (conv, conv_transpose, depthwise_conv) or "dilation, output padding" in row.name


def test_every_kind_of_convolution_is_taken():
    refused = {row.name for row in ROWS if row.op in (conv, conv_transpose) and not taken(row, np.float32)}
    assert refused == {"conv_transpose2d dilation, output padding", "conv_transpose2d 1x1, dilation, output padding"}


@drawn
@given(st.data(), st.integers(1, 3), dtypes, st.booleans(), st.booleans())
def test_convolutions(data, axes, dtype, biased, turned):
    def draw(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(axes))

    groups, each, out, n = (data.draw(st.integers(1, 3)) for _ in range(4))
    stride, dilation, kernel = draw(1, 3), draw(1, 2), draw(1, 3)
    padding = tuple(zip(draw(0, 2), draw(0, 2), strict=True))
    image = tuple(d * (k - 1) + 1 + more for d, k, more in zip(dilation, kernel, draw(0, 4), strict=True))
    windows = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    bias = (groups * (each if turned else out),) if biased else None
    weight = (*kernel, each, groups * out)
    if turned:
        windows["output_padding"] = (0,) * axes
        sizes = tuple(max(n, sum(p) + 1) for n, p in zip(draw(1, 4), padding, strict=True))
        check(spec(conv_transpose, [(n, *sizes, groups * out), weight, bias], **windows), dtype)
    else:
        check(spec(conv, [(n, *image, groups * each), weight, bias], **windows), dtype)


@drawn
@given(counts, counts, st.integers(2, 9), st.sampled_from([8, 16]), st.booleans(), shorts)
def test_self_attention(n, heads, t, size, causal, dtype):
    check(spec(self_attention, [(n, t, 3 * heads * size), None, None, None], num_heads=heads, causal=causal), dtype)


@drawn
@given(counts, counts, st.integers(1, 9), st.integers(2, 9), st.sampled_from([8, 24]), st.booleans(), shorts)
def test_attention(n, heads, t, s, wide, causal, dtype):
    s = max(s, t) if causal else s
    shapes = [(n, heads, t, 16), (n, heads, s, 16), (n, heads, s, wide), None, None, None]
    check(spec(scaled_dot_product_attention, shapes, causal=causal, scale=0.3), dtype)


@drawn
@given(st.sampled_from([(7,), (2, 3), (2, 3, 5), (2, 3, 2, 2)]), st.sampled_from([8, 24]), dtypes)
def test_batch_norm(shape, channels, dtype):
    check(spec(batch_norm, [(*shape, channels), (channels,), (channels,)], eps=1e-2), dtype)


@pytest.mark.parametrize(
    ("op", "inputs", "options"),
    [
        (self_attention, [np.ones((1, 2, 24), np.float32), None, None, None], {"num_heads": 1}),
        (self_attention, [np.ones((1, 2, 24), np.float16), None, None, None], {"num_heads": 1, "dropout": 0.1}),
        (self_attention, [np.ones((1, 2, 24), np.float16), np.ones((1, 2), bool), None, None], {"num_heads": 1}),
        (self_attention, [np.ones((1, 2, 15), np.float16), None, None, None], {"num_heads": 1}),
        (self_attention, [np.ones((1, 1, 24), np.float16), None, None, None], {"num_heads": 1}),
        (batch_norm, [np.ones((4, 3), np.float32), np.ones(3, np.float32), np.ones(3, np.float32)], {}),
        (batch_norm, [np.ones((4, 8), np.float32), None, None], {}),
        (batch_norm, [np.ones((1, 8), np.float32), *[np.ones(8, np.float32)] * 2], {}),
        (conv, [np.ones((0, 4, 1), np.float32), np.ones((1, 1, 2), np.float32), None], {
            "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}),
    ],
)  # fmt: skip  # a row each
def test_what_cudnn_does_not_take_is_left_to_others(op, inputs, options):
    b = Device()
    assert b.cudnn.pair(op, inputs, options) is None
    assert b.pair(op, inputs, options) not in TABLE.kernels.values()


@pytest.mark.parametrize("op", [conv, batch_norm])
def test_a_nan_gets_through(op):
    row = next(row for row in ROWS if row.op is op)
    inputs = (
        harness.draw(row, np.float32) if op is conv else [np.ones((3, 8), np.float32), *[np.ones(8, np.float32)] * 2]
    )
    inputs[0].reshape(-1)[0] = np.nan
    with np.errstate(invalid="ignore"):
        wanted = row.op.forward(rows.NumpyBackend(), *inputs, **row.options)[0]
    found = rows.on_device(row, inputs)
    first = wanted[0] if type(wanted) is tuple else wanted
    assert np.array_equal(np.isnan(found["y0"]), np.isnan(first))


SMALL = spec(conv, [(2, 5, 4, 3), (3, 3, 3, 2), (2,)], stride=(1, 1), padding=((1, 1),) * 2, dilation=(1, 1))


def step(b, dtype=np.float32):
    inputs = [b.from_host(a) for a in harness.draw(SMALL, dtype)]
    pair = b.pair(SMALL.op, inputs, SMALL.options)
    y, saved = pair.forward(b, *inputs, **SMALL.options)
    return [b.to_host(y), *map(b.to_host, pair.backward(b, saved, y, [FREE] * 3))]


def test_a_graph_is_planned_once_and_runs_on_the_current_stream():
    b = Device()
    first, second = step(b), step(b)
    assert len(b.double.built) == 3
    assert len(b.double.ran) == 1 + 6, "one forward pass is of the measurement between cuDNN and the kernel"
    assert set(b.double.streams) == {7}
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))


def test_plans_are_kept_on_disk(tmp_path):
    built, read = Device(folder=tmp_path), Device(folder=tmp_path)
    first, second = step(built), step(read)
    assert (len(built.double.built), len(read.double.built), len(read.double.read)) == (3, 0, 3)
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:40])
    assert len(step(again := Device(folder=tmp_path))) == 4
    assert len(again.double.built) == 3, "a file that is cut short is written anew"


@pytest.mark.parametrize("other", [{"machine": "another GPU"}, {"float32": "tf32"}])
def test_plans_of_another_machine_are_not_taken(tmp_path, other):
    step(Device(folder=tmp_path))
    b = Device(folder=tmp_path, **other)
    step(b)
    assert not b.double.read


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    step(Device(folder=tmp_path / "file" / "below"))


def test_tensor_cores_multiply_float32_only_when_asked():
    notes = CudnnDouble.numerical_note
    for options, dtype, unwanted in (
        ({}, np.float32, {notes.NONDETERMINISTIC, notes.DOWN_CONVERT_INPUTS, notes.TENSOR_CORE}),
        ({"float32": "tf32"}, np.float32, {notes.NONDETERMINISTIC, notes.DOWN_CONVERT_INPUTS}),
        ({}, bfloat16, {notes.NONDETERMINISTIC}),
    ):
        b = Device(**options)
        step(b, dtype)
        assert [set(graph.unwanted) for graph in b.double.built] == [unwanted] * 3


def test_a_refusal_says_why():
    b = Device()
    inputs = [np.ones((1, 2, 15), np.float16), None, None, None]
    assert b.cudnn.pair(self_attention, inputs, {"num_heads": 1}) is None
    assert any("hidden_dim" in reason for reason in b.cudnn.refused.values())
    with pytest.raises(RuntimeError, match="hidden_dim"):
        b.compute(next(iter(b.cudnn.refused)))


def test_a_measurement_chooses():
    b = Device()
    inputs = [b.from_host(a) for a in harness.draw(SMALL, np.float32)]
    seconds = iter([3.0, 1.0, 1.0, 3.0])

    def timed(call):
        call()
        return next(seconds) if call.__name__ == "both" else 1.0  # else it is a product's algorithm

    b.seconds = timed
    cudnn, kernel = b.cudnn.pair(conv, inputs, SMALL.options), KERNELS[conv]
    assert b.pair(conv, inputs, SMALL.options) is kernel
    other = [*inputs[:2], None]
    assert b.pair(conv, other, SMALL.options) is cudnn, "another situation"
    assert sorted(b.chosen.found.values()) == ["cudnn", "kernel"]
    again = Device()
    again.seconds = None  # nothing is measured
    again.adopt(b.choices)
    assert again.pair(conv, inputs, SMALL.options) is kernel
    assert again.pair(conv, other, SMALL.options).op is cudnn.op
    again.captures.capturing = True
    assert again.pair(conv, [inputs[0][:1], *inputs[1:]], SMALL.options) is not kernel, "the first, unmeasured"


def test_what_is_there_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", CudnnDouble())
    assert cudnn_library.describe() == "cuDNN 9.28.1 (nvidia-cudnn-frontend 1.28.0 (double))"
    monkeypatch.setattr(CudnnDouble, "backend_version_string", lambda self: 1 / 0)
    assert "can't be loaded (division by zero); install" in cudnn_library.describe()
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert "pip install '.[cuda13]'" in cudnn_library.describe()
    with pytest.raises(DeviceError, match="nvidia-cudnn-frontend is missing"):
        cudnn_library.import_cudnn()


def test_one_that_cannot_be_opened_or_does_not_start_is_done_without(monkeypatch):
    class Broken:
        """A finder of modules: the package opens its library when it is imported."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "cudnn":
                raise AssertionError("two libraries")

    with doubles(cudnn=CudnnDouble()):
        monkeypatch.setattr(CudnnDouble, "create_handle", lambda self: 1 / 0)
        with pytest.warns(RuntimeWarning, match="no cuDNN: it does not start \\(division by zero\\); own kernels"):
            assert cuda.load().cudnn is None
    with doubles():
        monkeypatch.delitem(sys.modules, "cudnn")
        monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
        assert cuda.load().cudnn is None
        assert "can't be loaded (two libraries); install" in cudnn_library.describe()


def train(device):
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.ConvTranspose2d(8, 4, 2, stride=2)]
    model = nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Linear(4, 3))
    model.build((6, 6, 3), 0, device, "float32", "reference" if device == "cpu" else "auto")
    step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
    rng = np.random.default_rng(0)
    drawn = [{"inputs": rng.normal(size=(5, 6, 6, 3)), "targets": rng.integers(0, 3, 5)} for _ in range(4)]
    return {"losses": np.array([float(step([batch])) for batch in drawn])} | step.model.state_dict()


def test_steps_are_captured_with_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path))
    wanted, library = train("cpu"), CudnnDouble()
    with doubles(cudnn=library) as cupy:
        library.device = cupy.device
        found = train("cuda")
        assert cupy.device.launches == 3
        assert "cuDNN 9.28.1" in cuda.load().describe()
    kinds = {node[0] for graph in library.ran for node in graph.nodes}
    assert {"conv_fprop", "conv_dgrad", "conv_wgrad", "batchnorm", "batchnorm_backward"} <= kinds
    assert len(library.built) == len([*tmp_path.rglob("*.plan")]) == 8
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
