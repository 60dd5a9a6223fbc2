"""Whole trainings to be compared with PyTorch's: one table, the data, and how this package runs a row of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpubackprop.config import Component, Config, load_config
from gpubackprop.nn import Layer, Sequential
from gpubackprop.optim import optimizers
from gpubackprop.training.step import TrainStep

STEPS, CLASSES = 20, 10
FOLDER = Path(__file__).parent / "goldens"
SEED = 1

Array = npt.NDArray[Any]
Batch = tuple[Array, Array]  #: images (N, H, W, C) in float64, classes (N,)

#: By model: its config, and the shape of an image.
MODELS = {
    "mlp": ("digits_mlp", (8, 8, 1)),
    "cnn": ("fashion_cnn", (28, 28, 1)),
    "resnet20": ("cifar_resnet20", (32, 32, 3)),
}
#: The optimizer that a config does not use.
OTHER: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
    "adamw": {"lr": 1e-3},
}


@dataclass(frozen=True)
class Golden:
    """A training: the model of a config without its dropout, and an optimizer, at the config's options if it has it.

    sizes      samples of each micro-batch of a step
    clip_norm  as in TrainStep
    options    of the optimizer, over the config's
    """

    model: str
    optimizer: str
    sizes: Sequence[int] = (8,)
    clip_norm: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        extra = [f"clip_norm={self.clip_norm}"] if self.clip_norm else []
        extra += [f"accumulate={'+'.join(map(str, self.sizes))}"] if len(self.sizes) > 1 else []
        extra += [f"{key}={value}" for key, value in self.options.items()]
        return "-".join([self.model, self.optimizer, *extra])

    @property
    def config(self) -> Config:
        """The config that the model comes from."""
        return load_config(Path(__file__).parents[2] / "configs" / f"{MODELS[self.model][0]}.yaml")

    def layers(self) -> list[Component]:
        """The config's layers without dropout, in which PyTorch draws other numbers."""
        return [layer for layer in self.config.model if layer.type != "dropout"]

    def optimizer_options(self) -> dict[str, Any]:
        """PyTorch's names, which are ours too."""
        own = self.config.optimizer
        return {**(own.options if own.type == self.optimizer else OTHER[self.optimizer]), **self.options}

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step: images of order one around a constant image for each class."""
        shape = MODELS[self.model][1]
        means = np.random.default_rng(0).normal(size=(CLASSES, *shape))
        rng = np.random.default_rng([1, step])
        labels = [rng.integers(0, CLASSES, size) for size in self.sizes]
        return [(0.5 * means[label] + rng.normal(size=(len(label), *shape)), label) for label in labels]


@dataclass
class Training:
    """What a training leaves behind: the loss of each step, and the state dict after the last one."""

    losses: list[float]
    state: dict[str, Array]

    @property
    def statistics(self) -> dict[str, Array]:
        """The buffers among the state."""
        names = ("running_mean", "running_var", "num_batches_tracked")
        return {key: value for key, value in self.state.items() if key.endswith(names)}


GOLDENS = [
    *(Golden(model, optimizer) for model in MODELS for optimizer in ("sgd", "adamw")),
    Golden("mlp", "sgd", options={"nesterov": True}),
    Golden("mlp", "adamw", sizes=(5, 1, 2)),
    Golden("cnn", "adamw", sizes=(5, 3)),
    Golden("cnn", "sgd", clip_norm=0.5),
]


def build(row: Golden, precision: str = "float64", device: str = "cpu") -> Layer:
    """The row's model with its starting weights, a function of SEED."""
    return Sequential(*(layer.build() for layer in row.layers())).build(MODELS[row.model][1], SEED, device, precision)


def train(row: Golden, precision: str = "float64", steps: int = STEPS, device: str = "cpu") -> Training:
    """The row, by this package."""
    model = build(row, precision, device)
    optimizer = optimizers[row.optimizer](model.parameters(), **row.optimizer_options())
    step = TrainStep(model, row.config.loss.build(), optimizer, clip_norm=row.clip_norm)
    losses = []
    for number in range(steps):
        batches = [{"inputs": x, "targets": target} for x, target in row.batches(number)]
        losses.append(float(model.built.backend.to_host(step(batches))))
    return Training(losses, model.state_dict())


def summary(array: Array) -> Array:
    """A few numbers that change where any element does, or where two are swapped."""
    flat = array.astype(np.float64).ravel()
    return np.array([np.sqrt(flat @ flat), flat @ np.cos(np.arange(flat.size))])


def start(row: Golden) -> dict[str, Any]:
    """What the recorded losses depend on, beside the code: the optimizer's options, the loss's, and the weights."""
    weights = np.concatenate([value.ravel() for value in build(row).state_dict().values()])
    return {"optimizer": row.optimizer_options(), "loss": row.config.loss.options, "weights": summary(weights).tolist()}


def read_recorded(model: str) -> dict[str, Any]:
    """What PyTorch gave for each row of a model."""
    recorded: dict[str, Any] = json.loads((FOLDER / f"{model}.json").read_text(encoding="utf-8"))
    return recorded
