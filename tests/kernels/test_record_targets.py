"""Targets that make no sense are seen in a replayed step as in any other, and nothing has changed then."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn, optim
from gpubackprop.errors import UsageError
from gpubackprop.nn.loss import Loss, losses
from gpubackprop.training.step import TrainStep
from tests.kernels import harness
from tests.kernels.test_record import assert_same, eagerly, replays, state

N, T, V = 4, 3, 5
CLASSES = [0, 4, 1, -100]


def series(values):
    return np.tile(np.array(values)[:, None], (1, T))


def rows():
    return [nn.Flatten(), nn.Linear(None, V)]


def positions():
    return [nn.Linear(None, V)]


def pairs():
    return [nn.Flatten(), nn.Linear(None, 2 * V), nn.Reshape((2, V))]


BY_CLASS = {
    "cross_entropy": nn.CrossEntropyLoss,
    "cross_entropy, smooth": lambda: nn.CrossEntropyLoss(label_smoothing=0.1, weight=[1.0, 2.0, 1.0, 1.0, 0.5]),
    "nll": nn.NLLLoss,
    "focal": nn.FocalLoss,
    "hinge": nn.HingeLoss,
}
#: By name: last layers, good targets, and which of them becomes what.
WRONG = {
    "none": (rows, np.array(CLASSES), 2, V),
    "far off": (rows, np.array(CLASSES), 2, 2**40),
    "negative": (rows, np.array(CLASSES), 0, -1),
    "int32": (rows, np.array(CLASSES, np.int32), 1, V + 2),
    "uint8": (rows, np.array([0, 4, 1, 2], np.uint8), 1, 255),
    "series": (positions, series(CLASSES), (1, 2), 99),
}
CASES = {f"{name}: {what}": (loss, *WRONG[what]) for name, loss in BY_CLASS.items() for what in WRONG} | {
    "binary_focal": (nn.BinaryFocalLoss, positions, np.ones((N, T, V)), (1, 2, 3), 0.5),
    "cosine_embedding": (nn.CosineEmbeddingLoss, pairs, np.array([1, -1, 1, 1]), 2, 0),
    "contrastive": (nn.ContrastiveLoss, pairs, np.array([1, 0, 1, 1]), 3, 2),
    "ctc: none": (nn.CTCLoss, positions, np.full((N, 1), 4), (2, 0), V),
    "ctc: blank": (nn.CTCLoss, positions, np.full((N, 1), 4), (2, 0), 0),
}


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    harness.backend()


def adamw(params):
    return optim.AdamW(params, lr=0.01)


def make(loss, layers, optimizer=adamw):
    model = nn.Sequential(nn.BatchNorm(), *layers()).build((T, 2), seed=1)
    held = optimizer(model.parameters())
    return TrainStep(model, loss(), held, average=optim.WeightAverage(model.parameters(), 0.9), clip_norm=1.0)


def inputs(count):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(N, T, 2)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_target_says_the_same_in_a_replayed_step_and_changes_nothing(name):
    loss, layers, good, place, value = CASES[name]
    wrong = good.copy()
    wrong[place] = value
    step, eager = make(loss, layers), eagerly(make(loss, layers))
    first = eagerly(make(loss, layers))
    *before, last, after = inputs(6)
    for x in before:
        assert step(x, good) == eager(x, good)
    assert replays(step) or name.startswith(("ctc", "cosine", "contrastive"))
    kept, steps, words = state(step), step.optimizer.steps, []
    for each in (step, eager, first):
        with pytest.raises(UsageError) as error:
            each(last, wrong)
        words.append(str(error.value))
    assert words[0] == words[1] == words[2]
    assert "of sample" in words[0]
    assert step.optimizer.steps == steps
    for key, array in state(step).items():
        np.testing.assert_array_equal(array, kept[key], err_msg=key)
    assert step(after, good) == eager(after, good)  # and it goes on
    assert_same(step, eager)


@pytest.mark.parametrize(
    "optimizer",
    [optim.NAdam, lambda params: optim.Lookahead(params, optim.NAdam(params), k=2)],
    ids=["nadam", "lookahead"],
)
def test_what_an_optimizer_counts_is_not_counted_for_a_refused_step(optimizer):
    one, other = (make(nn.CrossEntropyLoss, rows, optimizer) for _ in range(2))
    good = np.array(CLASSES)
    for x in inputs(5):
        with pytest.raises(UsageError, match="target 9 of sample 0, the first of 4; it is none"):
            one(x, np.full(N, 9))
        assert one(x, good) == other(x, good)
    assert_same(one, other)
    assert one.optimizer.counted() == other.optimizer.counted()


def test_every_loss_that_looks_at_its_targets_has_a_case():
    ours = {name: losses[name] for name in losses if losses[name].__module__.startswith("gpubackprop.")}
    looking = {name for name, cls in ours.items() if cls.check_targets is not Loss.check_targets}
    cases = {name.partition(":")[0].partition(",")[0] for name in CASES}
    assert looking - cases == {"triplet", "info_nce", "multi_task"}  # which do not care, and ask their parts
