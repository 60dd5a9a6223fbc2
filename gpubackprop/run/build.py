"""A model from the layers of a config, in Python; and the step that trains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpubackprop.config import Config, Problems
from gpubackprop.config.check import Checker
from gpubackprop.config.document import Mark, Node
from gpubackprop.nn.containers import Sequential
from gpubackprop.nn.layer import Layer, Shapes, layers
from gpubackprop.nn.loss import Loss
from gpubackprop.optim import GradientNoise, WeightAverage
from gpubackprop.training.step import TrainStep


def build(
    model: Layer | Sequence[Any],
    input_shape: Shapes | None = None,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "float32",
    kernels: str = "auto",
) -> Layer:
    """A model with weights, from a layer or from the list that a config's `model` holds.

        model = build([{"linear": 512}, "relu", {"linear": 10}], input_shape=(784,))

    input_shape  of one sample, without the batch axis, or of several inputs by name; may be left out where all sizes
                 are given
    device       cpu, cuda, cuda:N or auto
    precision    float64, float32, tf32, or bfloat16, float16: stored so, with float32 master weights
    kernels      auto: compiled ones where there are such; reference: the ops as they are written

    Raises ConfigError for a list with mistakes, ShapeError where layers do not fit, DeviceError.
    """
    if not isinstance(model, Layer):
        problems = Problems()
        entries = Checker(problems).entries(Node.of(list(model), Mark("model")), layers, "model")
        problems.raise_any()
        model = Sequential(*(entry.build() for entry in entries if entry is not None))
    return model.build(input_shape, seed, device, precision, kernels)


def train_step(config: Config, model: Layer, loss: Loss) -> TrainStep:
    """The step that a config asks for, of a model that has been built, with a new optimizer."""
    training, params = config.training, model.parameters()
    noise, ema = training.gradient_noise, training.ema
    return TrainStep(
        model,
        loss,
        config.optimizer.build(params),
        training.clip_norm,
        training.clip_value,
        GradientNoise(params, noise.eta, noise.gamma, config.seed) if noise else None,
        WeightAverage(params, ema.decay, ema.warmup) if ema else None,
    )
