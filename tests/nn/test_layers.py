"""Every layer, over all rows of the table in tests/nn/specs."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.nn.layer import layers
from gpubackprop.tape import Op, Tape
from tests.nn.specs import table
from tests.ops.harness import assert_close

ROWS = table()
BATCH = 4
each_row = pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.name)
in_training = pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])

# Ends a tape in a number: the sum of y · dy, so that dy is what comes back.
weighted_sum = Op(lambda b, y, dy: ((y * dy).sum(), dy), lambda b, dy, scale, slots: (dy * scale, None))


def draw(spec):
    rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
    layer = spec.layer().build(spec.shape, seed=1, precision="float64")
    for segment in layer.parameters().segments:  # norm weights of one and biases of zero would hide mistakes
        segment.param.value += rng.normal(size=segment.param.shape) / 4
    shape = (BATCH, *spec.shape)
    return layer, rng.integers(0, spec.symbols, shape) if spec.symbols else rng.normal(size=shape), rng


def run(layer, x, rng, training, record=True):
    """Output, dy, and the gradients d<key> of x and all params; effects applied."""
    tape = Tape(layer.built.backend, training=training, recording=record, samples=np.arange(len(x)))
    tensor = tape.input(x, needs_grad=x.dtype.kind == "f")
    y = layer.forward(tensor)
    dy = rng.normal(size=y.shape)
    layer.parameters().grad[...] = 0
    tape.backward(weighted_sum(y, dy))
    tape.apply_effects()
    params = {f"d{s.name}": s.param.to_torch(s.param.grad) for s in layer.parameters().segments}
    return y.value, dy, params if tensor.grad is None else {"dx": tensor.grad} | params


def test_every_registered_layer_has_a_row():
    covered = {type(part) for spec in ROWS for _, part in spec.layer().walk()}
    covered |= {nn.Heads, nn.Share}  # the first gives several outputs, the second is another: test_graphs.py
    missing = [name for name in layers if layers[name] not in covered]
    assert not missing, f"layers without a row in tests/nn/specs: {missing}"


def test_every_registered_layer_is_exported_by_nn():
    exported = {thing for name, thing in vars(nn).items() if name in nn.__all__}
    missing = [name for name in layers if layers[name] not in exported]
    assert not missing, f"layers that gpubackprop.nn does not export: {missing}"


@pytest.mark.oracle
@in_training
@each_row
def test_output_gradients_and_state_equal_pytorch(spec, training):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    if training and spec.random:
        pytest.skip("random in training")
    layer, x, rng = draw(spec)
    module = spec.torch().double().train(training)
    module.load_state_dict({key: torch.tensor(a) for key, a in layer.state_dict().items()})
    y, dy, grads = run(layer, x, rng, training)

    there = torch.tensor(x, requires_grad=not spec.symbols)
    theirs = module(there.movedim(-1, 1) if spec.channels_first else there)
    theirs = theirs.movedim(1, -1) if spec.channels_first and theirs.ndim > 2 else theirs
    assert tuple(theirs.shape) == y.shape
    if theirs.requires_grad:
        (theirs * torch.tensor(dy)).sum().backward()
    wanted = {f"d{key}": p.grad for key, p in module.named_parameters()}
    wanted |= {} if spec.symbols else {"dx": there.grad}
    assert_close({"y": y} | grads, {"y": theirs.detach().numpy()} | {k: g.numpy() for k, g in wanted.items()}, 1e-10)

    ours, state = layer.state_dict(), {key: a.numpy() for key, a in module.state_dict().items()}
    assert list(ours) == list(state)
    for key, a in state.items():
        assert ours[key].dtype == a.dtype, key
        np.testing.assert_allclose(ours[key], a, rtol=1e-10, atol=1e-12, err_msg=key)


@pytest.mark.oracle
@each_row
def test_a_fresh_layer_takes_pytorchs_own_state(spec):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    rng = np.random.default_rng(zlib.crc32(spec.name.encode()))
    torch.manual_seed(int(rng.integers(2**31)))
    module = spec.torch().double().eval()
    for array in module.state_dict().values():  # norm weights of one and biases of zero would hide mistakes here too
        array += torch.tensor(rng.integers(1, 9) if array.ndim == 0 else rng.random(size=tuple(array.shape)) / 4)
    state = module.state_dict()
    layer = spec.layer().build(spec.shape, seed=2, precision="float64")
    layer.load_state_dict(state)

    shape = (BATCH, *spec.shape)
    x = rng.integers(0, spec.symbols, shape) if spec.symbols else rng.normal(size=shape)
    there = torch.tensor(x).movedim(-1, 1) if spec.channels_first else torch.tensor(x)
    with torch.no_grad():
        theirs = module(there)
    theirs = theirs.movedim(1, -1) if spec.channels_first and theirs.ndim > 2 else theirs
    assert_close({"y": layer(x)}, {"y": theirs.numpy()}, 1e-10)
    for key, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, state[key].numpy(), err_msg=key)


@in_training
@each_row
def test_gradient_along_a_random_direction(spec, training):
    layer, x, rng = draw(spec)
    state = layer.state_dict()
    _, dy, grads = run(layer, x, rng, training)
    layer.load_state_dict(state)
    flat = layer.parameters()
    direction, turn = rng.normal(size=x.shape), rng.normal(size=flat.value.shape)
    direction *= not spec.symbols
    for segment in flat.segments:
        if segment.param.fixed is not None:
            turn[segment.start : segment.stop].reshape(segment.param.shape)[segment.param.fixed] = 0

    def objective(t):
        tape = Tape(layer.built.backend, training=training, samples=np.arange(BATCH))
        flat.value += t * turn
        total = np.sum(layer.forward(tape.input(x if spec.symbols else x + t * direction)).value * dy)
        flat.value -= t * turn
        return total

    numerical = (objective(1e-6) - objective(-1e-6)) / 2e-6
    terms = [np.sum(grads.get("dx", 0) * direction), *(flat.grad * turn)]
    assert abs(numerical - sum(terms)) <= 1e-6 * np.abs(terms).sum() + 1e-9


@each_row
def test_output_shape_is_inferred(spec):
    layer, x, _ = draw(spec)
    fresh = spec.layer()
    fresh.link({})
    assert layer(x).shape == (BATCH, *fresh.infer(spec.shape, {}))


@each_row
def test_inference_changes_no_state(spec):
    layer, x, _ = draw(spec)
    before = layer.state_dict()
    first, second = layer(x), layer(x)
    np.testing.assert_array_equal(first, second)
    for key, a in layer.state_dict().items():
        np.testing.assert_array_equal(a, before[key])
