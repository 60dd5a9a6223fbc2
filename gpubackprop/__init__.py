"""Train neural networks from one YAML file, on NumPy or CuPy, with backward passes written by hand.

The names below are imported when they are first used, so that `import gpubackprop` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpubackprop import nn, optim
    from gpubackprop.run.build import build
    from gpubackprop.run.train import resume, train
    from gpubackprop.run.use import Run, load
    from gpubackprop.training.step import TrainStep, value_and_grad

__version__ = "0.1.0"

__all__ = ["Run", "TrainStep", "build", "load", "nn", "optim", "resume", "train", "value_and_grad"]

_HOME = {
    "Run": "run.use",
    "TrainStep": "training.step",
    "build": "run.build",
    "load": "run.use",
    "resume": "run.train",
    "train": "run.train",
    "value_and_grad": "training.step",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in ("nn", "optim"):
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
