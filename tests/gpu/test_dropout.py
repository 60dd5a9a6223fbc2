"""What is drawn at random is the same on a GPU, bit by bit; normal numbers to rounding."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import NumpyBackend, philox
from gpubackprop.ops.dropout import dropout, dropout_mask
from gpubackprop.tape import Tape

pytestmark = pytest.mark.gpu
STEPS = [0, 1, 12345, 2**32 - 1]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [1, 4, 1023])
def test_random_bits(cuda, step, count):
    for seed, stream in ((0, 0), (2**40 + 3, 2**32 - 1)):
        samples = np.array([0, 1, 7, 2**20])
        wanted = philox.random_bits(np, seed, stream, step, samples, count)
        for given in (step, cuda.from_host(np.array(step, np.uint64))):
            found = philox.random_bits(cuda.xp, seed, stream, given, cuda.from_host(samples), count)
            np.testing.assert_array_equal(cuda.to_host(found), wanted, strict=True)
        drawn = cuda.to_host(philox.normal(cuda.xp, seed, stream, step, cuda.from_host(samples), count))
        np.testing.assert_allclose(drawn, philox.normal(np, seed, stream, step, samples, count), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_masks(cuda, p, step):
    host, options = NumpyBackend(), {"p": p, "seed": 3, "stream": 99}
    samples, number = np.arange(5, 45), np.array(step, np.uint64)
    shape = (40, 7, 33)
    wanted = dropout_mask(host, shape, samples, number, **options)
    found = cuda.rule(dropout_mask)(cuda, shape, cuda.from_host(samples), cuda.from_host(number), **options)
    np.testing.assert_array_equal(cuda.to_host(found), wanted, strict=True)
    x = np.ones(shape, np.float32)
    arrays = [cuda.from_host(each) for each in (x, samples, number)]
    y, _ = cuda.pair(dropout, arrays, options).forward(cuda, *arrays, **options)
    np.testing.assert_array_equal(cuda.to_host(y) != 0, wanted & (p < 1))


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.Dropout1d(0.3)], ids=["elements", "channels"])
def test_layers_drop_the_same(cuda, layer):
    x, found = np.ones((6, 9, 8), np.float32), {}
    for backend in (NumpyBackend(), cuda):
        model = nn.Sequential(type(layer)(0.3))
        model.build((9, 8), 0, backend.device, "float32")
        samples = backend.xp.arange(10, 16)
        tape = Tape(backend, training=True, seed=11, step=4, samples=samples)
        found[backend.name] = backend.to_host(model.forward(tape.input(backend.from_host(x))).value)
    numpy, other = found.values()
    assert 0 < (numpy == 0).mean() < 1
    np.testing.assert_array_equal(other, numpy, strict=True)
