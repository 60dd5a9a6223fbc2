"""Several heads: the weighted sum of their means, masks of their own, mistakes, the form in a config."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Tape
from tests.nn.test_layers import weighted_sum


@pytest.fixture
def loss():
    return nn.MultiTaskLoss({"digit": nn.CrossEntropyLoss(), "size": nn.MSELoss()}, {"size": 0.5})


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    outputs = {"digit": rng.normal(size=(6, 3)), "size": rng.normal(size=(6, 2))}
    return outputs, {"digit": rng.integers(0, 3, 6), "size": rng.normal(size=(6, 2))}


def forward(loss, outputs, targets, masks=None, **counts):
    tape = Tape(choose("cpu")[0], recording=True)
    tensors = {head: tape.input(a, needs_grad=True, mask=(masks or {}).get(head)) for head, a in outputs.items()}
    total, weight = loss.forward(tensors, targets, **counts)
    return total, weight, tensors


def test_the_mean_is_the_weighted_sum_of_the_heads_means(loss, batch):
    outputs, targets = batch
    wanted = nn.CrossEntropyLoss()(outputs["digit"], targets["digit"])
    wanted += 0.5 * nn.MSELoss()(outputs["size"], targets["size"])
    assert loss(*batch) == pytest.approx(wanted)
    assert loss(*batch).shape == ()


def test_gradients_are_the_heads_own_times_their_weights(loss, batch):
    outputs, targets = batch
    total, weight, tensors = forward(loss, outputs, targets)
    total.tape.backward(weighted_sum(total, 1 / weight.value))
    for head, own, scale in [("digit", nn.CrossEntropyLoss(), 1.0), ("size", nn.MSELoss(), 0.5)]:
        tape = Tape(choose("cpu")[0], recording=True)
        alone = tape.input(outputs[head], needs_grad=True)
        a, b = own.forward(alone, targets[head])
        tape.backward(weighted_sum(a, scale / b.value))
        np.testing.assert_allclose(tensors[head].grad, alone.grad)


def test_heads_that_have_no_loss_are_let_pass(batch):
    outputs, targets = batch
    assert nn.MultiTaskLoss({"size": nn.MSELoss()})(outputs, targets) == nn.MSELoss()(outputs["size"], targets["size"])


def test_the_mask_of_a_sequence_head_counts_for_it_alone(batch):
    rng = np.random.default_rng(1)
    outputs = {"tag": rng.normal(size=(6, 4, 3)), "size": batch[0]["size"]}
    targets = {"tag": rng.integers(0, 3, (6, 4)), "size": batch[1]["size"]}
    mask = np.arange(4) < np.array([[4], [2], [1], [3], [4], [1]])
    loss = nn.MultiTaskLoss({"tag": nn.CrossEntropyLoss(), "size": nn.MSELoss()})
    wanted = nn.CrossEntropyLoss()(outputs["tag"][mask], targets["tag"][mask])
    wanted += nn.MSELoss()(outputs["size"], targets["size"])
    for masks, given in [({"tag": mask}, None), (None, {"tag": mask})]:
        total, weight, _ = forward(loss, outputs, targets, masks, mask=given)
        assert weight.value == 6
        assert total.value / weight.value == pytest.approx(wanted)


def test_a_head_without_any_target_adds_nothing(loss, batch):
    outputs, targets = batch
    total, _, tensors = forward(loss, outputs, {**targets, "digit": np.full(6, -100)})
    assert total.value == pytest.approx(3 * nn.MSELoss()(outputs["size"], targets["size"]))
    total.tape.backward(total)
    assert not tensors["digit"].grad.any()


class TestMistakes:
    def test_a_weight_of_no_loss(self):
        with pytest.raises(UsageError, match=r"weights has 'dgit', losses has digit; .* did you mean 'digit'"):
            nn.MultiTaskLoss({"digit": nn.MSELoss()}, {"dgit": 1.0})

    def test_no_losses(self):
        with pytest.raises(UsageError, match="needs the loss of one head at least"):
            nn.MultiTaskLoss({})

    def test_outputs_of_one_head_alone(self, loss):
        with pytest.raises(ShapeError, match="needs outputs by head: digit, size; end the model with heads"):
            loss.check((10,), {"digit": (), "size": (2,)})

    def test_a_head_that_the_targets_lack(self, loss):
        with pytest.raises(ShapeError, match="a loss for head 'size'; targets are digit, sizes; did you mean 'sizes'"):
            loss.check({"digit": (10,), "size": (2,)}, {"digit": (), "sizes": (2,)})

    def test_a_heads_own_mistake_names_it(self, loss):
        with pytest.raises(ShapeError, match="head size: mse compares element by element"):
            loss.check({"digit": (10,), "size": (2,)}, {"digit": (), "size": (3,)})
        with pytest.raises(ShapeError, match="head digit: the model gives 3 outputs, the data has 10 classes"):
            loss.check({"digit": (3,), "size": (2,)}, {"digit": (), "size": (2,)}, {"digit": 10})
        with pytest.raises(UsageError, match="head digit: cross_entropy: target -3"):
            loss.check_targets({"digit": np.array([0, -3]), "size": np.zeros((2, 2))})
