"""Losses as users call them: means of arrays, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.loss import losses
from gpubackprop.tape import Tape


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ignore_index": 2},
        {"label_smoothing": 0.2},
        {"weight": [0.5, 1.0, 2.0, 3.0]},
        {"weight": [0.5, 1.0, 2.0, 3.0], "label_smoothing": 0.2, "ignore_index": 1},
    ],
    ids=str,
)
def test_cross_entropy_is_pytorchs_mean(torch, rng, options):
    logits, target = rng.normal(size=(9, 4)), rng.integers(0, 4, 9)
    theirs = {k: torch.tensor(v, dtype=torch.float64) if k == "weight" else v for k, v in options.items()}
    wanted = torch.nn.CrossEntropyLoss(**theirs)(torch.tensor(logits), torch.tensor(target))
    found = nn.CrossEntropyLoss(**options)(logits, target)
    assert found.shape == ()
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MSELoss", {}),
        ("L1Loss", {}),
        ("HuberLoss", {}),
        ("HuberLoss", {"delta": 0.3}),
        ("SmoothL1Loss", {"beta": 0.3}),
        ("BCEWithLogitsLoss", {}),
        ("BCEWithLogitsLoss", {"pos_weight": [1.0, 2.0, 0.5]}),
    ],
)
def test_elementwise_losses_are_pytorchs_means(torch, rng, name, options):
    output, target = rng.normal(size=(5, 3)), rng.random((5, 3))
    theirs = {k: torch.tensor(v, dtype=torch.float64) if k == "pos_weight" else v for k, v in options.items()}
    wanted = getattr(torch.nn, name)(**theirs)(torch.tensor(output), torch.tensor(target))
    found = getattr(nn, name)(**options)(output, target)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint64])
def test_class_numbers_of_any_integer_dtype(rng, dtype):
    logits, target = rng.normal(size=(9, 4)), rng.integers(0, 4, 9)
    assert nn.CrossEntropyLoss()(logits, target.astype(dtype)) == nn.CrossEntropyLoss()(logits, target)


def test_cross_entropy_of_large_logits_is_finite():
    found = nn.CrossEntropyLoss()(np.array([[1e4, 0.0], [1e4, 0.0]], np.float32), np.array([0, 1]))
    assert found == 5e3
    assert nn.BCEWithLogitsLoss()(np.array([[-1e4, 1e4]], np.float32), np.array([[1.0, 0.0]])) == 1e4


def sums(loss, output, target, **counts):
    tape = Tape(choose("cpu")[0])
    output = {k: tape.input(a) for k, a in output.items()} if isinstance(output, dict) else tape.input(output)
    total, weight = loss.forward(output, target, **counts)
    return float(total.value), float(weight.value)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def log_softmax(x):
    return np.log(softmax(x))


def heads():
    return nn.MultiTaskLoss({"digit": nn.CrossEntropyLoss(), "size": nn.MSELoss()}, {"size": 0.5})


#: by name: the loss, and outputs and targets of a batch of six
EXAMPLES = {
    "cross_entropy": (nn.CrossEntropyLoss, (6, 2, 3), lambda rng: rng.integers(0, 3, (6, 2))),
    "nll": (nn.NLLLoss, (6, 2, 3), lambda rng: rng.integers(0, 3, (6, 2))),
    "focal": (nn.FocalLoss, (6, 2, 3), lambda rng: rng.integers(0, 3, (6, 2))),
    "hinge": (nn.HingeLoss, (6, 2, 3), lambda rng: rng.integers(0, 3, (6, 2))),
    "kl_div": (nn.KLDivLoss, (6, 2, 3), lambda rng: softmax(rng.normal(size=(6, 2, 3)))),
    "bce_with_logits": (nn.BCEWithLogitsLoss, (6, 2, 3), lambda rng: rng.random((6, 2, 3))),
    "binary_focal": (nn.BinaryFocalLoss, (6, 2, 3), lambda rng: rng.integers(0, 2, (6, 2, 3))),
    "mse": (nn.MSELoss, (6, 2, 3), lambda rng: rng.normal(size=(6, 2, 3))),
    "l1": (nn.L1Loss, (6, 2, 3), lambda rng: rng.normal(size=(6, 2, 3))),
    "huber": (nn.HuberLoss, (6, 2, 3), lambda rng: rng.normal(size=(6, 2, 3))),
    "smooth_l1": (nn.SmoothL1Loss, (6, 2, 3), lambda rng: rng.normal(size=(6, 2, 3))),
    "cosine_embedding": (nn.CosineEmbeddingLoss, (6, 2, 3), lambda rng: rng.choice([-1, 1], 6)),
    "contrastive": (nn.ContrastiveLoss, (6, 2, 3), lambda rng: rng.integers(0, 2, 6)),
    "triplet": (nn.TripletMarginLoss, (6, 3, 4), lambda rng: np.zeros(6)),
    "info_nce": (nn.InfoNCELoss, (6, 2, 4), lambda rng: np.zeros(6)),
    "ctc": (nn.CTCLoss, (6, 7, 4), lambda rng: rng.integers(1, 4, (6, 3))),
    "multi_task": (
        heads,
        {"digit": (6, 3), "size": (6, 2)},
        lambda rng: {"digit": rng.integers(0, 3, 6), "size": rng.normal(size=(6, 2))},
    ),
}


def example(name, rng):
    make, shape, target = EXAMPLES[name]
    output = {k: rng.normal(size=s) for k, s in shape.items()} if isinstance(shape, dict) else rng.normal(size=shape)
    return make(), output, target(rng)


def some(arrays, index):
    return {name: a[index] for name, a in arrays.items()} if isinstance(arrays, dict) else arrays[index]


def test_every_loss_has_an_example_and_is_exported():
    assert set(EXAMPLES) == set(losses)
    assert all(losses[name] in vars(nn).values() for name in losses)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_masked_and_weightless_samples_count_nothing(rng, name):
    loss, output, target = example(name, rng)
    mask = np.array([True, True, False, True, False, True])
    wanted = sums(loss, some(output, mask), some(target, mask))
    assert sums(loss, output, target, mask=mask) == pytest.approx(wanted)
    assert sums(loss, output, target, weight=mask.astype(float)) == pytest.approx(wanted)
    half = sums(loss, output, target, weight=np.full(6, 0.5), mask=mask)
    assert half == pytest.approx((wanted[0] / 2, wanted[1] / 2))


@pytest.mark.parametrize("name", sorted({*EXAMPLES} - {"info_nce"}))  # its candidates are those of one batch
def test_micro_batches_add_up(rng, name):
    loss, output, target = example(name, rng)
    parts = [sums(loss, some(output, s), some(target, s)) for s in (slice(0, 4), slice(4, 6))]
    assert np.sum(parts, axis=0) == pytest.approx(sums(loss, output, target))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_batch_without_samples_is_of_no_loss_and_no_weight(rng, name):
    loss, output, target = example(name, rng)
    assert sums(loss, some(output, slice(0, 0)), some(target, slice(0, 0))) == (0, 0)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_fit_with_and_without_the_batch(rng, name):
    loss, output, target = example(name, rng)
    shapes = [{k: a.shape[1:] for k, a in x.items()} if isinstance(x, dict) else x.shape[1:] for x in (output, target)]
    loss.check(*shapes)
    loss.check_targets(target)


@pytest.mark.parametrize("name", ["mse", "l1", "huber", "bce_with_logits"])
def test_shapes_are_never_broadcast(name):
    message = rf"{name} .*outputs are \(4, 1\), targets \(4,\), and must be equal; give the targets that axis too"
    with pytest.raises(ShapeError, match=message):
        losses[name]()(np.zeros((4, 1)), np.zeros(4))


class TestMistakes:
    def test_too_few_outputs_for_the_classes(self):
        with pytest.raises(ShapeError, match="gives 5 outputs, the data has 10 classes; end the model with linear: 10"):
            nn.CrossEntropyLoss().check((5,), (), classes=10)

    def test_more_outputs_than_classes_are_fine(self):
        nn.CrossEntropyLoss().check((64, 50304), (64,), classes=50257)

    def test_one_hot_targets(self):
        with pytest.raises(ShapeError, match="not one-hot rows"):
            nn.CrossEntropyLoss()(np.zeros((4, 3)), np.zeros((4, 3), int))

    def test_targets_of_another_shape(self):
        with pytest.raises(ShapeError, match=r"outputs \(4, 3\) go with targets \(4,\), got \(5,\)"):
            nn.CrossEntropyLoss()(np.zeros((4, 3)), np.zeros(5, int))

    def test_float_class_numbers(self):
        with pytest.raises(UsageError, match="needs class numbers, integers, as targets; got float64"):
            nn.CrossEntropyLoss()(np.zeros((4, 3)), np.zeros(4))

    def test_class_weights_of_another_length(self):
        with pytest.raises(ShapeError, match=r"weight has shape \(2,\); with 3 outputs it must be \(3,\)"):
            nn.CrossEntropyLoss(weight=[1.0, 2.0])(np.zeros((4, 3)), np.zeros(4, int))

    def test_pos_weight_of_another_length(self):
        with pytest.raises(ShapeError, match=r"pos_weight has shape \(2,\)"):
            nn.BCEWithLogitsLoss([1.0, 2.0])(np.zeros((4, 3)), np.zeros((4, 3)))

    def test_mask_of_another_shape(self):
        with pytest.raises(ShapeError, match=r"weight or mask of shape \(3,\) does not fit \(4,\)"):
            sums(nn.CrossEntropyLoss(), np.zeros((4, 3)), np.zeros(4, int), mask=np.ones(3, bool))


def test_class_weights_are_copied_to_the_device_once_and_so_can_be_captured():
    backend, _ = choose("strict")
    loss, device = nn.CrossEntropyLoss(weight=[1.0, 2.0]), backend.from_host
    logits, target = device(np.zeros((3, 2), np.float32)), device(np.array([0, 1, 1]))
    step = backend.capture(lambda: loss.forward(Tape(backend).input(logits), target))
    step()
    backend.from_host = None  # a copy from the host could not be captured
    assert float(step()[1].value) == 5.0
