"""One optimizer update: forward, loss, backward, clipping, update. What the trainer runs, and what users can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, TypeAlias

import numpy as np

from gpubackprop.backend import Array, Backend, HostArray
from gpubackprop.backend.precision import is_float
from gpubackprop.errors import UsageError
from gpubackprop.nn.layer import Layer
from gpubackprop.nn.loss import ByClass, Elementwise, Loss
from gpubackprop.ops.loss import with_auxiliary
from gpubackprop.optim import GradientNoise, LossScale, Optimizer, WeightAverage
from gpubackprop.optim.clip import clip_norm, clip_value
from gpubackprop.optim.wrapper import Wrapper
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import did_you_mean
from gpubackprop.tape import Tape, Tensor
from gpubackprop.training.parts import inside
from gpubackprop.training.states import held_back, in_place

#: Named arrays of one batch: inputs (N, *shape), targets (N, ...); perhaps mask (N, T), which positions are real, and
#: weight (N,) of the samples. Where there are several inputs, masks or targets, they are dicts of arrays.
Batch: TypeAlias = Mapping[str, Any]
PARTS = ("inputs", "targets", "mask", "weight")


class TrainStep:
    """`step(x, target)`, `step(batch)` or `step([batch, batch])` makes one update and returns the mean loss, shape ().

    Several batches accumulate: the update equals the one of the large batch to rounding, since losses are sums and are
    divided once, by the weight of all (batch statistics aside; auxiliary losses too, where masks or weights give the
    samples of one batch more weight than those of another). Nothing waits for the device; `float(loss)` does.

    clip_norm   scale the gradient down to this Euclidean norm where it is larger
    clip_value  clip every element of the gradient to ±this
    noise       added to the gradient, before it is clipped
    average     a running mean of the weights, kept up to date
    loss_scale  a factor on the loss while gradients are computed; a model in float16 has one unless it is given. A step
                whose gradient overflows changes nothing but the scale: it counts as a step, no more
    After a step `grad_norm` holds the norm before clipping, shape (), where clip_norm is used.
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        noise: GradientNoise | None = None,
        average: WeightAverage | None = None,
        loss_scale: LossScale | None = None,
    ) -> None:
        for name, holder in (("optimizer", optimizer), ("noise", noise), ("average", average)):
            if holder is not None and holder.params is not model.parameters():
                raise UsageError(
                    f"the {name} holds the parameters of another model, or of an earlier build of this one"
                )
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.clip_norm, self.clip_value, self.noise, self.average = clip_norm, clip_value, noise, average
        self.grad_norm: Array | None = None
        #: States of stateful layers after the last step, by micro-batch.
        self.carries: list[dict[str, list[Array]]] = []
        self._backend = model.built.backend
        if loss_scale is None and model.parameters().dtype == np.float16:
            loss_scale = LossScale(self._backend)
        self.loss_scale = loss_scale
        self._begun = False  # whether the weights are being updated; of a replayed step it is not known
        self._update = self._backend.repeated(self.update, self._on_device, self._made_of)
        self._number = self._backend.from_host(np.zeros((), np.uint64))

    def __call__(self, *data: Any) -> Array:
        """One update on (x, target), a batch, or a list of batches."""
        batches, b = as_batches(data), self._backend
        if b.asynchronous:
            self._check_targets(batches)
            with b.running():  # what is set on the device for the step, in the order of steps
                return self._counted(batches)
        if isinstance(self.loss, Elementwise):
            self._check_targets(batches)
        return self._counted(batches)

    def _check_targets(self, batches: Sequence[Batch]) -> None:
        """On the host still: a replayed step would not look."""
        for batch in batches:
            check_targets(self.model, self.loss, batch)

    def _counted(self, batches: Sequence[Batch]) -> Array:
        self._number[...] = self.optimizer.steps  # on the device, so that a captured step sees it change
        for part in (self.noise, self.average):
            if part is not None:
                part.prepare(self.optimizer.steps)
        counted, self._begun = self.optimizer.counted(), True
        try:
            self.optimizer.prepare()
            loss, self.grad_norm = self._update(batches)
        except BaseException as error:
            if isinstance(error, Exception) or not self._begun:  # Ctrl-C may come behind the update
                self.optimizer.recount(counted)  # a step that was refused is none
            raise
        return loss

    def _on_device(self, batches: Sequence[Batch]) -> list[Batch]:
        return [on_device(self.model, self.loss, batch) for batch in batches]

    def _made_of(self) -> list[object]:
        parts: list[object] = [self, self._backend, self.model.built, self.optimizer]
        parts += [self.noise, self.average, self.loss_scale]
        inner = self.optimizer
        while isinstance(inner, Wrapper):
            inner = inner.optimizer
            parts.append(inner)
        parts += [*inside(self.model), *inside(self.loss), *self.model.built.stored.values()]
        return [part for part in parts if part is not None]

    def update(self, batches: Sequence[Batch]) -> tuple[Array, Array | None]:
        """The part that can be captured, everything but moving data to the device and counting: loss, gradient norm."""
        b = self._backend
        self._begun = False
        params = self.optimizer.params
        held = [next(iter(carry.values()))[0].shape[0] for carry in self.carries if carry]
        if held and sum(held) != sum(map(samples_in, batches)):
            self.carries.clear()  # the states of other sequences: a step of what is left at the end of an epoch
        self.carries += [{} for _ in range(len(batches) - len(self.carries))]
        oks: list[Array] = []
        evaluate = partial(self.gradient, batches, self.carries[: len(batches)], oks)
        losses, weight, tapes, carries = self.optimizer.gradient(evaluate)
        ok = reduce(b.xp.logical_and, oks) if oks else None
        if ok is not None:
            b.unlaunched("a loss scale may leave the step out")
            carries = [held_back(b, ok, new, old) for new, old in zip(carries, self.carries, strict=False)]
        if any(carries) and b.asynchronous:
            if not all(self.carries):
                b.only_once("sequences begin anew", passing=True)
            carries = [in_place(b, held, new) for held, new in zip(self.carries, carries, strict=False)]
        elif any(carries):
            b.only_once("layers hand states on from step to step")
        self.carries[: len(batches)] = carries
        if not (b.asynchronous or isinstance(self.loss, ByClass | Elementwise)):
            b.only_once(f"{self.loss.name} looks at its targets")
        if isinstance(self.optimizer, Wrapper) and not b.asynchronous:  # a graph holds what each does on the device
            b.only_once(f"{type(self.optimizer).__name__} does not do the same in every step")
        if self.noise is not None:
            b.rule(type(self.noise).add)(self.noise, self._number)
        if self.clip_value is not None:
            b.rule(clip_value)(b, params.grad, self.clip_value)
        norm = None
        if self.clip_norm is not None:
            norm = b.rule(clip_norm)(b, params.grad, self.clip_norm)
            if ok is not None:
                params.clear_padding()
        self._begun = True
        self.optimizer.update(ok)
        if self.average is not None:
            self.average.update(ok)
        with self._buffers_held(ok):
            for tape in tapes:
                tape.apply_effects()
        if self.loss_scale is not None and ok is not None:
            self.loss_scale.update(ok)
        return b.xp.asarray(b.divide(losses, weight)), norm  # a 0-d array, where NumPy gives a scalar

    @contextmanager
    def _buffers_held(self, ok: Array | None) -> Iterator[None]:
        """Where `ok` is false the model's buffers are afterwards what they were."""
        stored = self.model.built.stored.values() if ok is not None else ()
        before = [(each.value, each.value.copy()) for each in stored if isinstance(each, Buffer)]
        yield
        for array, old in before:
            array[...] = self._backend.xp.where(ok, array, old)

    def carried(self) -> dict[str, HostArray]:
        """The states that stateful layers hand on, for a checkpoint: NumPy arrays by micro-batch, layer and number."""
        to_host = self._backend.to_host
        return {
            f"{number}.{key}.{place}": to_host(array)
            for number, carry in enumerate(self.carries)
            for key, arrays in carry.items()
            for place, array in enumerate(arrays)
        }

    def carry_on(self, carried: Mapping[str, HostArray]) -> None:
        """Go on with the states that `carried` gave."""
        self.carries = []
        for name in sorted(carried, key=lambda name: int(name.rpartition(".")[2])):
            (number, _, rest), array = name.partition("."), self._backend.from_host(carried[name])
            self.carries += [{} for _ in range(int(number) + 1 - len(self.carries))]
            self.carries[int(number)].setdefault(rest.rpartition(".")[0], []).append(array)

    def gradient(
        self, batches: Sequence[Batch], before: Sequence[dict[str, Any]], oks: list[Array]
    ) -> tuple[Array, Array, list[Tape], list[dict[str, Any]]]:
        """Fill the gradient of the mean loss where the params stand; what `accumulate` gives, and the states after it.

        The states of stateful layers `before` are left as they are: an optimizer may want another gradient of the step.
        Where the loss is scaled, `oks` takes whether the gradient is finite, shape ().
        """
        carries = [dict(each) for each in before]
        scale = self.loss_scale
        factor = None if scale is None else scale.scale
        losses, weight, tapes = accumulate(self.model, self.loss, batches, self._number, carries, factor)
        if scale is not None:
            oks.append(scale.unscale_and_check(self._backend, self.optimizer.params.grad))
        return losses, weight, tapes, carries


