"""Backward passes against numerical gradients, at the points where a model really uses its layers.

Each layer gets the input that the model feeds it and a random gradient dy of its output. Along random directions the
slope of Σ y · dy by central differences must be what the backward pass says; cheap at any size, and a mistake in any
element shows (after HIPS/autograd).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.diagnose.slope import Slope, compare
from gpubackprop.diagnose.subject import Point, Subject, Uses, like
from gpubackprop.nn.containers import Container
from gpubackprop.nn.layer import Layer, layers
from gpubackprop.nn.loss import Loss
from gpubackprop.tape import Tape, Tensor
from gpubackprop.training.step import Batch, batch_loss, on_device, samples_in, target_mask

TOLERANCE = 1e-5
DIRECTIONS = 2
ATTEMPTS = 4  #: points beside a kink that are tried
ASIDE = 0.05  #: how far beside, in units of the array's size


@dataclass
class Finding:
    """What came out for one layer, for the loss, or for the whole model.

    errors   by name ("x", "weight", …): the largest relative difference of backward pass and numerical gradient
    verdict  ok · kink (right beside the kinks on which the point lies) · wrong · unclear (kinks wherever one looks) ·
             constant (nothing has a gradient) · inner (a layer inside is wrong)
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    errors: dict[str, float] = field(default_factory=dict)
    verdict: str = "ok"
    reason: str = ""
    layer: Layer | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing wrong was found here."""
        return self.verdict not in ("wrong", "inner")


def is_plugin(thing: object) -> bool:
    """Whether the thing's class comes from elsewhere than this package."""
    return type(thing).__module__.partition(".")[0] != "gpubackprop"


def is_checked(layer: Layer) -> bool:
    """All layers but the package's own containers, which hold no derivative that the whole model does not."""
    return is_plugin(layer) or not isinstance(layer, Container)


