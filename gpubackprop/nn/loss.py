"""Losses. Each takes logits or outputs as the model gives them, and targets, and gives a sum and a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array, Backend, HostArray, NumpyBackend, choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Shape
from gpubackprop.ops.totals import only_classes
from gpubackprop.registry import Registry
from gpubackprop.tape import Op, Tape, Tensor


class Loss:
    """How far outputs are from targets, as (sum, weight); the mean is their quotient.

    Micro-batches and ranks add up both and divide once, so that accumulation equals the large batch. `weight` and
    `mask` of a batch, (N,) or per position, scale what an element counts in both.
    """

    class_targets = False  #: whether targets are class numbers, so that outputs are logits of classes
    log_probabilities = False  #: whether outputs are log-probabilities, so that the model ends with log_softmax

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """output (N, ...) and target -> sum, weight, both of shape (). Raises ShapeError where shapes do not fit."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Raise ShapeError where outputs cannot be compared with targets of such shapes (both with or without batch).

        `classes` is how many the data has, where that is known.
        """
        raise NotImplementedError(f"{type(self).__name__}.check")

    def check_targets(self, target: HostArray) -> None:
        """Raise UsageError for targets (N, ...), on the host still, whose values make no sense to this loss."""

    def check_labels(self, target: HostArray, output_shape: Shape) -> None:
        """Raise UsageError for targets (N, ...), on the host still, that are none of the labels of the model's outputs.

        output_shape   of one sample (..., V), by head where there are heads
        """

    def __call__(self, output: Any, target: Any) -> Any:
        """The mean loss of arrays, shape (); NumPy in, NumPy out, and CuPy likewise."""
        backend = backend_of(output)
        here = output if backend.owns(output) else backend.from_host(np.asarray(output))
        there = target if backend.owns(target) else backend.from_host(np.asarray(target))
        total, weight = self.forward(Tape(backend).input(here), there)
        return backend.xp.asarray(total.value / weight.value)

    @property
    def name(self) -> str:
        """As a config calls it."""
        return losses.name_of(type(self))


losses = Registry("loss", Loss)


class ByClass(Loss):
    """A loss of integer targets (N, ...), one for each row (V,) of outputs (N, ..., V).

    weight         one per class (V,): what a position of that class counts
    ignore_index   targets of this value count nothing
    """

    class_targets = True

    def __init__(self, weight: Sequence[float] | None = None, ignore_index: int = -100) -> None:
        self.weight, self.ignore_index = Constant.of(weight), ignore_index

    def classify(
        self, op: Op, output: Tensor, target: Array, weight: Array | None, mask: Array | None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Check what came and run the op."""
        self.check(output.shape, target.shape)
        if target.dtype.kind not in "iu":
            raise UsageError(f"{self.name} needs class numbers, integers, as targets; got {target.dtype}")
        check_counts(target.shape, weight, mask)
        arrays = (output, target, Constant.on(self.weight, output), weight, mask)
        if type(target) is np.ndarray:  # on the CPU, where looking waits for nothing; a GPU does not look
            self.check_classes(output.tape.backend, target, output.shape[-1])
        return run(op, *arrays, ignore_index=self.ignore_index, **options)

    def check_classes(self, b: Backend, target: HostArray, classes: int) -> None:
        """Raise UsageError for a target that is none of the classes of the outputs."""
        try:
            b.rule(only_classes)(b, target, classes, self.ignore_index)
        except IndexError:
            self.check_targets(target)
            self.check_labels(target, (classes,))
            raise

    def check_targets(self, target: HostArray) -> None:
        """No negative class but ignore_index: as an index it would silently count from the end."""
        if target.dtype.kind == "i" and target.size and target.min() < 0:
            wrong = (target < 0) & (target != self.ignore_index)
            if wrong.any():
                allowed = f"classes count from 0, and {self.ignore_index} is left out"
                raise UsageError(f"{self.name}: {first_target(target, wrong)}; {allowed}")

    def check_labels(self, target: HostArray, output_shape: Shape) -> None:
        """None above V - 1 but ignore_index."""
        if target.dtype.kind in "iu":
            check_largest(self, target, output_shape[-1], "classes", self.ignore_index)

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Outputs (..., V) with V at least the number of classes, targets (...)."""
        if tuple(output_shape[:-1]) != tuple(target_shape) or not output_shape:
            hint = "; give class numbers, not one-hot rows" if tuple(output_shape) == tuple(target_shape) else ""
            if len(output_shape) > 1 and not target_shape:
                hint = "; put flatten, or a pool over the positions, before the last layer"
            raise ShapeError(
                f"{self.name} needs one class number for each row of logits: outputs {tuple(output_shape)} go with "
                f"targets {tuple(output_shape[:-1])}, got {tuple(target_shape)}{hint}"
            )
        given = output_shape[-1]
        if classes is not None and given < classes:
            raise ShapeError(
                f"the model gives {given} outputs, the data has {classes} classes; end the model with linear: {classes}"
            )
        if self.weight is not None and self.weight.values.shape != (given,):
            shape = self.weight.values.shape
            raise ShapeError(f"{self.name}: weight has shape {shape}; with {given} outputs it must be ({given},)")


def check_largest(loss: Loss, target: HostArray, count: int, what: str, ignored: int = -1) -> None:
    """Raise UsageError for a target (N, ...) that is none of the model's `count` classes, or what they are called."""
    if target.size and target.max() >= count:
        wrong = (target >= count) & (target != ignored)
        if wrong.any():
            allowed = f"it is none of the model's {count} {what}, 0 to {count - 1}"
            raise UsageError(f"{loss.name}: {first_target(target, wrong)}; {allowed}")


