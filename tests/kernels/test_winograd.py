"""Winograd's convolution beside the reference, both tiles, all directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.conv import Windows, conv
from gpubackprop.tape import FREE
from tests.kernels import harness

pytest.importorskip("numba", reason="Numba, which compiles the kernels, is not installed")
pytest.importorskip("gpubackprop.kernels.cpu.blas", exc_type=Exception, reason="no kernels here")

from gpubackprop.kernels.cpu import winograd
from gpubackprop.kernels.cpu.winograd_tiles import matrices

# Winograd's sums have other rounding errors than plain ones: in float64 a few more than the reference's own.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
both_tiles = pytest.mark.parametrize("m", [2, 4])
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def draw(batch, size, inner, outer, padding, bias=True, dtype=np.float32):
    rng = np.random.default_rng(batch + inner + outer)
    out = tuple(s + sum(p) - 2 for s, p in zip(size, padding, strict=True))
    shapes = (batch, *size, inner), (3, 3, inner, outer), (outer,), (batch, *out, outer)
    x, weight, biases, dy = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    return x, weight, biases if bias else None, dy, Windows((1, 1), padding, (1, 1), 1)


def reference(x, weight, bias, dy, lie):
    wide = [None if a is None else a.astype(np.float64) for a in (x, weight, bias, dy)]
    b = NumpyBackend()
    y, saved = conv.forward(b, *wide[:3], **lie._asdict())
    return [y, *conv.backward(b, saved, wide[3], [FREE, FREE, FREE])[:2]]


def found(b, m, x, weight, bias, dy, lie):
    dweight = np.full_like(weight, np.nan)
    winograd.backward_weights(m, b, x, dy, weight.shape, lie, dweight)
    return [
        winograd.forward(m, b, x, weight, bias, lie),
        winograd.backward_data(m, b, dy, weight, x.shape, lie),
        dweight,
    ]


def assert_near(some, others, tolerance):
    for name, a, other in zip(("y", "dx", "dweight"), some, others, strict=True):
        assert a.shape == other.shape
        assert np.abs(a - other).max(initial=0) <= tolerance * np.abs(other).max(initial=0), name


sides = st.tuples(st.integers(0, 2), st.integers(0, 2))


@both_dtypes
@both_tiles
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 4),
    size=st.tuples(st.integers(3, 14), st.integers(3, 14)),
    inner=st.integers(1, 70),
    outer=st.integers(1, 70),
    padding=st.tuples(sides, sides),
    bias=st.booleans(),
    threads=st.sampled_from([2, 4]),
)
def test_any_shape_equals_the_reference(m, dtype, batch, size, inner, outer, padding, bias, threads):
    drawn = draw(batch, size, inner, outer, padding, bias, dtype)
    kept = [None if a is None else np.array(a) for a in drawn[:4]]
    b = harness.backend(threads)
    first = [np.array(a) for a in found(b, m, *drawn)]
    assert all(a.dtype == dtype for a in first)
    assert_near(first, reference(*drawn), TOLERANCE[dtype])
    assert all(map(np.array_equal, first, found(b, m, *drawn))), "another result at the second run"
    for a, before in zip(drawn[:4], kept, strict=True):
        assert a is None or np.array_equal(a, before), "an input was written to"


@both_tiles
@pytest.mark.parametrize(("inner", "outer"), [(512, 24), (16, 512), (256, 256)])
def test_many_channels_lose_no_precision_and_may_be_shared(m, inner, outer):
    drawn = draw(2, (9, 8), inner, outer, ((1, 1), (1, 1)))
    wanted = reference(*drawn)
    for threads in (1, 2, 4):  # 4: channels shared by all, by none, by pairs
        assert_near(found(harness.backend(threads), m, *drawn), wanted, 1e-5)


@both_tiles
def test_images_of_many_blocks(m, monkeypatch):
    monkeypatch.setattr(winograd, "CACHE", 1)
    monkeypatch.setattr(winograd, "FEWEST", 7)  # tiles: blocks end within images and across them
    drawn = draw(5, (9, 13), 16, 16, ((1, 1), (0, 1)))
    assert_near(found(harness.backend(2), m, *drawn), reference(*drawn), 1e-5)


@both_tiles
def test_an_empty_batch_has_a_gradient_of_zeros(m):
    drawn = draw(0, (8, 8), 16, 16, ((1, 1), (1, 1)))
    y, dx, dweight = found(harness.backend(2), m, *drawn)
    assert y.shape == (0, 8, 8, 16)
    assert dx.shape == (0, 8, 8, 16)
    assert not dweight.any()


@both_tiles
def test_a_nan_comes_out_where_the_reference_has_one(m):
    drawn = draw(1, (12, 12), 16, 16, ((1, 1), (1, 1)))
    drawn[0][0, 5, 6, 3] = np.nan
    y, _, dweight = found(harness.backend(1), m, *drawn)
    wanted, _, wanted_dweight = reference(*drawn)
    assert np.isnan(y[np.isnan(wanted)]).all()
    assert np.isfinite(y[:, -m:]).all(), "it went further than its tiles"
    assert np.isnan(dweight[np.isnan(wanted_dweight)]).all()


@both_tiles
def test_the_matrices_give_short_convolutions(m):
    a, b, g = matrices(m)
    rng = np.random.default_rng(0)
    d, w = rng.normal(size=m + 2), rng.normal(size=3)
    assert np.allclose(a.T @ ((g @ w) * (b.T @ d)), np.correlate(d, w), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["winograd2", "winograd4"])
def test_the_op_takes_it_when_told_so(name, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_CONV", name)
    x, weight, bias, _, lie = draw(3, (6, 6) if name == "winograd2" else (7, 8), 17, 20, ((1, 1), (1, 1)))
    taken = []
    convolve = winograd.forward
    whole = winograd.ALGORITHMS[name]
    monkeypatch.setitem(
        winograd.ALGORITHMS,
        name,
        whole._replace(forward=lambda *args: taken.append(name) or convolve(int(name[-1]), *args)),
    )
    harness.assert_equals_reference(harness.backend(2), conv, (x, weight, bias), lie._asdict())
    assert taken


ONES = Windows((1, 1), ((1, 1), (1, 1)), (1, 1), 1)


@pytest.mark.parametrize(
    ("size", "weight", "lie", "taken"),
    [
        ((32, 32), (3, 3, 16, 16), ONES, 4),
        ((7, 7), (3, 3, 16, 16), ONES, 4),
        ((6, 6), (3, 3, 16, 16), ONES, 2),
        ((2, 2), (3, 3, 16, 16), ONES, 2),
        ((1, 1), (3, 3, 16, 16), ONES, None),
        ((32, 32), (3, 3, 3, 16), ONES, None),
        ((32, 32), (5, 5, 16, 16), ONES, None),
        ((32, 32), (3, 3, 16, 16), ONES._replace(stride=(2, 2)), None),
        ((32, 32), (3, 3, 16, 16), ONES._replace(dilation=(2, 1)), None),
        ((32, 32), (3, 3, 8, 16), ONES._replace(groups=2), None),
        ((32, 32), (3, 3, 16, 16), ONES._replace(padding=((3, 0), (0, 0))), None),
        ((32,), (3, 16, 16), Windows((1,), ((1, 1),), (1,), 1), None),
    ],
)
def test_what_it_fits(size, weight, lie, taken):
    for m in (2, 4):
        fits = winograd.ALGORITHMS[f"winograd{m}"].fits
        assert fits((2, *size, weight[-2]), weight, lie, np.float32) == (m == taken)
        assert not fits((2, *size, weight[-2]), weight, lie, np.float16)
