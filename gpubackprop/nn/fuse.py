"""Fusion: neighbours in a list of layers that one op does together, where a device is quicker so.

Layers know nothing of it, and keys stay as written. Each pattern is a row of `PATTERNS`: how a run of layers is
recognised, and what runs in its place. A fused op computes what its layers would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from gpubackprop.nn.activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from gpubackprop.nn.attention import Projection
from gpubackprop.nn.containers import Residual, Sequential
from gpubackprop.nn.layer import Layer
from gpubackprop.nn.linear import Linear
from gpubackprop.nn.norm import BatchNorm, BatchNorm1d, BatchNorm2d
from gpubackprop.ops.batch_norm_act import batch_norm_add_relu, batch_norm_relu
from gpubackprop.ops.linear_activation import linear_activation, linear_gelu_linear
from gpubackprop.tape import Tensor

Forward: TypeAlias = Callable[[Tensor], Any]


class Pattern(NamedTuple):
    """Layers of exactly these classes (a subclass may do something else), which `run(*layers)` does as one.

    `before`: where a layer of these classes comes next, it is better fused with the last of them.
    """

    classes: tuple[tuple[type[Layer], ...], ...]
    run: Callable[..., Forward]
    fits: Callable[..., bool] = lambda *layers: True
    before: tuple[type[Layer], ...] = ()

    def matches(self, layers: Sequence[Layer]) -> bool:
        """Whether a list begins with such layers."""
        first, then = layers[: len(self.classes)], layers[len(self.classes) :]
        return (
            len(first) == len(self.classes)
            and all(type(layer) in allowed for layer, allowed in zip(first, self.classes, strict=True))
            and self.fits(*first)
            and not (then and type(then[0]) in self.before)
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
    if any("forward" in vars(layer) for layer in container.layers):
        return [_alone(layer) for layer in container.layers]
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


def _linear_gelu_linear(first: Any, _: Layer, second: Any) -> Forward:
    def run(x: Tensor) -> Tensor:
        y: Tensor = linear_gelu_linear(x, first.weight, first.bias, second.weight, second.bias)
        return y

    return run


def _is_tanh(_: Layer, activation: Any, __: Layer) -> bool:
    return bool(activation.approximate == "tanh")


def _batch_norm_relu(norm: Any, relu: Any) -> Forward:
    def run(x: Tensor) -> Any:
        return norm.by_batch(batch_norm_relu, x) if norm.counts_all(x) else relu.forward(norm.forward(x))

    return run


def _residual_relu(residual: Any, relu: Any) -> Forward:
    def run(x: Tensor) -> Any:
        if not _ends_in_batch_norm(residual, relu):  # its list may have changed
            return relu.forward(residual.forward(x))
        *before, norm = residual.body.layers
        if not norm.counts_all(x):
            return relu.forward(residual.forward(x))
        y = x
        for forward in chain(before):
            y = forward(y)
        return norm.by_batch(batch_norm_add_relu, y, residual.shortcut.forward(x) if residual.shortcut else x)

    return run


def _ends_in_batch_norm(residual: Any, _: Layer) -> bool:
    body = residual.body.layers
    return not residual.recompute and bool(body) and type(body[-1]) in BATCH_NORMS


BATCH_NORMS = (BatchNorm, BatchNorm1d, BatchNorm2d)
LINEAR, ACTIVATIONS = (Linear, Projection), (ReLU, GELU, Tanh, Sigmoid, SiLU)
PATTERNS = [
    Pattern((LINEAR, (GELU,), LINEAR), _linear_gelu_linear, _is_tanh, before=ACTIVATIONS),
    Pattern((LINEAR, ACTIVATIONS), _linear_activation),
    Pattern((BATCH_NORMS, (ReLU,)), _batch_norm_relu),
    Pattern(((Residual,), (ReLU,)), _residual_relu, _ends_in_batch_norm),
]

_CHAINS: WeakKeyDictionary[Sequential, tuple[tuple[Layer, ...], list[Forward]]] = WeakKeyDictionary()
Sequential.fused = staticmethod(_fused)  # containers stand below the layers that patterns are made of
