"""Losses of classes beyond cross entropy: PyTorch's means over drawn shapes and options, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Tape
from tests.nn.test_layers import weighted_sum

LEADING = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
CLASSES = {
    "NLLLoss": {"ignore_index": st.sampled_from([-100, 0])},
    "CrossEntropyLoss": {"ignore_index": st.sampled_from([-100, 0]), "label_smoothing": st.sampled_from([0.0, 0.3])},
    "HingeLoss": {"p": st.sampled_from([1, 2]), "margin": st.sampled_from([0.5, 2.0])},
}
ELEMENTS = {
    "KLDivLoss": {"log_target": st.booleans()},
    "SmoothL1Loss": {"beta": st.sampled_from([0.0, 0.1, 2.0])},
    "HuberLoss": {"delta": st.sampled_from([0.1, 2.0])},
    "BCEWithLogitsLoss": {},
}
THEIRS = {"HingeLoss": "MultiMarginLoss"}


@pytest.mark.oracle
@pytest.mark.parametrize("name", [*CLASSES, *ELEMENTS])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_means_and_gradients_equal_pytorchs(name, data):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    options = data.draw(st.fixed_dictionaries(CLASSES.get(name, {}) | ELEMENTS.get(name, {})))
    leading, classes = data.draw(LEADING), data.draw(st.integers(2, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = 2 * rng.normal(size=(*leading, classes))
    theirs, ours = dict(options), dict(options)
    if name in CLASSES:
        target = rng.integers(0, classes, leading)
        target.flat[0] = 1  # not all of them ignored
        if data.draw(st.booleans()):
            ours["weight"] = rng.uniform(0.5, 2, classes).tolist()
            theirs["weight"] = torch.tensor(ours["weight"], dtype=torch.float64)
    else:
        target = torch.softmax(torch.tensor(rng.normal(size=logits.shape)), -1)
        target = (target.log() if options.get("log_target") else target).numpy()
    x = torch.log_softmax(torch.tensor(logits), -1).numpy() if name in ("NLLLoss", "KLDivLoss") else logits
    if name == "KLDivLoss":
        theirs["reduction"] = "batchmean"
    there = torch.tensor(x.reshape(-1, classes), requires_grad=True)
    flat = torch.tensor(target.reshape(-1) if name in CLASSES else target.reshape(-1, classes))
    wanted = getattr(torch.nn, THEIRS.get(name, name))(**theirs)(there, flat)
    wanted.backward()

    tape = Tape(choose("cpu")[0], recording=True)
    here = tape.input(x, needs_grad=True)
    total, weight = getattr(nn, name)(**ours).forward(here, target)
    tape.backward(weighted_sum(total, 1 / weight.value))
    assert total.value / weight.value == pytest.approx(wanted.item(), rel=1e-10, abs=1e-14)
    np.testing.assert_allclose(here.grad.reshape(there.shape), there.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_focal_with_gamma_0_is_cross_entropy():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(9, 4)), rng.integers(0, 4, 9)
    assert nn.FocalLoss(gamma=0.0)(logits, target) == pytest.approx(nn.CrossEntropyLoss()(logits, target))
    assert nn.FocalLoss()(logits, target) < nn.CrossEntropyLoss()(logits, target)
    doubled = nn.FocalLoss(alpha=[2.0] * 4)(logits, target)
    assert doubled == pytest.approx(2 * nn.FocalLoss()(logits, target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_focal_losses_of_extreme_logits_are_finite(gamma, dtype):
    x = np.array([[1e4, 0.0], [-1e4, 0.0], [0.0, 0.0], [60.0, 0.0]], dtype)
    for loss, target in [(nn.FocalLoss(gamma), np.zeros(4, int)), (nn.BinaryFocalLoss(gamma=gamma), np.ones((4, 2)))]:
        tape = Tape(choose("cpu")[0], recording=True)
        here = tape.input(x, needs_grad=True)
        total, _ = loss.forward(here, target)
        tape.backward(total)
        assert np.isfinite(total.value)
        assert np.isfinite(here.grad).all()


def test_kl_div_of_a_distribution_from_itself_is_zero():
    log_p = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    assert nn.KLDivLoss()(log_p, np.exp(log_p)) == pytest.approx(0, abs=1e-15)
    assert nn.KLDivLoss(log_target=True)(log_p, log_p) == 0
    assert nn.KLDivLoss()(log_p[:1], np.array([[1.0, 0.0, 0.0]])) == pytest.approx(np.log(2))


def test_mistakes():
    with pytest.raises(ShapeError, match="kl_div compares element by element"):
        nn.KLDivLoss()(np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(ShapeError, match=r"weight or mask of shape \(4, 3\) does not fit \(4,\)"):
        nn.KLDivLoss().forward(
            Tape(choose("cpu")[0]).input(np.zeros((4, 3))), np.ones((4, 3)), mask=np.ones((4, 3), bool)
        )
    with pytest.raises(UsageError, match=r"binary_focal: target 0\.5 of sample 1; targets are 0 or 1"):
        nn.BinaryFocalLoss().check_targets(np.array([0.0, 0.5]))
    with pytest.raises(UsageError, match="hinge: target 99 of sample 2; it is none of the model's 3 classes, 0 to 2"):
        nn.HingeLoss()(np.zeros((4, 3)), np.array([0, -100, 99, 2]))
    with pytest.raises(UsageError, match="cross_entropy: target 3 of sample 1 at 4; it is none of the model's 3"):
        nn.CrossEntropyLoss()(np.zeros((2, 5, 3)), np.array([[0, 0, 0, 0, 0], [1, 1, 1, 2, 3]]))
    with pytest.raises(UsageError, match="hinge: target 4 of sample 1, the first of 2; it is none"):
        nn.HingeLoss()(np.zeros((3, 3)), np.array([0, 4, 3]))
    with pytest.raises(UsageError, match=r"nll: target 7 of sample 1 at \(0, 2\); it is none"):
        nn.NLLLoss()(np.zeros((2, 1, 3, 4)), np.array([[[0, 0, 0]], [[0, 0, 7]]]))
    with pytest.raises(UsageError, match="nll: target -1 of sample 0; classes count from 0, and -100 is left out"):
        nn.NLLLoss().check_targets(np.array([-1]))
