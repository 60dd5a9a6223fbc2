from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import choose
from gpubackprop.backend.philox import normal, philox, random_bits, stream_of, uniform

ONES = 0xFFFFFFFF


# The known answers of the Random123 distribution (kat_vectors, philox4x32, 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, (ONES, ONES), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(counter, key, answer):
    words = philox(tuple(np.array([word], np.uint64) for word in counter), key)
    assert [int(word[0]) for word in words] == answer


def test_a_sample_has_the_same_numbers_in_every_batch():
    whole = random_bits(np, 5, 6, 7, np.arange(10), 9)
    np.testing.assert_array_equal(random_bits(np, 5, 6, 7, np.array([8, 2]), 9), whole[[8, 2]])
    np.testing.assert_array_equal(random_bits(np, 5, 6, 7, np.arange(10), 3), whole[:, :3])


def test_every_part_of_the_key_matters():
    one = np.arange(1)
    draws = [
        random_bits(np, seed, stream, step, one, 4).tolist()
        for seed, stream, step in [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])


def test_step_may_be_an_array():
    np.testing.assert_array_equal(
        random_bits(np, 1, 2, np.array(3), np.arange(2), 5), random_bits(np, 1, 2, 3, np.arange(2), 5)
    )


def test_backends_agree():
    backend, _ = choose("strict")
    bits = backend.capture(random_bits)(
        backend.xp, 1, 2, backend.from_host(np.array(3)), backend.from_host(np.arange(4)), 6
    )
    np.testing.assert_array_equal(backend.to_host(bits), random_bits(np, 1, 2, 3, np.arange(4), 6))


def test_no_samples():
    assert random_bits(np, 0, 0, 0, np.arange(0), 5).shape == (0, 5)


def test_uniform_is_uniform():
    x = uniform(np, 0, stream_of("layer"), 0, np.arange(500), 200)
    assert x.dtype == np.float32
    assert 0 <= x.min() < 1e-4
    assert 1 - 1e-4 < x.max() < 1
    np.testing.assert_allclose(np.histogram(x, 10, (0, 1))[0] / x.size, 0.1, atol=0.005)


def test_streams_differ_by_path_and_call():
    streams = {stream_of(path, call) for path in ("", "0", "1", "0.1") for call in range(5)}
    assert len(streams) == 20


def test_normal_is_normal():
    x = normal(np, 0, stream_of("layer"), 0, np.arange(500), 201)
    assert x.shape == (500, 201)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    flat = x.astype(np.float64).ravel()
    moments = [flat.mean(), flat.var(), (flat**3).mean(), (flat**4).mean()]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.05)
    edges = [-2.0, -1.0, 0.0, 1.0, 2.0]
    np.testing.assert_allclose(
        [(flat < edge).mean() for edge in edges], [0.0228, 0.1587, 0.5, 0.8413, 0.9772], atol=0.004
    )
    neighbours = [
        np.corrcoef(x[:, :-1].ravel(), x[:, 1:].ravel())[0, 1],
        np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1],
    ]
    np.testing.assert_allclose(neighbours, 0, atol=0.015)  # the two numbers of a pair are among them
    assert abs(np.corrcoef(x[:, 0:200:2].ravel() ** 2, x[:, 1:200:2].ravel() ** 2)[0, 1]) < 0.02


def test_a_sample_has_the_same_normals_in_every_batch():
    whole = normal(np, 5, 6, 7, np.arange(10), 9)
    np.testing.assert_array_equal(normal(np, 5, 6, 7, np.array([8, 2]), 9), whole[[8, 2]])
    np.testing.assert_array_equal(normal(np, 5, 6, 7, np.arange(10), 3), whole[:, :3])
    assert normal(np, 0, 0, 0, np.arange(0), 5).shape == (0, 5)


def test_normals_of_the_backends_agree():
    backend, _ = choose("strict")
    found = backend.capture(normal)(
        backend.xp, 1, 2, backend.from_host(np.array(3)), backend.from_host(np.arange(4)), 7
    )
    np.testing.assert_array_equal(backend.to_host(found), normal(np, 1, 2, 3, np.arange(4), 7))
