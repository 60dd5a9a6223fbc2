"""What a step keeps in memory, by layer; and what to say where that is more than the device has."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import NamedTuple

import numpy as np

from gpubackprop.backend import Backend
from gpubackprop.backend.base import out_of_memory
from gpubackprop.backend.precision import PRECISIONS, is_short, working
from gpubackprop.config import Config
from gpubackprop.errors import OutOfMemoryError
from gpubackprop.nn.containers import Container, Each
from gpubackprop.nn.layer import Layer, Shape
from gpubackprop.nn.skip import Share
from gpubackprop.optim import Optimizer
from gpubackprop.parameters import Param, Parameters
from gpubackprop.training.step import TrainStep


class Use(NamedTuple):
    """A layer without layers inside, at one of the paths where it is used."""

    path: str
    layer: Layer
    items: int  #: how many items of a sample it is run over, by the `each` around it
    kept: bool  #: whether its output is kept for the backward pass: nothing around it is computed anew there


def uses(model: Layer) -> list[Use]:
    """All of a model whose shapes are settled."""
    return [use for use in _uses(model, "", 1, True) if use.layer.shapes is not None]


def _uses(layer: Layer, path: str, items: int, kept: bool) -> Iterator[Use]:
    if isinstance(layer, Share):
        yield from _uses(layer.target, path, items, kept)
        return
    yield Use(path, layer, items, kept)
    if isinstance(layer, Each):
        items *= layer.items
    kept = kept and not (isinstance(layer, Container) and layer.recompute)
    for key, child in layer.children().items():
        yield from _uses(child, f"{path}.{key}" if path else key, items, kept)


def output_of(layer: Layer) -> Shape:
    """The shape of its output."""
    assert layer.shapes is not None, "only layers whose shapes are known are used"
    return layer.shapes[1]


class Memory(NamedTuple):
    """Bytes that training on batches of a size keeps; what passes within an op, and a graph's copies, come on top."""

    weights: int  #: as the layers read them
    masters: int  #: as they are updated, 0 where those are the same
    gradients: int
    optimizer: int
    outputs: Mapping[str, int]  #: by layer, those that are kept for the backward pass

    @property
    def total(self) -> int:
        """The sum of all."""
        return self.weights + self.masters + self.gradients + self.optimizer + sum(self.outputs.values())


def memory(model: Layer, precision: str, batch: int, optimizer: Optimizer | None = None) -> Memory:
    """What a model keeps whose shapes are settled, trained by an optimizer if there is one already."""
    size, full = working(precision).itemsize, np.dtype(PRECISIONS[precision]).itemsize
    params = {id(each): each for _, layer in model.walk() for each in vars(layer).values() if isinstance(each, Param)}
    length = sum(-(-prod(each.shape) // Parameters.ALIGN) * Parameters.ALIGN for each in params.values())
    outputs = {use.path: use.items * prod(output_of(use.layer)) * batch * size for use in uses(model) if use.kept}
    masters = length * full if full != size else 0
    state = length * full * (optimizer.copies if optimizer is not None else 0)
    return Memory(length * size, masters, length * full, state, outputs)


@contextmanager
def explained(config: Config, model: Layer, batch: int, step: TrainStep | None = None) -> Iterator[None]:
    """Inside it an error that says that memory is used up becomes an OutOfMemoryError that says what for.

    It is about training on batches of this size; `step` is what does it, as soon as there is one.
    """
    with _caught(lambda: _of_training(config, model, batch, step)):
        yield


@contextmanager
def explained_in_use(model: Layer, batch: int) -> Iterator[None]:
    """The same about outputs of a trained model."""
    with _caught(lambda: _of_use(model, batch)):
        yield


@contextmanager
def _caught(words: Callable[[], tuple[str, str]]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        place, needed = words()
        traceback.clear_frames(error.__traceback__)  # whose variables hold the arrays
        raise OutOfMemoryError(f"out of memory on {place.format(reason)}; {needed}") from error


def _of_training(config: Config, model: Layer, batch: int, step: TrainStep | None) -> tuple[str, str]:
    needed = memory(model, config.precision, batch, step.optimizer if step is not None else None)
    parts = {"weights": needed.weights + needed.masters, "gradients": needed.gradients, "optimizer": needed.optimizer}
    held = ", ".join(f"{name} {in_bytes(value)}" for name, value in parts.items() if value)
    keeps = f"a step on a batch of {batch} keeps {in_bytes(needed.total)} or more"
    layers = f"layer outputs {in_bytes(sum(needed.outputs.values()))}, most of it by {_largest(needed)}"
    place = _place(step.model.built.backend) if step is not None else f"device {config.device}: {{}}"
    return place, f"{keeps}: {held}, {layers}; {', or '.join(_remedies(config, needed, batch))}"


def _of_use(model: Layer, batch: int) -> tuple[str, str]:
    backend, precision = model.built.backend, model.parameters().dtype.name
    needed = memory(model, precision, batch)
    remedy = (
        "close other programs" if backend.device == "cpu" else "try --device cpu, or see in nvidia-smi who holds it"
    )
    outputs = f"the largest outputs on a batch of {batch} are {_largest(needed)}"
    return _place(backend), f"weights take {in_bytes(needed.weights)}, {outputs}; {remedy}"


def _place(backend: Backend) -> str:
    there = backend.capacity()
    free = f", {in_bytes(there[0])} of {in_bytes(there[1])} are free" if there else ""
    return f"device {backend.device}: {{}}{free}"


def _largest(needed: Memory) -> str:
    paths = sorted(needed.outputs, key=needed.outputs.__getitem__, reverse=True)[:3]
    return ", ".join(f"layer {path} ({in_bytes(needed.outputs[path])})" for path in paths)


def _remedies(config: Config, needed: Memory, batch: int) -> Iterator[str]:
    if 2 * sum(needed.outputs.values()) < needed.total:
        yield "take a smaller model"
        yield "an optimizer with less state (sgd)"
        yield f"a lower data.batch_size (now {batch})"
        return
    yield f"lower data.batch_size (now {batch}), with training.accumulate as much higher for the same updates"
    yield "set recompute: true on a container, which then keeps its input alone"
    if not is_short(working(config.precision)) and config.device != "cpu":
        yield "set precision: bfloat16"


def in_bytes(count: float) -> str:
    """`1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
