"""Random shapes and options on the test device: blocks of one warp and of many, rows that fill packs or do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.kernels.cuda import grid
from gpubackprop.ops import activation
from gpubackprop.ops.class_loss import focal
from gpubackprop.ops.loss import cross_entropy
from gpubackprop.ops.sample_norm import layer_norm, rms_norm
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import ORDERS
from tests.ops.specs import OpSpec

pytestmark = rows.needs_compiler
drawn = settings(max_examples=25, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64])
widths = st.sampled_from([1, 2, 3, 10, 31, 64, 129, 256, 515, 1000])
orders = st.sampled_from(ORDERS[1:])


def check(op, inputs, order, options=None, outputs=1, constants=()):
    spec = OpSpec("drawn", op, None, None, options or {}, outputs, constants)
    rows.check(spec, [None if a is None else np.asarray(a) for a in inputs], ("forward", order))


@drawn
@given(st.tuples(st.integers(0, 70), widths), st.booleans(), st.booleans(), dtypes, orders)
def test_norms(shape, weighted, biased, dtype, order):
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1.5, size=shape).astype(dtype)
    weight, bias = (rng.normal(size=shape[1:]).astype(dtype) if given else None for given in (weighted, biased))
    check(layer_norm, [x, weight, bias], order, {"eps": 1e-3})
    check(rms_norm, [x, weight], order, {"eps": 1e-3})


@drawn
@given(
    st.tuples(st.integers(1, 3), st.integers(0, 20), widths),
    st.tuples(*[st.booleans()] * 4),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([np.int64, np.int32, np.uint8]),
    dtypes,
    orders,
)
def test_cross_entropy(shape, parts, smoothing, kind, dtype, order):
    rng = np.random.default_rng(0)
    classed, weighted, masked, ignoring = parts
    target = rng.integers(0, min(shape[-1], 200), shape[:-1]).astype(kind)
    check(
        cross_entropy,
        [
            *(rng.normal(0, 3, size=shape).astype(dtype), target),
            rng.uniform(0.5, 2, shape[-1]).astype(dtype) if classed else None,
            rng.uniform(0.5, 2, shape[:1]).astype(dtype) if weighted else None,
            rng.random(shape[:2]) < 0.6 if masked else None,
        ],
        order,
        {"label_smoothing": smoothing, "ignore_index": 0 if ignoring else -100},
        outputs=1,
        constants=(2, 3),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_numbers_than_a_grid_has_threads(monkeypatch, dtype):
    monkeypatch.setattr(grid, "BLOCKS", 2)
    x = np.random.default_rng(0).normal(size=(3, 1777)).astype(dtype)
    for approximate in ("none", "tanh"):
        check(activation.gelu, [x], "reverse", {"approximate": approximate})


@pytest.mark.parametrize(("itemsize", "wanted"), [(2, 128), (4, 256), (8, 512)])
def test_each_thread_of_a_row_has_a_pack_of_it(itemsize, wanted):
    assert grid.row_threads(1024, itemsize) == (wanted,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_as_large_as_they_come(dtype):
    x = np.array([[1e4, -1e4, 0.0], [-3e30, 1.0, 2.0], [80.0, 81.0, 79.0]], dtype)
    check(cross_entropy, [x, np.array([1, 2, 0]), None, None, None], "random", outputs=1)


INF, NAN = np.inf, np.nan
PARTS = [slice(None), slice(1, None), slice(None, None, 2)]


@pytest.mark.parametrize(
    ("place", "value"), [*((part, -INF) for part in PARTS), (0, INF), (-1, INF), (0, NAN), (-1, NAN)]
)
@pytest.mark.parametrize("width", [5, 1100])
def test_what_is_not_finite_is_as_in_the_reference(width, place, value):
    x = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    x[1, place] = value
    target = [np.array([1, 0, 2]), None, None, None]
    for op, more, options in (
        *((activation.softmax, [], {}), (activation.log_softmax, [], {}), (focal, target, {"gamma": 2.0})),
        *((cross_entropy, target, {}), (cross_entropy, target, {"label_smoothing": 0.1})),
    ):
        spec = OpSpec("drawn", op, None, None, options, constants=(2, 3) if more else ())
        found = rows.on_device(spec, [x, *more])
        with np.errstate(all="ignore"):
            wanted = rows.reference(spec, [x, *more])
        for name, a in wanted.items():
            np.testing.assert_allclose(found[name], a, rtol=1e-5, atol=1e-5, err_msg=f"{name} of {op.name}")


def test_a_class_that_there_is_not_gives_nan():
    x, target = np.ones((2, 3), np.float32), np.array([1, 7])
    spec = OpSpec("drawn", cross_entropy, None, None)
    assert np.isnan(rows.on_device(spec, [x, target, None, None, None])["y0"])