def first_target(target: HostArray, wrong: HostArray) -> str:
    """`target 99 of sample 3`, and at which position, for the first of target (N, ...) where wrong (N, ...) holds."""
    place = tuple(np.argwhere(wrong)[0].tolist())
    sample, *position = place
    at = f" at {position[0] if len(position) == 1 else tuple(position)}" if position else ""
    more = f", the first of {count:,}" if (count := int(wrong.sum())) > 1 else ""
    return f"target {target[place]} of sample {sample}{at}{more}"


class Elementwise(Loss):
    """A loss of each element of the output; the target has the output's shape, and nothing is broadcast."""

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Both shapes must be equal."""
        if tuple(output_shape) != tuple(target_shape):
            raise ShapeError(
                f"{self.name} compares element by element: outputs are {tuple(output_shape)}, targets "
                f"{tuple(target_shape)}, and must be equal; {_remedy(tuple(output_shape), tuple(target_shape))}"
            )

    def compare(
        self, op: Op, output: Tensor, target: Array, *rest: Array | None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Check shapes and run the op; `rest` ends with weight and mask."""
        self.check(output.shape, target.shape)
        check_counts(output.shape, *rest[-2:])
        return run(op, output, target, *rest, **options)


def _remedy(output: Shape, target: Shape) -> str:
    if output == (*target, 1):
        return "give the targets that axis too: y[..., None]"
    return "reshape one of them, or use cross_entropy for class numbers"


class Constant:
    """Numbers of a config as an array on the device, copied there at the first use: later steps may be captured."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = np.asarray(values, np.float64)
        self._on: dict[tuple[str, str], Array] = {}

    @classmethod
    def of(cls, values: Sequence[float] | None) -> Constant | None:
        """None stays None."""
        return None if values is None else cls(values)

    @staticmethod
    def on(constant: Constant | None, like: Tensor) -> Array | None:
        """The array, on the device and in the dtype of `like`."""
        if constant is None:
            return None
        backend, dtype = like.tape.backend, like.value.dtype
        key = (backend.device, str(dtype))
        if key not in constant._on:
            constant._on[key] = backend.from_host(constant.values.astype(dtype))
        return constant._on[key]


def run(op: Op, output: Tensor, *constants: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Sum and weight, which the op gives in this order."""
    total, weight = op(output, *constants, **options)
    return total, weight


def check_counts(shape: Shape, *given: Array | None) -> None:
    """Weight and mask belong to the leading axes of what is counted."""
    for array in given:
        if array is not None and tuple(array.shape) != tuple(shape[: array.ndim]):
            raise ShapeError(f"weight or mask of shape {array.shape} does not fit {shape}; allowed: (N,) up to {shape}")


def backend_of(array: Any) -> Backend:
    """The backend of an array: CuPy's own device, else NumPy. Without kernels, which take a stream and memory anew."""
    is_cupy = type(array).__module__.partition(".")[0] == "cupy"
    return choose(f"cuda:{array.device.id}", "reference")[0] if is_cupy else NumpyBackend()
