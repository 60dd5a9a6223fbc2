"""Loss and metrics of a model over a split, and its outputs for new inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import HostArray
from gpubackprop.errors import UsageError
from gpubackprop.nn.layer import Layer, outcome
from gpubackprop.nn.loss import Loss
from gpubackprop.tape import Tape
from gpubackprop.training.metric import Metric, Totals
from gpubackprop.training.step import Batch, batch_loss, on_device, target_mask


@np.errstate(all="ignore")  # as in a step: the figures tell, where a GPU would be silent too
def evaluate(model: Layer, loss: Loss, metrics: Sequence[Metric], batches: Iterable[Batch]) -> dict[str, float]:
    """`{"loss": …, "accuracy": …}` in inference mode; every sample counts the same, whatever batch it is in."""
    backend = model.built.backend
    losses = Totals(backend.xp)
    totals = [Totals(backend.xp) for _ in metrics]
    carry: dict[str, Any] = {}
    for host in batches:
        batch = on_device(model, loss, host)
        with backend.running():
            output, total, weight = batch_loss(model, loss, Tape(backend, carry=carry), batch)
        losses.add([total.value, weight.value])
        mask, values = target_mask(output, batch), outcome(output)
        for metric, so_far in zip(metrics, totals, strict=True):
            so_far.add(metric.sums(backend.xp, values, batch["targets"], *([] if mask is None else [mask])))
    total_loss, total_weight = losses.read(backend.to_host)
    found = {"loss": total_loss / total_weight if total_weight else float("nan")}
    return found | {m.name: m.value(*t.read(backend.to_host)) for m, t in zip(metrics, totals, strict=True)}


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