def value_and_grad(model: Layer, loss: Loss, x: Any, target: Any, *, step: int = 0) -> tuple[Array, dict[str, Array]]:
    """The mean loss in training mode, shape (), and its gradient for every trainable parameter.

    Gradients come under PyTorch's keys and in its layouts, as the same kind of array as `x`; shared weights under their
    first key. Parameters and buffers stay as they were. `step` is what dropout masks are a function of.
    """
    batch = on_device(model, loss, {"inputs": x, "targets": target})
    built = model.built
    with built.backend.running():
        losses, weight, _ = accumulate(model, loss, [batch], step)
    give = (lambda a: a) if built.backend.owns(x) else built.backend.to_host
    params = built.parameters
    grads = {s.name: give(s.param.to_torch(s.param.grad.copy())) for s in params.segments if s.param.needs_grad}
    return give(built.backend.xp.asarray(losses / weight)), grads


def accumulate(
    model: Layer,
    loss: Loss,
    batches: Sequence[Batch],
    step: int | Array,
    carries: Sequence[dict[str, Any] | None] | None = None,
    scale: Array | None = None,
) -> tuple[Array, Array, list[Tape]]:
    """Forward and backward over micro-batches on the device, filling the gradient of the mean loss, times `scale`.

    Returns the summed loss, the summed weight, both of shape (), and the tapes, whose effects are still to be applied.
    """
    built = model.built
    written: set[Param] = set()
    tapes: list[Tape] = []
    b, totals, first = built.backend, None, 0
    start, unit = scale, None  # of the backward pass; what gradients are in units of, where there is a scale
    for batch, carry in zip(batches, carries or [None] * len(batches), strict=True):
        count = samples_in(batch)
        samples = b.xp.arange(first, first + count)
        tape = Tape(
            b,
            training=True,
            recording=True,
            seed=built.seed,
            step=step,
            samples=samples,
            written=written,
            carry=carry,
        )
        total, weight = batch_loss(model, loss, tape, batch)[1:]
        # Of several batches the weight of all is known only after the last one.
        if len(batches) == 1:
            start = b.xp.asarray(b.divide(b.xp.ones_like(weight.value) if scale is None else scale, weight.value))
        elif scale is not None and unit is None:  # a scale fits gradients of a mean: short ones of a sum overflow
            unit = b.xp.where(weight.value > 0, weight.value, b.xp.ones_like(weight.value))
            start = scale / unit
        tape.backward(total, start)
        found = total.value, weight.value
        totals = found if totals is None else tuple(map(b.add, totals, found))
        first += count
        tapes.append(tape)
    for segment in built.parameters.segments:
        if segment.param not in written:
            b.assign(segment.param.grad, 0)
    assert totals is not None
    if len(batches) > 1:
        grad = built.parameters.grad
        b.divide(grad, totals[1] if unit is None else totals[1] / unit, out=grad)
    return *totals, tapes


