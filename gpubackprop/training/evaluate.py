"""Loss and metrics of a model over a split, and its outputs for new inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from gpubackprop.backend import Array, HostArray
from gpubackprop.errors import UsageError
from gpubackprop.nn.layer import Layer, outcome
from gpubackprop.nn.loss import Loss
from gpubackprop.tape import Tape
from gpubackprop.training.metric import Metric, Totals
from gpubackprop.training.parts import inside
from gpubackprop.training.step import Batch, batch_loss, check_targets, on_device, target_mask


class Evaluation:
    """`evaluation(batches)` gives `{"loss": …, "accuracy": …}` in inference mode; every sample counts the same,
    whatever batch it is in.

    A GPU captures what is done with a batch, as it does a step: keep the object, and that is used again. Raises
    UsageError, ShapeError where batches fit neither model nor loss.
    """

    def __init__(self, model: Layer, loss: Loss, metrics: Sequence[Metric]) -> None:
        self.model, self.loss, self.metrics = model, loss, metrics
        self._carry: dict[str, Any] = {}  # states of stateful layers, from batch to batch
        self._lengths: list[int] = []  # how many sums each metric has
        self._backend = b = model.built.backend
        self._run: Any = self._as_it_is
        if b.asynchronous:
            self._run = b.repeated(self.sums, self._on_device, self._made_of, "evaluations")

    @np.errstate(all="ignore")  # as in a step: the figures tell, where a GPU would be silent too
    def __call__(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The figures of a split."""
        b, totals = self._backend, Totals(self._backend.xp)
        self._carry.clear()
        for batch in batches:
            if b.asynchronous:  # what is captured looks no more
                check_targets(self.model, self.loss, batch)
            with b.running():
                totals.add(self._run([batch]))
            if self._carry:  # each batch goes on where the last one ended, which a graph would not
                self._run = self._as_it_is
        loss, weight, *sums = totals.read(b.to_host)
        found, read = {"loss": loss / weight if weight else float("nan")}, iter(sums)
        for metric, length in zip(self.metrics, self._lengths, strict=True):
            found[metric.name] = metric.value(*islice(read, length))
        return found

    def sums(self, batches: Sequence[Batch]) -> tuple[Array, ...]:
        """Of a batch on the device: the loss's sum and weight, and then what the metrics add up, all of shape ()."""
        (batch,), b = batches, self._backend
        output, total, weight = batch_loss(self.model, self.loss, Tape(b, carry=self._carry), batch)
        mask, values = target_mask(output, batch), outcome(output)
        masks = [] if mask is None else [mask]
        sums = [metric.sums(b.xp, values, batch["targets"], *masks) for metric in self.metrics]
        self._lengths = list(map(len, sums))
        return total.value, weight.value, *chain.from_iterable(sums)

    def _as_it_is(self, batches: Sequence[Batch]) -> tuple[Array, ...]:
        return self.sums(self._on_device(batches))

    def _on_device(self, batches: Sequence[Batch]) -> list[Batch]:
        return [on_device(self.model, self.loss, batch) for batch in batches]

    def _made_of(self) -> list[object]:
        parts = [self, self._backend, self.model.built, *inside(self.model), *inside(self.loss)]
        return [*parts, *chain.from_iterable(map(inside, self.metrics)), *self.model.built.stored.values()]


def evaluate(model: Layer, loss: Loss, metrics: Sequence[Metric], batches: Iterable[Batch]) -> dict[str, float]:
    """`{"loss": …, "accuracy": …}`: an `Evaluation`, once."""
    return Evaluation(model, loss, metrics)(batches)


def outputs(model: Layer, inputs: HostArray, batch_size: int, mask: HostArray | None = None) -> Iterator[HostArray]:
    """The model's outputs for inputs (N, *shape), and the mask (N, T) of sequences, batch by batch, on the host.

    Raises UsageError for a model of several outputs.
    """
    for start in range(0, len(inputs), batch_size):
        x = model.as_input(inputs[start : start + batch_size])
        backend = model.built.backend
        real = None if mask is None else backend.from_host(mask[start : start + batch_size])
        with backend.running():
            y: Any = model.forward(Tape(backend).input(x, mask=real))
        if isinstance(y, Mapping):
            heads = ", ".join(y)
            raise UsageError(f"the model has several outputs ({heads}), predict writes one; use Python: load(run)(x)")
        yield backend.to_host(outcome(y))