def check_model(
    model: Layer,
    loss: Loss,
    batch: Batch,
    *,
    wanted: Callable[[Layer], bool] = is_checked,
    with_loss: bool = True,
    with_model: bool = True,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> list[Finding]:
    """Check every wanted layer of a model built in float64 on the CPU, on one batch; then loss and whole model.

    Training mode; dropout masks are those of the first step. Weights, buffers and gradients stay as they were.
    """
    built = model.built
    ready = on_device(model, loss, batch)
    kept = built.parameters.value.copy()
    samples = np.arange(samples_in(ready))
    first = Tape(built.backend, training=True, seed=built.seed, samples=samples, fuse=False)
    try:
        with Uses(model, wanted) as uses:
            output: Any = model.forward(first.input(ready["inputs"], mask=ready.get("mask")))
        found: dict[str, Finding] = {}
        for path, layer, subject in uses:
            finding = Finding(path, layers.name_of(type(layer)), tuple(subject.inputs["x"].shape), layer=layer)
            inner = [other for other in found if other.startswith(f"{path}.") and not found[other].passed]
            if inner:
                finding.verdict, finding.reason = "inner", f"holds {', '.join(inner)}"
            else:
                _check(finding, subject, tolerance, seed)
            found[path] = finding
        findings = [found[path] for path, _ in model.walk() if path in found]
        if with_loss:
            finding = Finding("loss", loss.name, tuple(np.shape(next(iter(_by_head(output).values())).value)))
            findings.append(_check(finding, _of_loss(loss, output, ready, first), tolerance, seed))
        if with_model:
            inputs = ready["inputs"]
            first_input = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
            finding = Finding("model", "", tuple(first_input.shape))
            findings.append(_check(finding, _of_model(model, loss, ready, first), tolerance, seed))
    finally:
        built.parameters.value[...] = kept
        built.parameters.grad[...] = 0
    return findings


def _by_head(output: Any) -> Mapping[str, Tensor]:
    return output if isinstance(output, Mapping) else {"output": output}


def _of_loss(loss: Loss, output: Any, batch: Batch, tape: Tape) -> Subject:
    heads = _by_head(output)
    mask = target_mask(output, batch)

    def run(_: Tape, tensors: dict[str, Tensor]) -> Tensor:
        given: Any = dict(tensors) if isinstance(output, Mapping) else tensors["output"]
        return loss.forward(given, batch["targets"], weight=batch.get("weight"), mask=mask)[0]

    masks = {name: head.mask for name, head in heads.items() if head.mask is not None}
    return Subject(
        run, {n: head.value for n, head in heads.items()}, {}, lambda recording: like(tape, recording), masks
    )


def _of_model(model: Layer, loss: Loss, batch: Batch, tape: Tape) -> Subject:
    params = {segment.name: segment.param for segment in model.built.parameters.segments}
    return Subject(
        lambda tape, _: batch_loss(model, loss, tape, batch)[1], {}, params, lambda recording: like(tape, recording)
    )


def _check(finding: Finding, subject: Subject, tolerance: float, seed: int) -> Finding:
    """Fill in errors and verdict."""
    try:
        _compare(finding, subject, tolerance, np.random.default_rng(seed))
    except _WrongError as error:
        finding.verdict, finding.reason = "wrong", str(error)
    return finding


class _WrongError(Exception):
    """A backward pass gave what no gradient can be, or nothing."""


class _Place:
    """A point at which slopes are compared: what the backward pass says there, and the objective's value."""

    def __init__(self, subject: Subject, point: Point, dys: list[Array]) -> None:
        self.subject, self.point, self.dys = subject, point, dys
        self.value, self.size = subject.objective(point, dys)
        try:
            self.grads = subject.gradients(point, dys)
        except Exception as error:  # whatever a user's own backward pass may raise; forward has just gone well
            raise _WrongError(f"it raises {type(error).__name__}: {' '.join(str(error).split())}") from error

    def slope(self, names: list[str], tolerance: float, rng: np.random.Generator) -> Slope | None:
        """Compare along one direction that moves the named arrays; None where nothing depends on a saved tensor."""
        here, grads = self.point, self.grads
        assert grads is not None, "it had gradients at the start"
        directions = {name: _size(here[name]) * rng.normal(size=here[name].shape) for name in names}
        for name in names:
            if grads[name].shape != here[name].shape:
                raise _WrongError(f"d{name} has shape {grads[name].shape}, but must have {here[name].shape}")
            fixed = self.subject.params[name].fixed if name in self.subject.params else None
            if fixed is not None:
                directions[name][fixed] = 0

        def f(t: float) -> float:
            moved = {name: here[name] + t * directions[name] for name in names}
            return self.subject.objective(here | moved, self.dys)[0] if t else self.value

        claimed = float(sum((grads[name] * directions[name]).sum() for name in names))
        length = float(np.sqrt(sum(np.square(grads[name] * _size(here[name])).sum() for name in names)))
        if names[0].startswith("saved ") and not length and f(0.5) == self.value:
            return None
        return compare(f, claimed, scale=max(length, 1e-7 * self.size), size=self.size, tolerance=tolerance)


def _compare(finding: Finding, subject: Subject, tolerance: float, rng: np.random.Generator) -> None:
    dys = subject.draw(subject.point, rng)
    start = _Place(subject, subject.point, dys)
    if start.grads is None or not start.point:
        finding.verdict = "constant"
        return
    # The whole model is moved as one: its layers have been looked at one by one.
    groups = {"weights": list(start.point)} if finding.path == "model" else {name: [name] for name in start.point}
    for name, members in groups.items():
        for _ in range(DIRECTIONS):
            slope, beside = _slope(start, members, tolerance, rng)
            if slope is None:
                break  # a saved tensor that this layer does not look at
            finding.errors[name] = max(finding.errors.get(name, 0.0), slope.error)
            if slope.error > tolerance:
                finding.verdict = "unclear" if slope.kink and finding.verdict != "wrong" else "wrong"
                break
            if beside and finding.verdict == "ok":
                finding.verdict = "kink"
    if finding.verdict == "wrong":
        wrong = {name: error for name, error in finding.errors.items() if error > tolerance}
        each = [f"d{name} differs from the numerical gradient by {error:.2g}" for name, error in wrong.items()]
        finding.reason = f"{', '.join(each)} (relative)"


def _slope(start: _Place, names: list[str], tolerance: float, rng: np.random.Generator) -> tuple[Slope | None, bool]:
    """(the comparison along one direction, whether it took a place beside a kink)."""
    slope = start.slope(names, tolerance, rng)
    for attempt in range(ATTEMPTS):
        if slope is None or slope.error <= tolerance or not slope.kink:
            return slope, attempt > 0
        aside = {name: a + ASIDE * _size(a) * rng.normal(size=a.shape) for name, a in start.point.items()}
        slope = _Place(start.subject, aside, start.dys).slope(names, tolerance, rng)
    return slope, True


def _size(array: Array) -> float:
    """The root mean square, 1 where all is zero."""
    return float(np.sqrt(np.mean(np.square(array)))) or 1.0 if array.size else 1.0
