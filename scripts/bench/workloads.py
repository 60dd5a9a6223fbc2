"""The seven workloads of the CPU benchmark: a config each, and made-up batches. And variations that show growth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.config import load_config
from gpubackprop.nn.containers import Sequential
from gpubackprop.run.bench.task import Task
from gpubackprop.run.summary import forward_flops

FOLDER = Path(__file__).parent / "cpu"


@dataclass(frozen=True)
class Workload:
    """A config of a folder, and what its data looks like.

    shape      of one sample; of sequences of characters (T,)
    classes    how many; of characters those that there are
    overrides  as `--set`, which make another network of it
    batch      samples of a step, as in the config unless given
    random     layers draw random numbers
    """

    config: str
    title: str
    shape: tuple[int, ...]
    classes: int
    characters: bool = False
    images: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None
    random: bool = False
    folder: Path = FOLDER

    def task(self) -> tuple[Task, int]:
        """The task, and the floating-point operations of a step, about."""
        config = load_config(str(self.folder / f"{self.config}.yaml"), {"device": "cpu", **self.overrides})
        assert config.data.common is not None, "the section data has options that all data shares"
        count, rng = self.batch or config.data.common.build().batch_size, np.random.default_rng(0)
        inputs: Any = rng.standard_normal((count, *self.shape), np.float32)
        if self.characters:
            inputs = rng.integers(0, self.classes, (count, *self.shape))
        targets = rng.integers(0, self.classes, (count, *self.shape) if self.characters else count)
        model = Sequential(*(layer.build() for layer in config.model))
        model.build(self.shape, config.seed, "cpu", config.precision, "reference")
        batch = {"inputs": inputs, "targets": targets}
        return Task(config.resolved(), [batch], model.state_dict(), self.random), 3 * count * forward_flops(model)


WORKLOADS: dict[str, Workload] = {
    "mlp": Workload("mlp", "MLP 784-512-512-10, batch 128, Adam", (784,), 10),
    "big": Workload("big", "MLP 1024-4096-4096-1024, batch 256, Adam", (1024,), 1024),
    "tiny": Workload("tiny", "MLP 64-64-10, batch 32, SGD", (64,), 10),
    "lenet": Workload("lenet", "LeNet-like, 28×28, batch 64, Adam", (28, 28, 1), 10, images=True),
    "resnet20": Workload("resnet20", "ResNet-20, 32×32, batch 64, SGD", (32, 32, 3), 10, images=True),
    "lstm": Workload("lstm", "LSTM 2 × 256, T 64, batch 32, Adam", (64,), 65, characters=True),
    "gpt": Workload("gpt", "GPT 4 layers, 256 wide, T 128, batch 16, AdamW", (128,), 65, characters=True),
}


def _mlp(width: int = 256, depth: int = 2, batch: int = 128) -> Workload:
    layers = [layer for _ in range(depth) for layer in ({"linear": width}, "relu")]
    return Workload("mlp", "", (256,), 10, overrides={"model": [*layers, {"linear": 10}]}, batch=batch)


def _gpt(length: int) -> Workload:
    overrides = {"model.1.learned_position.max_length": length, "model.2.repeat.times": 1}
    return Workload("gpt", "", (length,), 65, characters=True, overrides=overrides, batch=4)


def _lstm(length: int) -> Workload:
    return Workload("lstm", "", (length,), 65, characters=True, overrides={"model.1.lstm.num_layers": 1}, batch=32)


#: what is doubled, by the title of its plot: the workload at each value
GROWTH: dict[str, dict[int, Workload]] = {
    "batch of an MLP (2 × 256)": {n: _mlp(batch=n) for n in (32, 64, 128, 256, 512)},
    "width of an MLP (2 layers)": {n: _mlp(width=n) for n in (64, 128, 256, 512, 1024)},
    "depth of an MLP (256 wide)": {n: _mlp(depth=n) for n in (1, 2, 4, 8, 16)},
    "length of an LSTM's sequences": {n: _lstm(n) for n in (16, 32, 64, 128)},
    "length of a GPT's sequences": {n: _gpt(n) for n in (64, 128, 256, 512)},
}
