"""Fusion: neighbours in a list of layers that one op does together, where a device is quicker so.

Layers know nothing of it, and keys stay as written. Each pattern is a row of `PATTERNS`: how a run of layers is
recognised, and what runs in its place. A fused op computes what its layers would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from gpubackprop.nn.activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from gpubackprop.nn.containers import Sequential
from gpubackprop.nn.layer import Layer
from gpubackprop.nn.linear import Linear
from gpubackprop.ops.linear_activation import linear_activation
from gpubackprop.tape import Tensor

Forward: TypeAlias = Callable[[Tensor], Any]


class Pattern(NamedTuple):
    """Layers of exactly these classes (a subclass may do something else), which `run(*layers)` does as one."""

    classes: tuple[tuple[type[Layer], ...], ...]
    run: Callable[..., Forward]

    def matches(self, layers: Sequence[Layer]) -> bool:
        """Whether a list begins with such layers."""
        return len(layers) >= len(self.classes) and all(
            type(layer) in allowed for layer, allowed in zip(layers, self.classes, strict=False)
        )


def chain(layers: Sequence[Layer]) -> list[Forward]:
    """The forward passes of a list of layers, those of fused neighbours as one: the first pattern that matches."""
    steps: list[Forward] = []
    while layers:
        found = next((pattern for pattern in PATTERNS if pattern.matches(layers)), None)
        count = len(found.classes) if found else 1
        steps.append(found.run(*layers[:count]) if found else _alone(layers[0]))
        layers = layers[count:]
    return steps


def _alone(layer: Layer) -> Forward:
    return lambda x: layer.forward(x)  # looked up anew each time: who watches a layer puts another forward in its place


def _fused(container: Sequential) -> list[Forward]:
    """`chain` of a container's layers, kept beside it: a copy of the container has other layers."""
    layers, steps = _CHAINS.get(container, ((), []))
    if layers != (now := tuple(container.layers)):
        steps = chain(now)
        _CHAINS[container] = now, steps
    return steps


def _linear_activation(linear: Any, activation: Any) -> Forward:
    options = {"approximate": activation.approximate} if type(activation) is GELU else {}
    name = type(activation).__name__.lower()

    def run(x: Tensor) -> Tensor:
        y: Tensor = linear_activation(x, linear.weight, linear.bias, activation=name, **options)
        return y

    return run


PATTERNS = [
    Pattern(((Linear,), (ReLU, GELU, Tanh, Sigmoid, SiLU)), _linear_activation),
]

_CHAINS: WeakKeyDictionary[Sequential, tuple[tuple[Layer, ...], list[Forward]]] = WeakKeyDictionary()
Sequential.fused = staticmethod(_fused)  # containers stand below the layers that patterns are made of
