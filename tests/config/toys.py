"""A small world of components: every kind of signature that a config has to understand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpubackprop.config import Kinds
from gpubackprop.registry import Fraction, Given, Inferred, Positive, PositiveFloat, Registry


class Toy:
    """Compares by class and attributes."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None


class Layer(Toy):
    name: str | None = None


class Loss(Toy):
    pass


class Metric(Toy):
    pass


class Optimizer(Toy):
    pass


class Schedule(Toy):
    pass


class Source(Toy):
    pass


class Transform(Toy):
    pass


layers = Registry("layer", Layer)
losses = Registry("loss", Loss)
metrics = Registry("metric", Metric)
optimizers = Registry("optimizer", Optimizer)
schedules = Registry("schedule", Schedule)
sources = Registry("data source", Source)
transforms = Registry("transform", Transform)


@layers.register("linear")
class Linear(Layer):
    """y = x W + b."""

    def __init__(self, in_features: Inferred[Positive], out_features: Positive, bias: bool = True) -> None:
        self.in_features, self.out_features, self.bias = in_features, out_features, bias


@layers.register("conv2d")
class Conv2d(Layer):
    def __init__(
        self,
        in_channels: Inferred[Positive],
        out_channels: Positive,
        kernel_size: Positive | tuple[Positive, Positive],
        stride: Positive = 1,
        padding: Literal["same", "valid"] | int = 0,
        *,
        groups: Positive = 1,
    ) -> None:
        if out_channels % groups:
            raise ValueError(f"out_channels {out_channels} is not divisible by groups {groups}")
        self.out_channels, self.kernel_size, self.stride = out_channels, kernel_size, stride
        self.padding, self.groups = padding, groups


@layers.register("relu")
class ReLU(Layer):
    def __init__(self) -> None:
        pass


@layers.register("dropout")
class Dropout(Layer):
    def __init__(self, p: Fraction = 0.5) -> None:
        self.p = p


@layers.register("sequential")
class Sequential(Layer):
    def __init__(self, *layers: Layer) -> None:
        self.layers = list(layers)


@layers.register("residual")
class Residual(Layer):
    def __init__(self, layers: list[Layer], shortcut: list[Layer] | None = None) -> None:
        self.layers, self.shortcut = layers, shortcut


@layers.register("parallel")
class Parallel(Layer):
    def __init__(self, branches: list[list[Layer]], join: Literal["concat", "add"] = "concat") -> None:
        self.branches, self.join = branches, join


@layers.register("save")
class Save(Layer):
    def __init__(self, tensor: str) -> None:
        self.tensor = tensor


@losses.register("cross_entropy")
class CrossEntropy(Loss):
    def __init__(self, label_smoothing: Fraction = 0.0, weight: list[float] | None = None) -> None:
        self.label_smoothing, self.weight = label_smoothing, weight


@metrics.register("accuracy")
class Accuracy(Metric):
    def __init__(self) -> None:
        pass


@metrics.register("top_k")
class TopK(Metric):
    def __init__(self, k: Positive = 5) -> None:
        self.k, self.name = k, f"top_{k}"


@optimizers.register("sgd")
class SGD(Optimizer):
    def __init__(self, params: Given[list[object]], lr: PositiveFloat = 1e-3, momentum: float = 0.0) -> None:
        if momentum < 0:
            raise ValueError(f"momentum must not be negative, got {momentum}")
        self.params, self.lr, self.momentum = params, lr, momentum


@optimizers.register("adam")
class Adam(Optimizer):
    def __init__(
        self,
        params: Given[list[object]],
        lr: PositiveFloat = 1e-3,
        betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        no_decay: list[Literal["bias", "norm"]] | None = None,
    ) -> None:
        self.params, self.lr, self.betas, self.no_decay = params, lr, betas, no_decay


@schedules.register("cosine")
class Cosine(Schedule):
    def __init__(self, steps: Inferred[Positive], floor: float = 0.0) -> None:
        self.steps, self.floor = steps, floor


@schedules.register("warmup")
class Warmup(Schedule):
    def __init__(self, steps: Positive, after: Schedule) -> None:
        self.steps, self.after = steps, after


@transforms.register("normalize")
class Normalize(Transform):
    def __init__(self, mean: float | list[float] | None = None, std: float | list[float] | None = None) -> None:
        self.mean, self.std = mean, std


@transforms.register("flip")
class Flip(Transform):
    def __init__(self, p: Fraction = 0.5) -> None:
        self.p = p


@sources.register("digits")
class Digits(Source):
    def __init__(self) -> None:
        pass


@sources.register("idx")
class Idx(Source):
    def __init__(self, path: str) -> None:
        self.path = path


@dataclass
class DataOptions:
    validation: Fraction | str = 0.1
    batch_size: Positive = 32
    shuffle: bool = True
    transforms: list[Transform] = field(default_factory=list)


KINDS = Kinds(Layer, Loss, Metric, Optimizer, Schedule, Source, DataOptions)

MINIMAL = """\
data: digits
model:
  - linear: 10
loss: cross_entropy
optimizer: sgd
"""
