"""One table of optimizers and their options: every test of optimizers runs over all rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubackprop.backend import choose
from gpubackprop.optim import (
    LAMB,
    SAM,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Lookahead,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)
from gpubackprop.parameters import Param, Parameters


@dataclass
class OptimizerSpec:
    """An optimizer with options, which are PyTorch's too; its class there has the same name."""

    cls: type[Optimizer]
    options: dict[str, Any] = field(default_factory=dict)
    float32: float = 1e-5  #: how far 50 steps in that precision may part from PyTorch's
    inner: OptimizerSpec | None = None  #: the optimizer that this one is around

    def __str__(self) -> str:
        name = f"{self.cls.__name__}-" + "-".join(f"{key}={value}" for key, value in self.options.items())
        return f"{name}-{self.inner}" if self.inner else name

    def make(self, params: Parameters) -> Optimizer:
        """The optimizer, for some params."""
        inner = (self.inner.make(params),) if self.inner else ()
        return self.cls(params, *inner, **self.options)


ROWS = [
    OptimizerSpec(SGD),
    OptimizerSpec(SGD, {"lr": 0.1, "weight_decay": 0.1}),
    OptimizerSpec(SGD, {"lr": 0.1, "momentum": 0.9}),
    OptimizerSpec(SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    OptimizerSpec(SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    OptimizerSpec(Adam),
    OptimizerSpec(Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}),
    OptimizerSpec(Adam, {"lr": 0.01, "betas": (0.0, 0.9)}),
    OptimizerSpec(Adam, {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.6)}),
    OptimizerSpec(AdamW),
    OptimizerSpec(AdamW, {"lr": 0.1, "weight_decay": 0.5}),
    OptimizerSpec(AdamW, {"lr": 0.1, "weight_decay": 0.5, "amsgrad": True, "betas": (0.9, 0.6)}),
    OptimizerSpec(AdamW, {"lr": 0.1, "weight_decay": 0.0}),
    OptimizerSpec(RMSprop),
    OptimizerSpec(RMSprop, {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    OptimizerSpec(RMSprop, {"momentum": 0.9}),
    OptimizerSpec(RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    OptimizerSpec(Adagrad),
    OptimizerSpec(Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    OptimizerSpec(Adagrad, {"initial_accumulator_value": 0.5}),
    OptimizerSpec(Adadelta),
    OptimizerSpec(Adadelta, {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    OptimizerSpec(NAdam),
    OptimizerSpec(
        NAdam,
        {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1, "momentum_decay": 0.1},
        float32=1e-4,
    ),
    OptimizerSpec(NAdam, {"lr": 0.01, "weight_decay": 0.5, "decoupled_weight_decay": True}),
    OptimizerSpec(RAdam),
    OptimizerSpec(RAdam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    OptimizerSpec(RAdam, {"lr": 0.01, "weight_decay": 0.5, "decoupled_weight_decay": True}),
    OptimizerSpec(Lion),
    OptimizerSpec(Lion, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.5}),
    OptimizerSpec(LAMB, {"bias_correction": False}),
    OptimizerSpec(LAMB, {"bias_correction": False, "lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1}),
    OptimizerSpec(LAMB, {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}),
    # The iteration blows up the smallest singular values, and their rounding with them.
    OptimizerSpec(Muon, float32=1e-3),
    OptimizerSpec(Muon, {"lr": 0.02, "momentum": 0.8, "nesterov": False, "weight_decay": 0.5}, float32=1e-3),
    OptimizerSpec(
        Muon,
        {
            "lr": 0.02,
            "adjust_lr_fn": "match_rms_adamw",
            "ns_steps": 3,
            "ns_coefficients": (2.0, -1.5, 0.5),
            "adamw_for": ["0.*"],
            "adamw_lr": 0.01,
            "adamw_betas": (0.8, 0.99),
            "adamw_eps": 1e-4,
            "adamw_weight_decay": 0.3,
        },
        float32=1e-3,
    ),
    OptimizerSpec(
        Lookahead, {"k": 3, "alpha": 0.8}, float32=1e-4, inner=OptimizerSpec(SGD, {"lr": 0.1, "momentum": 0.9})
    ),
    OptimizerSpec(Lookahead, inner=OptimizerSpec(Adam, {"lr": 0.01})),
    # Without a model there is but one gradient; test_sam.py has both.
    OptimizerSpec(SAM, {"rho": 0.1}, inner=OptimizerSpec(SGD, {"lr": 0.1, "momentum": 0.9})),
]
PLAIN = [row for row in ROWS if row.inner is None]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Starting values of order one, so that weight decay shows."""
    return rng.normal(size=shape)


def params(dtype: str = "float64", device: str = "cpu", kernels: str = "auto") -> Parameters:
    """All kinds of params: a matrix, its bias, a norm's two, a convolution whose layout is not PyTorch's."""
    named = {
        "0.weight": Param((3, 5), normal),
        "0.bias": Param((3,), normal, kind="bias"),
        "1.weight": Param((70,), normal, kind="norm"),
        "1.bias": Param((70,), normal, kind="norm"),
        "2.weight": Param((3, 2, 4, 6), normal, layout=(3, 2, 0, 1)),
        "3.weight": Param((), normal),
        "4.weight": Param((7, 2), normal),
    }
    return Parameters(named, choose(device, kernels)[0], dtype, seed=1)


def draw(params: Parameters, seed: int) -> None:
    """New gradients: normal, some of them zero."""
    rng = np.random.default_rng(seed)
    for segment in params.segments:
        shape = segment.param.shape
        grad = rng.normal(size=shape) * (rng.random(shape) > 0.2)
        segment.param.grad[...] = params.backend.from_host(grad.astype(params.dtype))


def values(params: Parameters) -> dict[str, np.ndarray]:
    """Copies of all values, in PyTorch's layout."""
    to_host = params.backend.to_host
    return {name: np.array(param.to_torch(to_host(param.value))) for name, param, _, _ in params.segments}


def lr_of(base: float, step: int) -> float:
    """A learning rate that changes from step to step."""
    return base * (1 + step % 3)


def train(optimizer: Optimizer, first: int, last: int) -> None:
    """Updates `first` to `last`, each with gradients and a learning rate of its own."""
    base = optimizer.lr
    for step in range(first, last):
        draw(optimizer.params, seed=step)
        optimizer.lr = lr_of(base, step)
        optimizer.step()
    optimizer.lr = base


def fingerprint(arrays: dict[str, np.ndarray]) -> list[float]:
    """Two numbers per array: its last element, and a weighted sum of all."""
    return [float(x) for a in arrays.values() for x in (a.ravel()[-1], np.sin(1 + np.arange(a.size)) @ a.ravel())]
