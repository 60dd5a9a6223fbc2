"""Losses of pairs and triplets: PyTorch's means, vectors without length, mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Tape


@pytest.mark.oracle
@pytest.mark.parametrize("options", [{}, {"margin": 0.2}], ids=str)
def test_cosine_embedding_is_pytorchs_mean(options):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(7, 2, 3)), rng.choice([-1, 1], 7)
    a, b = torch.tensor(x).unbind(1)
    wanted = torch.nn.CosineEmbeddingLoss(**options)(a, b, torch.tensor(target))
    assert nn.CosineEmbeddingLoss(**options)(x, target) == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize("options", [{}, {"margin": 2.0, "p": 1.0}, {"swap": True, "eps": 1e-3}], ids=str)
def test_triplet_is_pytorchs_mean(options):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    x = np.random.default_rng(0).normal(size=(7, 3, 4))
    wanted = torch.nn.TripletMarginLoss(**options)(*torch.tensor(x).unbind(1))
    assert nn.TripletMarginLoss(**options)(x, np.zeros(7)) == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "vectors", "target"),
    [
        (nn.CosineEmbeddingLoss(), 2, [1, -1]),
        (nn.ContrastiveLoss(), 2, [0, 1]),
        (nn.TripletMarginLoss(eps=0.0), 3, [0, 0]),
        (nn.TripletMarginLoss(eps=0.0, p=3.0), 3, [0, 0]),
        (nn.InfoNCELoss(), 2, [0, 0]),
    ],
)
def test_equal_vectors_and_vectors_of_zero_have_finite_gradients(loss, vectors, target):
    tape = Tape(choose("cpu")[0], recording=True)
    x = tape.input(np.stack([np.zeros((vectors, 4)), np.ones((vectors, 4))]), needs_grad=True)
    total, _ = loss.forward(x, np.array(target))
    tape.backward(total)
    assert np.isfinite(total.value)
    assert np.isfinite(x.grad).all()


def test_alike_is_0_and_different_is_1_as_in_the_paper():
    pair = np.array([[[0.0, 0.0], [3.0, 4.0]]])
    assert nn.ContrastiveLoss(margin=7.0)(pair, np.array([0])) == 12.5
    assert nn.ContrastiveLoss(margin=7.0)(pair, np.array([1])) == 2.0


def test_views_that_agree_are_told_apart_from_the_others():
    x = np.repeat(np.eye(4)[:, None], 2, axis=1)
    assert nn.InfoNCELoss(temperature=0.1)(x, np.zeros(4)) == pytest.approx(np.log(1 + 6 * np.exp(-10)))


def test_mistakes():
    with pytest.raises(ShapeError, match=r"triplet needs outputs \(\.\.\., 3, D\), 3 vectors .* got \(2, 8\)"):
        nn.TripletMarginLoss().check((2, 8), ())
    with pytest.raises(ShapeError, match=r"one target for each pair: outputs \(5, 2, 8\) go with targets \(5,\)"):
        nn.ContrastiveLoss()(np.zeros((5, 2, 8)), np.zeros((5, 1)))
    with pytest.raises(ShapeError, match=r"info_nce needs outputs \(N, 2, D\)"):
        nn.InfoNCELoss().check((4, 3, 2, 8), (4, 3))
    with pytest.raises(UsageError, match="cosine_embedding: target 0 of sample 1; targets are 1 or -1"):
        nn.CosineEmbeddingLoss().check_targets(np.array([1, 0]))
