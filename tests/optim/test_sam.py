"""SAM: two gradients a step, against the package pytorch_optimizer; and what both gradients share."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.errors import UsageError
from gpubackprop.nn import CrossEntropyLoss
from gpubackprop.ops.activation import tanh
from gpubackprop.optim import SAM, SGD, Lookahead
from gpubackprop.training.step import TrainStep


def network(*layers, device="cpu"):
    layers = [nn.Linear(6, 8), nn.Tanh(), *layers, nn.Linear(8, 3)]
    return nn.Sequential(*layers).build((6,), 0, device, "float64")


def batches(count):
    rng = np.random.default_rng(3)
    return [(rng.normal(size=(10, 6)), rng.integers(0, 3, 10)) for _ in range(count)]


def trained(model, optimizer, count=10, **options):
    step = TrainStep(model, CrossEntropyLoss(), optimizer, **options)
    losses = [float(step(x, y)) for x, y in batches(count)]
    return losses, model.state_dict()


@pytest.mark.oracle
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_it_is_pytorch_optimizers(adaptive, clip_norm):
    torch = pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    package = pytest.importorskip("pytorch_optimizer", reason="needs pytorch_optimizer, in the [oracle] extra")
    model = network()
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in model.state_dict().items()})
    optimizer = package.SAM(
        theirs.parameters(), torch.optim.SGD, rho=0.3, adaptive=adaptive, lr=0.5, momentum=0.9, weight_decay=0.01
    )
    wanted = []
    for x, y in batches(10):
        for half in (optimizer.first_step, optimizer.second_step):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
            loss.backward()
            if half == optimizer.first_step:
                wanted.append(loss.item())
            elif clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
            half()
    params = model.parameters()
    inner = SGD(params, lr=0.5, momentum=0.9, weight_decay=0.01)
    losses, state = trained(model, SAM(params, inner, rho=0.3, adaptive=adaptive), clip_norm=clip_norm)
    # The package computes the norm of the first gradient in float32.
    np.testing.assert_allclose(losses, wanted, rtol=1e-8)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(state[key], value.numpy(), rtol=1e-6, atol=1e-7)


def test_both_gradients_see_the_same_dropout():
    plain, sharp = network(nn.Dropout(0.5)), network(nn.Dropout(0.5))
    losses, wanted = trained(plain, SGD(plain.parameters(), lr=0.5))
    params = sharp.parameters()
    found, state = trained(sharp, SAM(params, SGD(params, lr=0.5), rho=1e-9))
    np.testing.assert_allclose(found, losses, rtol=1e-7)
    for key, value in wanted.items():
        np.testing.assert_allclose(state[key], value, atol=1e-7)


def test_running_statistics_are_those_of_the_first():
    model = network(nn.BatchNorm1d(8))
    params = model.parameters()
    before = {k: v for k, v in model.state_dict().items()}
    (x, y), *_ = batches(1)
    TrainStep(model, CrossEntropyLoss(), SAM(params, SGD(params, lr=0.5), rho=5.0))(x, y)
    assert model.state_dict()["2.num_batches_tracked"] == 1
    hidden = np.tanh(x @ before["0.weight"].T + before["0.bias"])
    np.testing.assert_allclose(model.state_dict()["2.running_mean"], 0.1 * hidden.mean(0), rtol=1e-10)


def test_it_runs_in_a_captured_step(monkeypatch):
    from gpubackprop.backend.strict import StrictBackend

    model = network()
    wanted = trained(model, Lookahead(model.parameters(), SAM(model.parameters(), SGD(model.parameters()))))
    import_module("gpubackprop.kernels.cuda.backend")  # which inherits from what is put aside here
    monkeypatch.setattr("gpubackprop.backend.cuda.CupyBackend", lambda index=0: StrictBackend())
    model = network(device="cuda")
    found = trained(model, Lookahead(model.parameters(), SAM(model.parameters(), SGD(model.parameters()))))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)


def test_the_inner_optimizer_must_be_of_the_same_model():
    with pytest.raises(UsageError, match="SAM and its inner optimizer hold the parameters of different models"):
        SAM(network().parameters(), SGD(network().parameters()))
    with pytest.raises(UsageError, match="Lookahead takes a model's parameters, got SGD"):
        Lookahead(SGD(network().parameters()), None)


def test_both_gradients_begin_with_the_same_states():
    class Shift(nn.Layer):
        """Adds what it remembers, and remembers one more."""

        def forward(self, x):
            carry = x.tape.carry
            seen = carry["shift"][0][0] if "shift" in carry else 0
            carry["shift"] = [np.full(len(x.value), seen + 1)]
            return tanh(x) if seen % 2 else x

    losses = []
    for rho in (None, 1e-9):
        model = network(Shift())
        params = model.parameters()
        inner = SGD(params, lr=0.5)
        step = TrainStep(model, CrossEntropyLoss(), SAM(params, inner, rho=rho) if rho else inner)
        losses.append([float(step(x, y)) for x, y in batches(4)])
        assert step.carries[0]["shift"][0][0] == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-7)


def test_lookahead_around_lookahead_is_refused():
    params = network().parameters()
    inner = SAM(params, Lookahead(params, SGD(params)))
    with pytest.raises(UsageError, match="lookahead around lookahead"):
        Lookahead(params, inner)
