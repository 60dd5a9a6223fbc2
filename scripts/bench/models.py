"""The seven workloads that speed is measured on: each a config in cpu/, and the same model in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpubackprop.config import load_config
from gpubackprop.nn import Sequential
from gpubackprop.training.step import TrainStep, value_and_grad

if TYPE_CHECKING:
    from scripts.bench.torch_models import TorchStep

HERE = Path(__file__).parent / "cpu"
HostArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Workload:
    """One model and its batches.

    name     of the config in cpu/
    samples  of one step
    shape    of a sample, without the batch axis: images are (H, W, C), texts (T,)
    classes  the kinds of targets
    text     inputs are numbers of characters, (N, T), each with a target of its own
    """

    name: str
    samples: int
    shape: tuple[int, ...]
    classes: int
    text: bool = False

    @property
    def config(self) -> Path:
        """The model, loss and optimizer."""
        return HERE / f"{self.name}.yaml"

    @property
    def images(self) -> bool:
        """Whether inputs are (N, H, W, C)."""
        return len(self.shape) == 3

    def batch(
        self, samples: int | None = None, precision: str = "float32", seed: int = 0
    ) -> tuple[HostArray, HostArray]:
        """Random inputs (N, *shape) and targets (N,), of texts (N, T)."""
        rng, shape = np.random.default_rng(seed), (samples or self.samples, *self.shape)
        x = rng.integers(0, self.classes, shape) if self.text else rng.normal(size=shape).astype(precision)
        return x, rng.integers(0, self.classes, shape if self.text else shape[:1])


WORKLOADS = {
    each.name: each
    for each in (
        Workload("mlp", 128, (784,), 10),
        Workload("big", 256, (1024,), 1024),
        Workload("tiny", 32, (64,), 10),
        Workload("lenet", 64, (28, 28, 1), 10),
        Workload("resnet20", 64, (32, 32, 3), 10),
        Workload("lstm", 32, (64,), 65, text=True),
        Workload("gpt", 16, (128,), 65, text=True),
    )
}


class OurStep:
    """`step()` makes one update on the workload's batch and returns the loss, shape ()."""

    def __init__(
        self, name: str, kernels: str = "auto", precision: str = "float32", samples: int | None = None
    ) -> None:
        workload = WORKLOADS[name]
        config = load_config(workload.config)
        self.model = Sequential(*(layer.build() for layer in config.model))
        self.model.build(workload.shape, device="cpu", precision=precision, kernels=kernels)
        self.loss = config.loss.build()
        self.step = TrainStep(self.model, self.loss, config.optimizer.build(self.model.parameters()))
        self.data = workload.batch(samples, precision)

    def __call__(self) -> Any:
        """One update."""
        return self.step(*self.data)

    def gradients(self) -> tuple[float, list[HostArray]]:
        """The loss and the gradients where the weights stand, these in the order and the layouts of the state dict."""
        loss, grads = value_and_grad(self.model, self.loss, *self.data)
        return float(loss), list(grads.values())


def ours(name: str, kernels: str = "auto") -> OurStep:
    """A step of this package, on the CPU."""
    return OurStep(name, kernels)


def torch_step(name: str, variant: str = "eager") -> TorchStep:
    """The same step of PyTorch, with the same weights; the optimizer is fused. `variant`: see `TorchStep`."""
    from scripts.bench.torch_models import TorchStep

    return TorchStep(name, variant, OurStep(name, kernels="reference"))