def batch_loss(model: Layer, loss: Loss, tape: Tape, batch: Batch) -> tuple[Any, Tensor, Tensor]:
    """The model's output, and the loss's sum and weight, for one batch on the device."""
    output: Any = model.forward(tape.input(batch["inputs"], mask=batch.get("mask")))
    mask = target_mask(output, batch)
    total, weight = loss.forward(output, batch["targets"], weight=batch.get("weight"), mask=mask)
    for auxiliary in tape.losses:
        total = with_auxiliary(total, weight.value, auxiliary, samples=samples_in(batch))
    return output, total, weight


def target_mask(output: Any, batch: Batch) -> Any:
    """Which targets count, None: all; of several heads by name, unless it is a mask (N,) of samples."""
    mask, targets = batch.get("mask"), batch["targets"]
    if not isinstance(output, Mapping):
        return _of_targets(output, targets, None if isinstance(mask, Mapping) else mask, batch["inputs"])
    if mask is not None and not isinstance(mask, Mapping) and mask.ndim == 1:
        return mask
    found = {
        head: _of_targets(y, targets[head], mask.get(head) if isinstance(mask, Mapping) else mask, batch["inputs"])
        for head, y in output.items()
        if isinstance(targets, Mapping) and head in targets
    }
    return {head: own for head, own in found.items() if own is not None} or None


