"""Convolutions on the test device: random windows, samples in pieces, groups, and which way each of them goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.kernels.cuda import conv as pairs
from gpubackprop.kernels.cuda import direct
from gpubackprop.kernels.cuda.im2col import Columns
from gpubackprop.kernels.cuda.matmul import Multiplier
from gpubackprop.ops.conv import Windows, conv, conv_transpose, output_size, transposed_size
from gpubackprop.ops.depthwise import depthwise_conv
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda import rows
from tests.kernels.cuda.cublaslt_double import CublasLtDouble
from tests.kernels.cuda.device import ORDERS, CudaBackend, TestDevice, doubles
from tests.ops import harness
from tests.ops.specs import OpSpec

pytestmark = rows.needs_compiler
drawn = settings(max_examples=40, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64, np.float16, bfloat16])
orders = st.sampled_from(ORDERS[1:])


def spec_of(op, **options):
    return OpSpec("drawn", op, None, None, options)


def arrays(*shapes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [None if shape is None else rng.normal(size=shape).astype(dtype) for shape in shapes]


@st.composite
def geometries(draw):
    """Sizes of an image, of a kernel, and the windows' options, by axis."""

    def numbers(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    axes = draw(st.integers(1, 3))
    size, kernel, stride, dilation = (numbers(1, high) for high in (9, 3, 3, 2))
    padding = tuple(zip(numbers(0, 2), numbers(0, 2), strict=True))
    return size, kernel, {"stride": stride, "padding": padding, "dilation": dilation}


@drawn
@given(geometries(), st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 2, 5, 8, 16]), dtypes, orders, st.data())
def test_random_windows(geometry, n, groups, group_in, dtype, order, data):
    size, kernel, options = geometry
    group_out, biased = data.draw(st.sampled_from([1, 3, 8])), data.draw(st.booleans())
    x, weight, bias = (n, *size, groups * group_in), (*kernel, group_in, groups * group_out), (groups * group_out,)
    assume(min(map(output_size, size, kernel, *options.values())) > 0)
    inputs = arrays(x, weight, bias if biased else None, dtype=dtype)
    rows.check(
        spec_of(conv, groups=groups, **options), inputs, ("forward", order), 2 * rows.TOLERANCES[inputs[0].dtype.name]
    )


@drawn
@given(geometries(), st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 2, 5, 8]), dtypes, orders, st.data())
def test_random_transposed_windows(geometry, n, groups, group_in, dtype, order, data):
    size, kernel, options = geometry
    group_out, biased = data.draw(st.sampled_from([1, 3, 8])), data.draw(st.booleans())
    more = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(options["stride"], options["dilation"], strict=True)
    )
    assume(min(map(transposed_size, size, kernel, *options.values(), more)) > 0)
    x, weight, bias = (n, *size, groups * group_in), (*kernel, group_out, groups * group_in), (groups * group_out,)
    inputs = arrays(x, weight, bias if biased else None, dtype=dtype)
    spec = spec_of(conv_transpose, groups=groups, output_padding=more, **options)
    rows.check(spec, inputs, ("forward", order), 2 * rows.TOLERANCES[inputs[0].dtype.name])


@drawn
@given(geometries(), st.integers(0, 3), st.sampled_from([1, 3, 8, 16]), st.sampled_from([1, 2, 4]), dtypes, orders)
def test_random_depthwise_windows(geometry, n, channels, each, dtype, order):
    size, kernel, options = geometry
    assume(min(map(output_size, size, kernel, *options.values())) > 0)
    inputs = arrays((n, *size, channels), (*kernel, 1, channels * each), (channels * each,), dtype=dtype)
    rows.check(
        spec_of(depthwise_conv, **options), inputs, ("forward", order), 2 * rows.TOLERANCES[inputs[0].dtype.name]
    )


ONE = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
BARE = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}


