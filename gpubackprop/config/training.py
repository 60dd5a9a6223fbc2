"""The `training` section of a config: how long, how often, and what to keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpubackprop.registry import Fraction, NonNegative, NonNegativeFloat, Positive, PositiveFloat


@dataclass
class EarlyStopping:
    """Stop when the monitored figure has not improved for a while."""

    patience: Positive = 5  #: evaluations without an improvement
    min_delta: NonNegativeFloat = 0.0  #: a smaller change is no improvement


@dataclass
class Checkpointing:
    """When checkpoints are written, besides last and best."""

    every: Literal["epoch"] | Positive = "epoch"  #: `epoch`, or a number of optimizer steps
    keep: NonNegative = 3  #: numbered checkpoints that are kept, the newest ones


@dataclass
class Ema:
    """An exponential moving average of the weights: what is validated, and what the checkpoints' models hold."""

    decay: Fraction = 0.999
    warmup: bool = False  #: a lower decay at the beginning: t/(9 + t) after t steps


@dataclass
class Noise:
    """Normal noise on the gradients, of variance eta/(1 + t)^gamma after t steps."""

    eta: PositiveFloat = 0.01
    gamma: NonNegativeFloat = 0.55


@dataclass
class Training:
    """How long to train, and what happens along the way. Steps are optimizer steps.

    Raises ValueError where both `epochs` and `steps` are given; with neither it is 10 epochs.
    """

    epochs: Positive | None = None
    steps: Positive | None = None
    accumulate: Positive = 1  #: batches whose gradients make one step
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    gradient_noise: Noise | None = None
    ema: Ema | None = None
    monitor: str | None = None  #: figure that chooses `best`; None: the first metric on validation data
    early_stopping: EarlyStopping | None = None
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    log_every: Positive = 50  #: steps between two lines of metrics.jsonl
    validate_every: Literal["epoch"] | Positive = "epoch"  #: `epoch`, or a number of optimizer steps
    check_plugins: bool = True  #: compare the backward passes of plugins with numerical gradients before the first step

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps are both given; keep one of them")
        if self.epochs is None and self.steps is None:
            self.epochs = 10