def _of_targets(output: Tensor, targets: Any, mask: Array | None, inputs: Any) -> Array | None:
    """The mask that came with the output, else the batch's own, where it belongs to the targets."""
    if output.mask is not None:
        mask = output.mask
    elif len(output.shape) == 2 and not isinstance(inputs, Mapping) and (inputs.ndim > 2 or inputs.dtype.kind == "i"):
        mask = mask if mask is not None and mask.ndim == 1 else None  # it is a sequence's, of which (N, K) is one value
    if mask is None or isinstance(targets, Mapping) or mask.shape != targets.shape[: mask.ndim]:
        return None  # it is the inputs' own: a class for a whole sequence
    return mask


def samples_in(batch: Batch) -> int:
    """How many samples a batch holds."""
    inputs = batch["inputs"]
    return int(np.shape(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)[0])


def as_batches(data: Sequence[Any]) -> Sequence[Batch]:
    """(x, target), (batch,) or ([batch, …],) as a list of batches."""
    if len(data) == 2 and not (isinstance(data[0], Mapping) and "targets" in data[0]):
        return [{"inputs": data[0], "targets": data[1]}]
    if len(data) == 1 and isinstance(data[0], Mapping):
        return [data[0]]
    if len(data) == 1 and isinstance(data[0], Sequence) and data[0] and all(isinstance(b, Mapping) for b in data[0]):
        return data[0]
    raise UsageError("a step takes (x, target), one batch of named arrays, or a non-empty list of batches")


def on_device(model: Layer, loss: Loss, batch: Batch) -> dict[str, Array]:
    """The batch's arrays on the model's device: inputs in its precision, other float arrays too unless that is short
    (then in float32), integers as int64, masks as booleans.

    Raises UsageError, ShapeError where the arrays do not fit together, the model or the loss.
    """
    if missing := [name for name in PARTS[:2] if name not in batch]:
        raise UsageError(f"a batch needs inputs and targets; {missing[0]} is missing, there is {', '.join(batch)}")
    if unknown := [name for name in batch if name not in PARTS]:
        close = did_you_mean(unknown[0], PARTS)
        raise UsageError(f"a batch has an unknown part {unknown[0]!r}; allowed: {', '.join(PARTS)}{close}")
    count = samples_in(batch)
    if not count:
        raise UsageError("a batch is empty: inputs holds 0 samples, of which there is no mean loss; leave it out")
    for name, array in _named(batch):
        if np.shape(array)[:1] != (count,):
            raise UsageError(f"batch[{name!r}] has shape {np.shape(array)}, but inputs holds {count} samples")
    named = list(_named(batch))
    for name, mask in named:
        if name.startswith("mask") and all(
            np.shape(mask) != np.shape(array)[: np.ndim(mask)]
            for other, array in named
            if other.startswith(("inputs", "targets"))
        ):
            shapes = ", ".join(f"{other} {np.shape(array)}" for other, array in named if other != name)
            raise UsageError(f"batch[{name!r}] of shape {np.shape(mask)} fits nothing: {shapes}; it is (N, T)")
    check_targets(model, loss, batch)
    inputs, built = model.as_input(batch["inputs"]), model.built
    dtypes = {"mask": (bool, bool)}  # by name: of floats, and of integers
    usual = built.parameters.master.dtype, np.int64
    return {
        name: inputs if name == "inputs" else _plain(built.backend, array, *dtypes.get(name, usual))
        for name, array in batch.items()
    }


def check_targets(model: Layer, loss: Loss, batch: Batch) -> None:
    """Raise UsageError for targets on the host, where looking waits for nothing, that make no sense."""
    targets: Any = batch.get("targets")
    if not all(isinstance(array, np.ndarray) for _, array in _named({"targets": targets})):
        return
    loss.check_targets(targets)
    if not model.built.backend.asynchronous or "inputs" not in batch:
        return  # on the CPU an op looks at its labels
    shape = model.outputs_for(batch["inputs"])
    if shape and isinstance(shape, Mapping) == isinstance(targets, Mapping):  # else the loss has its own word
        loss.check_labels(targets, shape)


def _named(batch: Batch) -> Iterator[tuple[str, Any]]:
    """The arrays of a batch, of dicts each for itself, as `inputs.source`."""
    for name, value in batch.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", array) for key, array in value.items())
        else:
            yield name, value


def _plain(backend: Backend, array: Any, floats: Any, integers: Any) -> Any:
    if isinstance(array, Mapping):
        return {name: _plain(backend, each, floats, integers) for name, each in array.items()}
    here = array if backend.owns(array) else backend.from_host(array)
    kind = "f" if is_float(here.dtype) else np.dtype(here.dtype).kind
    wanted = np.dtype({"f": floats, "i": integers, "u": integers}.get(kind, here.dtype))
    return here if here.dtype == wanted else here.astype(wanted)