@pytest.mark.parametrize("few", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (bfloat16, 2**-8)], ids=["float32", "bfloat16"])
def test_samples_in_pieces_give_the_same_but_for_the_order_of_a_sum(monkeypatch, dtype, tolerance, few):
    inputs = arrays((40, 3, 2, 8), (3, 3, 8, 6), (6,), dtype=dtype)
    at_once = rows.on_device(spec_of(conv, **ONE), inputs)
    monkeypatch.setattr(CudaBackend, "scratch", few * 3 * 2 * 9 * 8 * inputs[0].itemsize)
    in_pieces = rows.on_device(spec_of(conv, **ONE), inputs)
    for name in ("y0", "d0", "d2"):
        assert np.array_equal(at_once[name], in_pieces[name]), name
    whole, summed = (found["d1"].astype(np.float64) for found in (at_once, in_pieces))
    assert harness.error(summed, whole) <= tolerance, "a sum that was rounded after each piece is off by more"


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_rows_of_columns_start_where_packs_do(dtype):
    b = TestDevice()
    x = b.from_host(arrays((2, 6, 6, 10), dtype=dtype)[0])
    lie = Windows(**ONE, groups=2)
    for _, piece in Columns(b, x, (3, 3), (6, 6), lie).pieces():
        assert piece.shape == (2, 72, 45)
        assert all(stride % 16 == 0 for stride in piece.strides[:2])


def launched(monkeypatch, spec, inputs):
    """The kernels of a forward and a backward pass."""
    found, right = [], CudaBackend.launch
    monkeypatch.setattr(
        CudaBackend,
        "launch",
        lambda self, source, name, *rest: (found.append(name), right(self, source, name, *rest))[1],
    )
    rows.check(spec, inputs, ("forward",))
    return [name.removesuffix("<{real}>") for name in found]


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((2, 4, 3, 8), (1, 1, 8, 5), BARE),
        ((2, 4, 3, 10), (1, 1, 5, 6), BARE | {"groups": 2}),
        ((2, 4, 3, 8), (4, 3, 8, 5), BARE | {"stride": (2, 2)}),
        ((2, 12, 8), (3, 8, 5), {"stride": (3,), "padding": ((0, 0),), "dilation": (1,)}),
    ],
)
def test_windows_that_lie_one_behind_the_other_are_not_copied(monkeypatch, x, weight, options):
    names = launched(monkeypatch, spec_of(conv, **options), arrays(x, weight, None))
    assert names == []


@pytest.mark.parametrize(
    ("x", "weight", "groups", "names"),
    [
        ((2, 5, 5, 8), (3, 3, 8, 4), 1, ["im2col", "col2im", "im2col", "strips", "add_strips"]),
        ((2, 5, 5, 8), (3, 3, 1, 8), 8, ["forward", "backward", "weight_strips", "add_strips"]),
        ((2, 5, 5, 3), (3, 3, 3, 8), 1, ["forward", "col2im", "weight_strips", "add_strips"]),
        ((2, 5, 5, 1), (3, 3, 1, 8), 1, ["forward", "col2im", "weight_strips", "add_strips"]),
    ],
)
def test_groups_of_few_channels_are_done_without_columns(monkeypatch, x, weight, groups, names):
    inputs = arrays(x, weight, weight[-1:])
    assert launched(monkeypatch, spec_of(conv, groups=groups, **ONE), inputs) == names


@pytest.mark.parametrize("interleaves", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_groups_whether_or_not_the_library_lets_their_results_interleave(monkeypatch, interleaves, transposed):
    done, multiply, right = [], Multiplier.__call__, CublasLtDouble.__post_init__

    def post_init(self):
        self.interleaves = interleaves
        right(self)

    def multiplied(self, a, b, out, **options):
        multiply(self, a, b, out, **options)
        done.append(out.ndim)
        return out

    monkeypatch.setattr(CublasLtDouble, "__post_init__", post_init)
    monkeypatch.setattr(Multiplier, "__call__", multiplied)
    inputs = arrays((2, 4, 5, 15), (3, 2, 5, 15), (15,))
    transpose = spec_of(conv_transpose, groups=3, output_padding=(0, 0), **ONE)
    rows.check(transpose if transposed else spec_of(conv, groups=3, **ONE), inputs, ("forward",))
    assert done == ([3] * 3 if interleaves else [2] * 9)


@pytest.mark.parametrize("op", [conv, depthwise_conv])
def test_a_nan_of_the_weight_shows_in_the_padding_as_in_the_reference(op):
    inputs = arrays((1, 4, 4, 8), (3, 3, 1 if op is depthwise_conv else 8, 8), (8,))
    inputs[1][0, 0] = np.nan
    with np.errstate(invalid="ignore"):
        (wanted,), _ = harness.forward(spec_of(op, **ONE), inputs)
    assert np.array_equal(np.isnan(rows.on_device(spec_of(op, **ONE), inputs)["y0"]), np.isnan(wanted))
    assert np.isnan(wanted).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bfloat16])
