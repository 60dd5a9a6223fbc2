"""A replayed step is the step itself, bit for bit, whatever has changed since it was recorded."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest

from gpubackprop import nn, optim
from gpubackprop.errors import UsageError
from gpubackprop.training.step import TrainStep
from tests.kernels import harness
from tests.nn.specs import table

BATCH = 4
STEPS = 6


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    harness.backend()


def replays(step):
    """The recordings of a step."""
    return [found for found in step._update.found.values() if hasattr(found, "launches")]


def refusals(step):
    return [found for found in step._update.found.values() if isinstance(found, str)]


def eagerly(step):
    """The same step, which is never recorded."""
    recorded = step._update

    def update(batches):
        recorded.found.clear()
        return recorded(batches)

    step._update = update
    return step


def classifier(*layers, shape=(6,), classes=3):
    return lambda: nn.Sequential(*(layer() for layer in layers), nn.Flatten(), nn.Linear(None, classes)).build(
        shape, seed=3
    )


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def make(build, optimizer=sgd, loss=nn.CrossEntropyLoss, **options):
    model = build()
    return TrainStep(model, loss(), optimizer(model), **options)


def draw(shape, count=STEPS, classes=3, symbols=0, samples=BATCH):
    rng = np.random.default_rng(zlib.crc32(repr(shape).encode()))
    for _ in range(count):
        x = rng.integers(0, symbols, (samples, *shape)) if symbols else rng.normal(size=(samples, *shape))
        yield x if symbols else x.astype(np.float32), rng.integers(0, classes, samples)


def state(step):
    """All that a step may change."""
    found = step.model.state_dict() | {f"optimizer.{k}": v for k, v in step.optimizer.state_dict().items()}
    if step.average is not None:
        found["average"] = step.average.value.copy()
    return found


def assert_same(one, two):
    found, wanted = state(one), state(two)
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def assert_equals_eager(new, batches, between=lambda step, number: None):
    """Steps of `new()` over batches, recorded and eager: losses, norms and states; gives the recorded step."""
    steps = new(), eagerly(new())
    for number, batch in enumerate(batches):
        losses = []
        for step in steps:
            between(step, number)
            losses.append(step(*batch))
        assert np.array_equal(*losses, equal_nan=True), f"loss of step {number}: {losses[0]}, eager {losses[1]}"
        norms = [step.grad_norm for step in steps]
        assert norms[0] is norms[1] is None or np.array_equal(*norms), f"norm of step {number}: {norms}"
    assert_same(*steps)
    return steps[0]


@pytest.mark.parametrize("spec", table(), ids=lambda spec: spec.name)
def test_a_replayed_step_of_every_layer_is_the_step_itself(spec):
    new = lambda: make(classifier(spec.layer, shape=spec.shape))  # noqa: E731  # shorter than a function
    step = assert_equals_eager(new, draw(spec.shape, symbols=spec.symbols))
    assert len(replays(step)) == 1, refusals(step)
