"""What is checked: a layer as the model uses it, the loss, or the whole model, as a function of named arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.nn.layer import Layer
from gpubackprop.parameters import Param
from gpubackprop.tape import Op, Tape, Tensor

Point = dict[str, Array]  #: the arrays that are moved, inputs and params, by name

#: The sum of y · dy over all outputs, with which a tape ends in a number whose gradients are those of dy.
_weighted = Op(
    lambda b, *ys, dys: (sum((y * dy).sum() for y, dy in zip(ys, dys, strict=True)), dys),
    lambda b, dys, dy, slots: tuple(dy * each for each in dys),
)


@dataclass
class Subject:
    """`run(tape, tensors)` gives a tensor, or several; `tensors` are made of `inputs`, by the same names.

    tape    makes a new tape, which records or does not, in the state of the pass that is looked at
    masks   of the inputs that have one
    """

    run: Callable[[Tape, dict[str, Tensor]], Any]
    inputs: Point
    params: dict[str, Param]
    tape: Callable[[bool], Tape]
    masks: dict[str, Array] = field(default_factory=dict)

    @property
    def point(self) -> Point:
        """Copies of all arrays as they are, those that have gradients."""
        floats = {name: array.copy() for name, array in self.inputs.items() if array.dtype.kind == "f"}
        return floats | {name: param.value.copy() for name, param in self.params.items() if param.needs_grad}

    def outputs(self, point: Point, recording: bool = False) -> tuple[list[Tensor], dict[str, Tensor], Tape]:
        """All outputs at `point`, losses of the layers' own last; the input tensors; the tape."""
        for name, param in self.params.items():
            if name in point:
                param.value[...] = point[name]
        tape = self.tape(recording)
        tensors = {
            name: tape.input(point.get(name, array), name in point, self.masks.get(name))
            for name, array in self.inputs.items()
        }
        found = list(_tensors(self.run(tape, tensors)))
        return found + tape.losses, tensors, tape

    def draw(self, point: Point, rng: np.random.Generator) -> list[Array]:
        """A gradient for each output; none comes back to positions that a mask leaves out."""
        dys = []
        for y in self.outputs(point)[0]:
            dy = np.asarray(rng.normal(size=y.shape))
            if y.mask is not None:
                dy *= y.mask.reshape(*y.mask.shape, *(1,) * (dy.ndim - y.mask.ndim))
            dys.append(dy)
        return dys

    def objective(self, point: Point, dys: list[Array]) -> tuple[float, float]:
        """(the sum of y · dy, how large its terms are)."""
        products = [np.asarray(y.value * dy) for y, dy in zip(self.outputs(point)[0], dys, strict=True)]
        return float(sum(each.sum() for each in products)), float(np.sqrt(sum(np.square(p).sum() for p in products)))

    def gradients(self, point: Point, dys: list[Array]) -> Point | None:
        """The backward pass's gradients by name, zero where nothing came back; None where nothing has a gradient."""
        ys, tensors, tape = self.outputs(point, recording=True)
        total = _weighted(*ys, dys=dys)
        if not total.needs_grad:
            return None
        tape.backward(total)
        grads = {name: tensors[name].grad for name in point if name in tensors}
        grads |= {name: p.grad.copy() for name, p in self.params.items() if name in point and p in tape.written}
        return {
            name: np.zeros_like(a) if grads.get(name) is None else np.asarray(grads[name]) for name, a in point.items()
        }


class Uses:
    """How a model uses its layers in one pass: what each was given at its first use.

    with Uses(model, wanted) as uses: model.forward(…)
    """

    def __init__(self, model: Layer, wanted: Callable[[Layer], bool]) -> None:
        self.layers = {id(layer): (path, layer) for path, layer in reversed(list(model.walk())) if wanted(layer)}
        self.subjects: dict[int, Subject] = {}

    def __enter__(self) -> Uses:
        for _, layer in self.layers.values():
            vars(layer)["forward"] = self._noting(layer, layer.forward)
        return self

    def __exit__(self, *error: object) -> None:
        for _, layer in self.layers.values():
            del vars(layer)["forward"]

    def __iter__(self) -> Iterator[tuple[str, Layer, Subject]]:
        """(path, layer, subject), inner layers before those that hold them; what was not used is left out."""
        return ((path, layer, self.subjects[key]) for key, (path, layer) in self.layers.items() if key in self.subjects)

    def _noting(self, layer: Layer, forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def noting(x: Tensor) -> Any:
            if id(layer) not in self.subjects:
                self.subjects[id(layer)] = _subject(layer, forward, x)
            return forward(x)

        return noting


def _subject(layer: Layer, forward: Callable[[Tensor], Any], x: Tensor) -> Subject:
    before = x.tape
    samples = before.samples  # `each` has other ones than the model
    given = {"x": x} | {f"saved {name}": tensor for name, tensor in before.saved.items()}

    def tape(recording: bool) -> Tape:
        made = like(before, recording)
        made.samples = samples
        return made

    def run(tape: Tape, tensors: dict[str, Tensor]) -> Any:
        tape.saved = {name.removeprefix("saved "): tensor for name, tensor in tensors.items() if name != "x"}
        return forward(tensors["x"])

    inside = {f"{path}.{name}".lstrip("."): p for path, part in layer.walk() for name, p in params_of(part).items()}
    first = {id(param): name for name, param in reversed(inside.items())}  # a shared one under its first name
    params = {name: param for name, param in inside.items() if first[id(param)] == name}
    masks = {name: tensor.mask for name, tensor in given.items() if tensor.mask is not None}
    return Subject(run, {name: tensor.value for name, tensor in given.items()}, params, tape, masks)


def like(tape: Tape, recording: bool) -> Tape:
    """A new training pass with the same random numbers."""
    return Tape(
        tape.backend,
        training=True,
        recording=recording,
        seed=tape.seed,
        step=tape.step,
        samples=tape.samples,
        fuse=False,
    )


def params_of(layer: Layer) -> dict[str, Param]:
    """The layer's own params by name."""
    return {name: value for name, value in vars(layer).items() if isinstance(value, Param)}


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    else:
        for each in found.values() if isinstance(found, Mapping) else found:
            yield from _tensors(each)