@pytest.mark.parametrize("shape", [(3, 40, 31, 8), (2, 1500, 3)])
def test_many_strips(dtype, shape):
    axes = len(shape) - 2
    options = {name: (1,) * axes for name in ("stride", "dilation")} | {"padding": ((1, 1),) * axes}
    inputs = arrays(shape, ((3,) * axes + (1, shape[-1])), shape[-1:], dtype=dtype)
    rows.check(spec_of(depthwise_conv, **options), inputs, ("random",), 2 * rows.TOLERANCES[inputs[0].dtype.name])


@pytest.mark.parametrize("start", [0, 1])
def test_arrays_that_begin_between_packs(start):
    b = TestDevice()
    x, weight = (b.from_host(a) for a in arrays((3, 5, 5, 8), (3, 3, 1, 8)))
    memory = b.empty((x.size + start,), x.dtype)
    moved = memory[start:].reshape(x.shape)
    moved[...] = x
    for op, options in ((depthwise_conv, ONE), (conv, ONE | {"groups": 8})):
        pair = b.pair(op, [x, weight, None], options)
        found, wanted = (b.to_host(pair.forward(b, a, weight, None, **options)[0]) for a in (moved, x))
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "number"), [("TAPS", 20), ("SUM_THREADS", 128), ("ADD_LINES", 4), ("ADD_COLUMNS", 16)]
)
def test_another_block_than_a_kernel_was_written_for_is_seen(monkeypatch, name, number):
    monkeypatch.setattr(direct, name, number)
    inputs = arrays((3, 9, 9, 40), (3, 5, 1, 40), (40,))
    with pytest.raises(AssertionError):
        rows.check(spec_of(depthwise_conv, **ONE), inputs)


def test_arrays_too_large_for_ints_are_left_to_the_reference():
    def shaped(*shape):
        return np.broadcast_to(np.float32(0), shape)

    weight = shaped(3, 3, 64, 64)
    assert pairs.fits([shaped(2, 1000, 1000, 64), weight, None], ONE)
    assert not pairs.fits([shaped(2, 2000, 2000, 64), weight, None], ONE)
    assert not pairs.fits([shaped(2**20, 100, 100, 64), weight, None], ONE)


def trained(device, kernels):
    """Losses and parameters of a small network after three steps."""
    transposed = nn.ConvTranspose2d(12, 5, 2, stride=2)
    deep = [nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1), nn.ReLU(), transposed, nn.ReLU()]
    model = nn.Sequential(nn.Conv2d(1, 8, 3), *deep, nn.Conv2d(5, 6, 3, stride=2), nn.Flatten(), nn.Linear(96, 3))
    model.build((7, 7, 1), 0, device, "float64", kernels)
    step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(4, 7, 7, 1)), rng.integers(0, 3, 4)
    losses = [float(step([{"inputs": x, "targets": target}])) for _ in range(3)]
    return {"losses": np.array(losses)} | model.state_dict()


def test_a_network_learns_as_on_the_cpu():
    wanted = trained("cpu", "reference")
    with doubles() as cupy:
        for name, found in trained("cuda", "auto").items():
            np.testing.assert_allclose(found, wanted[name], rtol=1e-10, atol=1e-12)
        assert cupy.device.launches == 2, "steps behind the first are a CUDA graph's"
