"""Metrics as mergeable sums on the device, so that partial batches and several ranks are weighted rightly.

A metric is a pair: `sums` turns one batch into 0-d device arrays that may be added up, `value` turns the totals, read
once as Python floats, into the figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from gpubackprop.backend import Array
from gpubackprop.errors import ShapeError
from gpubackprop.registry import Positive, Registry


class Metric:
    """A figure of how good the outputs are. `better` says which direction is an improvement."""

    better: ClassVar[Literal["max", "min"]] = "max"
    name: str = ""

    def sums(self, xp: Any, output: Array, target: Array) -> tuple[Array, ...]:
        """0-d sums over one batch."""
        raise NotImplementedError

    def value(self, *totals: float) -> float:
        """The figure, from the sums over all batches; not a number where nothing counted."""
        total, count = totals
        return total / count if count else math.nan

    def check(self, output_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
        """Raise ShapeError where this metric cannot compare such outputs with such targets."""
        if output_shape != target_shape:
            raise ShapeError(
                f"{self.name} compares outputs {output_shape} with targets {target_shape}; shapes must agree"
            )


metrics = Registry("metric", Metric)


class _ByClass(Metric):
    def check(self, output_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
        """Outputs (..., V), targets (...)."""
        if output_shape[:-1] != target_shape:
            raise ShapeError(f"{self.name} needs class targets: outputs are {output_shape}, targets {target_shape}")


@metrics.register("accuracy")
class Accuracy(_ByClass):
    """Share of samples whose largest logit is the target's; targets below zero are left out."""

    name = "accuracy"

    def sums(self, xp: Any, output: Array, target: Array) -> tuple[Array, Array]:
        """output (..., V), target (...) -> hits, count."""
        return (xp.argmax(output, axis=-1) == target).sum(), (target >= 0).sum()


@metrics.register("top_k_accuracy")
class TopKAccuracy(_ByClass):
    """Share of samples whose target is among the k largest logits."""

    def __init__(self, k: Positive = 5) -> None:
        self.k = k
        self.name = f"top_{k}_accuracy"

    def sums(self, xp: Any, output: Array, target: Array) -> tuple[Array, Array]:
        """output (..., V), target (...) -> hits, count."""
        own = xp.take_along_axis(output, xp.maximum(target, 0)[..., None], axis=-1)
        # Logits that tie with the target's stand before it, and one that is not a number is no hit.
        before = (~(output < own)).sum(axis=-1) - 1
        return ((before < self.k) & (target >= 0)).sum(), (target >= 0).sum()

    def check(self, output_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
        """Outputs (..., V) with V above k, targets (...)."""
        super().check(output_shape, target_shape)
        if self.k >= output_shape[-1]:
            raise ShapeError(f"{self.name} of {output_shape[-1]} outputs is always 1; lower k")


@metrics.register("binary_accuracy")
class BinaryAccuracy(Metric):
    """Share of logits on the right side of zero; targets 0 or 1 of the outputs' shape."""

    name = "binary_accuracy"

    def sums(self, xp: Any, output: Array, target: Array) -> tuple[Array, Array]:
        """output and target of one shape -> hits, count."""
        hits = (output > 0) == (target > 0.5)
        return hits.sum(), xp.ones_like(hits, dtype=xp.int64).sum()


@metrics.register("mae")
class MeanAbsoluteError(Metric):
    """Mean of |output - target|, in the target's unit."""

    better = "min"
    name = "mae"

    def sums(self, xp: Any, output: Array, target: Array) -> tuple[Array, Array]:
        """output and target of one shape -> sum of distances, count."""
        distance = xp.abs(output - target)
        return distance.sum(), xp.ones_like(distance, dtype=xp.int64).sum()


@metrics.register("mse")
class MeanSquaredError(Metric):
    """Mean of (output - target)²."""

    better = "min"
    name = "mse"

    def sums(self, xp: Any, output: Array, target: Array) -> tuple[Array, Array]:
        """output and target of one shape -> sum of squares, count."""
        square = (output - target) ** 2
        return square.sum(), xp.ones_like(square, dtype=xp.int64).sum()


@metrics.register("rmse")
class RootMeanSquaredError(MeanSquaredError):
    """√ of the mean of (output - target)², in the target's unit."""

    name = "rmse"

    def value(self, *totals: float) -> float:
        """√(sum / count)."""
        return math.sqrt(super().value(*totals))


class Totals:
    """Running totals of several tuples of 0-d device arrays, in float64, read once."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._totals: list[Array] | None = None

    def add(self, sums: Sequence[Array]) -> None:
        """Add one batch's sums."""
        wide = [value.astype(self._xp.float64) for value in sums]
        self._totals = wide if self._totals is None else [a + b for a, b in zip(self._totals, wide, strict=True)]

    def read(self, to_host: Any) -> list[float]:
        """The totals as Python floats; the one wait for the device of an evaluation."""
        return [float(to_host(total)) for total in self._totals or ()]
