"""Padding changes nothing: masked sequences side by side give what each gives alone, outputs and gradients."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError
from gpubackprop.tape import Tape
from tests.nn.test_layers import weighted_sum

LENGTHS = (5, 9, 1, 7, 3, 0)
LONGEST, CHANNELS = 9, 4

LAYERS = {
    "conv1d": lambda: nn.Conv1d(None, 3, 3),
    "conv1d, same": lambda: nn.Conv1d(None, 3, 3, padding="same", dilation=2),
    "conv1d, causal": lambda: nn.Conv1d(None, 3, 3, padding="causal", dilation=2),
    "conv1d, stride": lambda: nn.Conv1d(None, 3, 3, 2, 1),
    "conv1d, padding beyond the kernel": lambda: nn.Conv1d(None, 3, 2, 3, 2),
    "conv1d, depthwise": lambda: nn.Conv1d(None, 4, 3, padding=1, groups=4),
    "conv_transpose1d": lambda: nn.ConvTranspose1d(None, 3, 3),
    "conv_transpose1d, stride": lambda: nn.ConvTranspose1d(None, 3, 4, 2, 1),
    "conv_transpose1d, options": lambda: nn.ConvTranspose1d(None, 3, 3, 3, 1, 2, dilation=2),
    "max_pool1d": lambda: nn.MaxPool1d(2),
    "max_pool1d, padded": lambda: nn.MaxPool1d(3, 2, 1),
    "max_pool1d, dilation": lambda: nn.MaxPool1d(2, 1, dilation=3),
    "max_pool1d, ceil mode": lambda: nn.MaxPool1d(3, 3, 1, ceil_mode=True),
    "max_pool1d, ceil mode, stride beyond the kernel": lambda: nn.MaxPool1d(2, 3, 1, ceil_mode=True),
    "avg_pool1d": lambda: nn.AvgPool1d(3, 2, 1),
    "global_avg_pool1d": nn.GlobalAvgPool1d,
    "global_max_pool1d": nn.GlobalMaxPool1d,
    "squeeze_excite": lambda: nn.SqueezeExcite(2),
    "a chain": lambda: nn.Sequential(
        nn.Conv1d(None, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(None, 3, 2, padding=1), nn.GlobalAvgPool1d()
    ),
}


def run(layer, x, dy=None, mask=None):
    """y, and what comes back for `dy`: dx and the weights' gradients."""
    tape = Tape(layer.built.backend, recording=True)
    tensor = tape.input(x, needs_grad=True, mask=mask)
    y = layer.forward(tensor)
    layer.parameters().grad[...] = 0
    tape.backward(weighted_sum(y, np.ones(y.shape) if dy is None else dy))
    return y, tensor.grad, layer.parameters().grad.copy()


def fits(layer, length):
    try:
        layer.infer((length, CHANNELS), {})
    except ShapeError:
        return False
    return True


@pytest.mark.parametrize("name", LAYERS)
def test_masked_sequences_give_what_each_gives_alone(name):
    rng = np.random.default_rng(1)
    layer = LAYERS[name]().build((LONGEST, CHANNELS), precision="float64")
    x = rng.normal(size=(len(LENGTHS), LONGEST, CHANNELS)) - 2  # mostly negative: zeros of padding would win
    mask = np.arange(LONGEST) < np.array(LENGTHS)[:, None]
    x[~mask] = 1e3
    y, *_ = run(layer, x, mask=mask)
    dy = rng.normal(size=y.shape)
    if y.mask is not None:
        dy[~y.mask] = 0
    _, dx, dweights = run(layer, x, dy, mask)
    assert not dx[~mask].any()
    total = np.zeros_like(dweights)
    for i, length in enumerate(LENGTHS):
        if not length or not fits(layer, length):
            assert not (y.value if y.mask is None else y.mask)[i].any()
            continue
        wanted = layer.forward(Tape(layer.built.backend).input(x[i : i + 1, :length])).value
        count = wanted.shape[1]
        part = dy[i : i + 1] if y.mask is None else dy[i : i + 1, :count]
        alone, alone_dx, alone_dweights = run(layer, x[i : i + 1, :length], part)
        if y.mask is not None:
            np.testing.assert_array_equal(y.mask[i], np.arange(y.shape[1]) < count)
        found = y.value[i] if y.mask is None else y.value[i, :count]
        np.testing.assert_allclose(found, alone.value[0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(dx[i, :length], alone_dx[0], rtol=1e-12, atol=1e-14)
        total += alone_dweights
    np.testing.assert_allclose(dweights, total, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_masks_on_the_strict_device(name):
    x = np.random.default_rng(0).normal(size=(3, LONGEST, CHANNELS)).astype(np.float32)
    mask = np.arange(LONGEST) < np.array([[4], [9], [0]])
    found = {}
    for device in ("cpu", "strict"):
        backend, _ = choose(device)
        layer = LAYERS[name]().build((LONGEST, CHANNELS), device=device)
        arrays = backend.from_host(x), backend.from_host(mask)

        def step(layer=layer, backend=backend, arrays=arrays):
            return layer.forward(Tape(backend).input(arrays[0], mask=arrays[1]))

        y = backend.capture(step)()
        found[device] = backend.to_host(y.value), None if y.mask is None else backend.to_host(y.mask)
    # To rounding: on the CPU kernels may run.
    np.testing.assert_allclose(*(y for y, _ in found.values()), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(*(mask for _, mask in found.values()))


@pytest.mark.parametrize("layer", [nn.GlobalAvgPool1d, nn.GlobalMaxPool1d, lambda: nn.AdaptiveAvgPool1d(6)])
def test_a_mask_ends_where_there_is_no_sequence_even_if_the_sizes_agree(layer):
    x = np.ones((2, 6, 6))
    tape = Tape(choose("cpu")[0])
    assert layer().forward(tape.input(x, mask=np.ones((2, 6), bool))).mask is None


@pytest.mark.parametrize("device", ["cpu", "strict"])
@pytest.mark.parametrize(
    "layer", [nn.Softmax(1), nn.Softmax(-2), nn.LogSoftmax(1), nn.Upsample(scale_factor=2, mode="linear")]
)
def test_padding_has_no_share_in_what_mixes_positions(layer, device):
    layer.build((5, 4), 0, device, "float64")
    backend = layer.built.backend
    x, mask = np.random.default_rng(0).normal(size=(3, 5, 4)), np.arange(5) < np.array([[5], [2], [0]])
    found = []
    for noise in (0.0, 70.0):
        tape = Tape(backend, recording=True)
        tensor = tape.input(backend.from_host(x + noise * ~mask[..., None]), True, backend.from_host(mask))
        y = layer.forward(tensor)
        tape.backward(weighted_sum(y, backend.from_host(np.cos(np.arange(prod(y.shape))).reshape(y.shape))))
        found.append((backend.to_host(y.value), backend.to_host(tensor.grad)))
    (y, dx), (again, dx_again) = found
    real = mask if y.shape == x.shape else np.ones(y.shape[:2], bool)
    np.testing.assert_array_equal(y[real], again[real])
    np.testing.assert_array_equal(dx, dx_again)
    assert not dx[~mask].any()
    if isinstance(layer, nn.Softmax):
        np.testing.assert_allclose(y[:2].sum(axis=1), 1)
