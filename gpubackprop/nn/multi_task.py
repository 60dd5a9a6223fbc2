"""One loss for a model with several heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.loss import Loss, backend_of, check_counts, losses, run
from gpubackprop.ops.multi_task import multi_task
from gpubackprop.ops.totals import element_weights
from gpubackprop.registry import did_you_mean
from gpubackprop.tape import Tape, Tensor


@losses.register("multi_task")
class MultiTaskLoss(Loss):
    """The weighted sum of the mean losses of several heads: outputs and targets are dicts by head.

    losses    of each head; heads that are not named have none
    weights   of each head, 1 where it is not given

    As (sum, weight) it is (W Σ_h weight_h mean_h, W), where W is the number of samples, by their weights. Micro-batches
    so add up to the large batch exactly where every head's own weight grows with the samples, and nearly so where
    masks, ignored targets or class weights make it uneven.
    """

    def __init__(self, losses: dict[str, Loss], weights: dict[str, float] | None = None) -> None:
        if not losses:
            raise UsageError("multi_task needs the loss of one head at least: {HEAD: LOSS}")
        for name in weights or ():
            if name not in losses:
                raise UsageError(
                    f"weights has {name!r}, losses has {', '.join(losses)}; every weight belongs to a loss"
                    f"{did_you_mean(name, losses)}"
                )
        self.losses, self.weights = losses, {name: (weights or {}).get(name, 1.0) for name in losses}

    def forward(  # type: ignore[override]  # dicts by head take the place of one tensor and one array
        self,
        output: Mapping[str, Tensor],
        target: Mapping[str, Array],
        weight: Array | None = None,
        mask: Array | Mapping[str, Array] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs and targets by head, weight (N,), mask (N,) or by head -> sum, weight.

        A head's output brings its own mask, which counts where it fits the head's targets.
        """
        self._check_heads(output, target)
        pairs: list[Any] = []
        for head, loss in self.losses.items():
            own = mask.get(head) if isinstance(mask, Mapping) else mask
            along = output[head].mask
            if own is None and along is not None and tuple(along.shape) == tuple(target[head].shape[: along.ndim]):
                own = along
            total, count = loss.forward(output[head], target[head], weight=weight, mask=own)
            pairs += [total, count.value]
        first = output[next(iter(self.losses))]
        samples = None if isinstance(mask, Mapping) or (mask is not None and mask.ndim > 1) else mask
        check_counts(first.shape[:1], weight, samples)
        xp, shape = first.tape.backend.xp, first.shape[:1]
        counts = element_weights(xp, shape, first.value.dtype, weight, samples)
        scales = tuple(self.weights.values())
        return run(multi_task, xp.broadcast_to(counts, shape).sum(), *pairs, scales=scales)

    def check(self, output_shape: Any, target_shape: Any, classes: Any = None) -> None:
        """Every head's outputs and targets, by the head's own loss; dicts by head."""
        self._check_heads(output_shape, target_shape)
        for head, loss in self.losses.items():
            known = classes.get(head) if isinstance(classes, Mapping) else None
            with _named(head):
                loss.check(output_shape[head], target_shape[head], known)

    def check_targets(self, target: Any) -> None:
        """Every head's targets, by the head's own loss."""
        for head, loss in self.losses.items():
            if head in target:
                with _named(head):
                    loss.check_targets(target[head])

    def check_labels(self, target: Any, output_shape: Any) -> None:
        """Every head's labels, by the head's own loss; outputs are a dict by head too."""
        for head, loss in self.losses.items():
            if head in target and head in output_shape:
                with _named(head):
                    loss.check_labels(target[head], output_shape[head])

    def __call__(self, output: Any, target: Any) -> Any:
        """The mean loss of dicts of arrays, shape (); NumPy in, NumPy out, and CuPy likewise."""
        backend = backend_of(next(iter(output.values())))
        tape = Tape(backend)
        here, there = (
            {head: a if backend.owns(a) else backend.from_host(np.asarray(a)) for head, a in arrays.items()}
            for arrays in (output, target)
        )
        total, weight = self.forward({head: tape.input(a) for head, a in here.items()}, there)
        return backend.xp.asarray(total.value / weight.value)

    def _check_heads(self, outputs: Any, targets: Any) -> None:
        for found, what in ((outputs, "outputs"), (targets, "targets")):
            if not isinstance(found, Mapping):
                raise ShapeError(
                    f"{self.name} needs {what} by head: {', '.join(self.losses)}; "
                    f"{'end the model with heads' if what == 'outputs' else 'give a dict of arrays'}"
                )
            for head in self.losses:
                if head not in found:
                    raise ShapeError(
                        f"{self.name} has a loss for head {head!r}; {what} are {', '.join(map(str, found))}"
                        f"{did_you_mean(head, found)}"
                    )


@contextmanager
def _named(head: str) -> Iterator[None]:
    """Errors in it say which head they are about."""
    try:
        yield
    except UsageError as error:  # or a ShapeError
        raise type(error)(f"head {head}: {error}") from None
