"""Whole trainings to be compared with PyTorch's: one table, the data, and how this package runs a row of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.config import Component, Config, load_config
from gpubackprop.nn import Layer, Sequential
from gpubackprop.nn.layer import Shapes
from gpubackprop.optim import optimizers
from gpubackprop.training.step import TrainStep
from tests.training.golden_data import Array, Batch, Draw, images, lines, scenes, sentences, stream, translation

STEPS = 20
FOLDER = Path(__file__).parent / "goldens"
SEED = 1


@dataclass(frozen=True)
class Model:
    """A model of a config, and data that fit it.

    shape    of an input sample, or of several by name
    changes  options by type of layer: fewer of something, for the time it takes
    """

    config: str
    shape: Shapes
    draw: Draw
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


MODELS = {
    "mlp": Model("digits_mlp", (8, 8, 1), images(8, 8, 1)),
    "cnn": Model("fashion_cnn", (28, 28, 1), images(28, 28, 1)),
    "resnet20": Model("cifar_resnet20", (32, 32, 3), images(32, 32, 3)),
    "unet": Model("unet", (16, 16, 1), scenes(16, 16, classes=11)),
    "names_gpt": Model("names_gpt", (7,), lines(7, 27), {"repeat": {"times": 2}}),
    "tied_gpt": Model("shakespeare_gpt", (8,), stream(8, 65), {"repeat": {"times": 2}}),
    "lstm": Model("shakespeare_lstm", (9,), stream(9, 65), {"lstm": {"hidden_size": 80}}),
    "text_cnn": Model("text_cnn", (8,), sentences(8, 60), {"embedding": {"num_embeddings": 60}}),
    "translate": Model("transformer_translate", {"source": (6,), "target": (5,)}, translation(6, 5, 28)),
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
        return load_config(Path(__file__).parents[2] / "configs" / f"{MODELS[self.model].config}.yaml")

    def layers(self) -> list[Component]:
        """The config's layers without dropout, in which PyTorch draws other numbers."""
        found: list[Component] = without_dropout(list(self.config.model), MODELS[self.model].changes)
        return found

    def optimizer_options(self) -> dict[str, Any]:
        """PyTorch's names, which are ours too."""
        own = self.config.optimizer
        return {**(own.options if own.type == self.optimizer else OTHER[self.optimizer]), **self.options}

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step."""
        return MODELS[self.model].draw(np.random.default_rng([1, step]), self.sizes)


def without_dropout(value: Any, changes: Mapping[str, Mapping[str, Any]]) -> Any:
    """A component, or lists of them, without dropout at any depth, and with other options by type."""
    if isinstance(value, list):
        layers = [each for each in value if getattr(each, "type", None) != "dropout"]
        return [without_dropout(each, changes) for each in layers]
    if not isinstance(value, Component):
        return value
    options = {name: without_dropout(each, changes) for name, each in value.options.items()}
    none = {"dropout": 0.0} if "dropout" in options else {}
    return replace(value, options={**options, **none, **changes.get(value.type, {})})


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
    *(Golden(model, optimizer) for model in ("mlp", "cnn", "resnet20") for optimizer in ("sgd", "adamw")),
    Golden("mlp", "sgd", options={"nesterov": True}),
    Golden("mlp", "adamw", sizes=(5, 1, 2)),
    Golden("cnn", "adamw", sizes=(5, 3)),
    Golden("cnn", "sgd", clip_norm=0.5),
    Golden("unet", "sgd", sizes=(2,)),
    Golden("unet", "adamw", sizes=(2,)),
    Golden("names_gpt", "sgd", sizes=(3, 2)),
    Golden("names_gpt", "adamw", sizes=(4,), clip_norm=1.0),
    Golden("tied_gpt", "sgd", sizes=(4,), clip_norm=1.0),
    Golden("tied_gpt", "adamw", sizes=(4,), clip_norm=1.0),
    Golden("lstm", "sgd", sizes=(3, 2), clip_norm=0.1),
    Golden("lstm", "adamw", sizes=(4,), clip_norm=0.1),
    Golden("text_cnn", "sgd", sizes=(4,)),
    Golden("text_cnn", "adamw", sizes=(3, 2)),
    Golden("translate", "sgd", sizes=(4,)),
    Golden("translate", "adamw", sizes=(3, 2), clip_norm=1.0),
]


def build(row: Golden, precision: str = "float64", device: str = "cpu") -> Layer:
    """The row's model with its starting weights, a function of SEED."""
    return Sequential(*(layer.build() for layer in row.layers())).build(
        MODELS[row.model].shape, SEED, device, precision
    )


def train(row: Golden, precision: str = "float64", steps: int = STEPS, device: str = "cpu") -> Training:
    """The row, by this package."""
    model = build(row, precision, device)
    optimizer = optimizers[row.optimizer](model.parameters(), **row.optimizer_options())
    step = TrainStep(model, row.config.loss.build(), optimizer, clip_norm=row.clip_norm)
    losses = []
    for number in range(steps):
        losses.append(float(model.built.backend.to_host(step(row.batches(number)))))
    return Training(losses, model.state_dict())


def summary(array: Array) -> Array:
    """A few numbers that change where any element does, or where two are swapped."""
    flat = array.astype(np.float64).ravel()
    return np.array([np.sqrt(flat @ flat), flat @ np.cos(np.arange(flat.size))])


def start(row: Golden) -> dict[str, Any]:
    """What the recorded losses depend on, beside the code: the optimizer's options, the loss's, and the weights."""
    weights = np.concatenate([value.ravel() for value in build(row).state_dict().values()])
    options = {"optimizer": row.optimizer_options(), "loss": row.config.loss.options}
    read: dict[str, Any] = json.loads(json.dumps(options))  # tuples are lists then, as in the recorded ones
    return {**read, "weights": summary(weights).tolist()}


def read_recorded(model: str) -> dict[str, Any]:
    """What PyTorch gave for each row of a model."""
    recorded: dict[str, Any] = json.loads((FOLDER / f"{model}.json").read_text(encoding="utf-8"))
    return recorded
