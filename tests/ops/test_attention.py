from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.attention import scaled_dot_product_attention
from gpubackprop.ops.position import rotary
from gpubackprop.tape import FREE, SKIP
from tests.ops.harness import assert_close
from tests.ops.specs.attention import sdpa

B = NumpyBackend()
SLOTS = [FREE, FREE, FREE, SKIP, SKIP, SKIP]


def run(q, k, v, mask, dy, **options):
    y, saved = scaled_dot_product_attention.forward(B, q, k, v, mask, None, 0, **options)
    return y, scaled_dot_product_attention.backward(B, saved, dy, SLOTS)[:3]


@pytest.mark.oracle
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(1, 7)] * 4),
    causal=st.booleans(),
    masked=st.booleans(),
    scale=st.sampled_from([None, 0.2]),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_any_mask_equal_pytorch(sizes, causal, masked, scale, seed):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    n, h, t, s, d, width = sizes
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(n, h, *size)) for size in ((t, d), (s, d), (s, width)))
    mask = rng.random((n, s)) < 0.6 if masked else None
    dy = rng.normal(size=(n, h, t, width))
    y, grads = run(q, k, v, mask, dy, causal=causal, scale=scale)

    there = [torch.tensor(a, requires_grad=True) for a in (q, k, v)]
    theirs = sdpa(*there, None if mask is None else torch.tensor(mask), None, None, causal=causal, scale=scale)
    (theirs * torch.tensor(dy)).sum().backward()
    wanted = {"y": theirs.detach().numpy()} | {f"d{i}": a.grad.numpy() for i, a in enumerate(there)}
    assert_close({"y": y} | {f"d{i}": g for i, g in enumerate(grads)}, wanted, 1e-10)


def test_a_query_that_sees_no_key_gives_zero_and_passes_nothing_back(rng):
    q, k, v, dy = (rng.normal(size=(2, 2, 3, 4)) for _ in range(4))
    mask = np.array([[False] * 3, [True] * 3])
    y, grads = run(q, k, v, mask, dy)
    assert not y[0].any()
    assert y[1].all()
    for grad in grads:
        assert not grad[0].any()
        assert np.isfinite(grad).all()


def test_values_behind_the_mask_are_not_seen_however_large(rng):
    q, k, v, dy = (rng.normal(size=(1, 2, 4, 3)).astype(np.float32) for _ in range(4))
    mask = np.array([[True, True, False, False]])
    wild_k, wild_v = k.copy(), v.copy()
    wild_k[:, :, 2:], wild_v[:, :, 2:] = 1e15, -1e15
    y, grads = run(q, k, v, mask, dy)
    wild_y, wild_grads = run(q, wild_k, wild_v, mask, dy)
    np.testing.assert_array_equal(wild_y, y)
    for i in (1, 2):
        assert not grads[i][:, :, 2:].any()
        np.testing.assert_array_equal(wild_grads[i][:, :, 2:], 0)


def test_large_scores_do_not_overflow(rng):
    q = np.full((1, 1, 2, 4), 1e4, np.float32)
    y, _ = run(q, q, q, None, q)
    np.testing.assert_allclose(y, q)


def test_rotary_makes_scores_depend_on_the_distance_alone(rng):
    q, k = (np.broadcast_to(rng.normal(size=8), (1, 1, 6, 8)) for _ in range(2))
    for pairs in ("halves", "neighbours"):
        a, b = (rotary.forward(B, x, pairs=pairs)[0][0, 0] for x in (q, k))
        scores = a @ b.T
        for distance in range(-5, 6):
            np.testing.assert_allclose(np.ptp(np.diagonal(scores, distance)), 0, atol=1e-12)
        assert np.ptp(scores[0]) > 0.1


def test_rotary_of_a_piece_is_a_piece_of_the_whole(rng):
    x = rng.normal(size=(2, 3, 7, 4)).astype(np.float32)
    whole, _ = rotary.forward(B, x)
    np.testing.assert_array_equal(rotary.forward(B, x[:, :, 3:], offset=3)[0], whole[:, :, 3:])
