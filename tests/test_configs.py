"""Every file in configs/ trains, on made-up data of its own shape. tests/config/test_package.py reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpubackprop.config import load_config
from gpubackprop.data import prepare
from gpubackprop.optim import Constant
from gpubackprop.run.check import make_plan
from gpubackprop.training.step import TrainStep
from gpubackprop.training.trainer import Trainer

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SHAPES = {"digits": (8, 8, 1), "idx": (28, 28, 1), "cifar": (32, 32, 3)}  #: of an image, by data source
STEPS, BATCH, CLASSES = 2, 8, 10


class Losses(list):
    """Observer: the training loss of each step."""

    def stepped(self, trainer):
        pass

    def recorded(self, trainer, record):
        self.append(record["train/loss"])


def images(source):
    """uint8 images of the source's shape, and their classes."""
    assert source in SHAPES, f"say in SHAPES what an image of data source {source} looks like"
    labels = np.arange(40) % CLASSES
    return np.random.default_rng(0).integers(0, 256, (len(labels), *SHAPES[source]), np.uint8), labels


def train(path, device):
    """Two steps of what `gpubackprop train` runs, and an evaluation: losses, evaluation, state dict."""
    arrays = {"train": images(load_config(path).data.type)}
    plan = make_plan(path, {"data.batch_size": BATCH}, arrays)
    config, options = plan.config, plan.config.training
    data = prepare(plan.source, plan.options, seed=config.seed)
    model = plan.model.build(plan.info.input_shape, config.seed, device, config.precision)
    optimizer = config.optimizer.build(model.parameters())
    losses = Losses()
    state = Trainer(
        TrainStep(model, plan.loss, optimizer, options.clip_norm, options.clip_value),
        config.schedule.build(STEPS) if config.schedule else Constant(STEPS),
        data.train,
        total_steps=STEPS,
        validation=data.validation,
        metrics=plan.metrics,
        monitor=plan.monitor,
        accumulate=options.accumulate,
        log_every=1,
        observers=[losses],
    ).run()
    return losses, state.validation, model.state_dict()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_on_the_cpu_and_on_the_strict_device_agree(path):
    losses, validation, weights = train(path, "cpu")
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    strict_losses, strict_validation, strict_weights = train(path, "strict")
    assert strict_losses == losses
    assert strict_validation == validation
    for key, value in weights.items():
        np.testing.assert_array_equal(strict_weights[key], value, err_msg=key)
