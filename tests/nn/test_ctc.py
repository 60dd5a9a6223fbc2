"""The CTC loss as a layer above its op: masks, PyTorch's mean, mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Tape
from gpubackprop.training.step import value_and_grad

TARGET = np.array([[1, 2, -100], [3, 3, 1]])


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(2, 8, 5))


@pytest.mark.oracle
def test_the_mean_is_pytorchs(logits):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    log_p = torch.log_softmax(torch.tensor(logits), -1).transpose(0, 1)
    wanted = torch.nn.CTCLoss()(log_p, torch.tensor(TARGET), torch.tensor([8, 8]), torch.tensor([2, 3]))
    assert nn.CTCLoss()(logits, TARGET) == pytest.approx(wanted.item(), rel=1e-12)


def test_the_output_is_as_long_as_its_mask(logits):
    times = np.arange(8) < np.array([[5], [8]])
    tape = Tape(choose("cpu")[0])
    apart = [float(nn.CTCLoss()(logits[:1, :5], TARGET[:1])), float(nn.CTCLoss()(logits[1:], TARGET[1:]))]
    total, weight = nn.CTCLoss().forward(tape.input(logits, mask=times), TARGET)
    assert (float(total.value), float(weight.value)) == pytest.approx((sum(apart), 2))
    total, _ = nn.CTCLoss().forward(tape.input(logits), TARGET, mask=times)
    assert total.value == pytest.approx(sum(apart))
    total, weight = nn.CTCLoss().forward(tape.input(logits, mask=times), TARGET, mask=np.array([True, False]))
    assert (float(total.value), float(weight.value)) == pytest.approx((apart[0], 1))


def test_mistakes(logits):
    loss = nn.CTCLoss(blank=4)
    with pytest.raises(ShapeError, match=r"needs logits \(T, V\) and labels \(S,\) of each sample"):
        loss.check((8, 5), ())
    with pytest.raises(ShapeError, match="outputs of 2 samples, targets of 3"):
        loss(logits, np.zeros((3, 2), int))
    with pytest.raises(ShapeError, match="blank is 4, but the model's 4 outputs are 0 to 3"):
        loss.check((8, 4), (3,))
    with pytest.raises(UsageError, match="needs label numbers, integers"):
        loss(logits, np.zeros((2, 3)))
    with pytest.raises(UsageError, match="a label stands behind padding"):
        loss.check_targets(np.array([[1, -100, 2]]))
    with pytest.raises(UsageError, match="target 4 of sample 0 at 1; it is the blank"):
        loss.check_targets(np.array([[1, 4, 2]]))
    with pytest.raises(UsageError, match="target 7 of sample 0 at 1; it is none of the model's 5 labels, 0 to 4"):
        loss(logits, np.array([[1, 7], [1, 1]]))


def test_targets_of_another_shape_are_named():
    model = nn.Sequential(nn.Linear(3, 5)).build((6, 3))
    with pytest.raises(ShapeError, match=r"labels \(S,\) of each sample, got outputs \(2, 6, 5\) and targets \(2,\)"):
        value_and_grad(model, nn.CTCLoss(), np.ones((2, 6, 3)), np.ones(2, int))
