"""Metrics as mergeable sums on the device, so that partial batches and several ranks are weighted rightly.

A metric is a pair: `sums` turns one batch into 0-d device arrays that may be added up, `value` turns the totals, read
once as Python floats, into the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gpubackprop.backend import Array
from gpubackprop.errors import ShapeError
from gpubackprop.registry import Positive, Registry, did_you_mean


class Metric:
    """A figure of how good the outputs are. `better` says which direction is an improvement."""

    better: Literal["max", "min"] = "max"
    name: str = ""

    def sums(self, xp: Any, output: Any, target: Any, mask: Any = None) -> tuple[Array, ...]:
        """0-d sums over one batch; `mask`, where there is one, stands on the target's leading axes, True: counts."""
        raise NotImplementedError

    def value(self, *totals: float) -> float:
        """The figure, from the sums over all batches; not a number where nothing counted."""
        total, count = totals
        return total / count if count else math.nan

    def check(self, output_shape: Any, target_shape: Any) -> None:
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

    def sums(self, xp: Any, output: Array, target: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """output (..., V), target (...) -> hits, count."""
        return _totals(xp, xp.argmax(output, axis=-1) == target, mask, target >= 0)


@metrics.register("top_k_accuracy")
class TopKAccuracy(_ByClass):
    """Share of samples whose target is among the k largest logits."""

    def __init__(self, k: Positive = 5) -> None:
        self.k = k
        self.name = f"top_{k}_accuracy"

    def sums(self, xp: Any, output: Array, target: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """output (..., V), target (...) -> hits, count."""
        own = xp.take_along_axis(output, xp.maximum(target, 0)[..., None], axis=-1)
        # Logits that tie with the target's stand before it, and one that is not a number is no hit.
        before = (~(output < own)).sum(axis=-1) - 1
        return _totals(xp, before < self.k, mask, target >= 0)

    def check(self, output_shape: tuple[int, ...], target_shape: tuple[int, ...]) -> None:
        """Outputs (..., V) with V above k, targets (...)."""
        super().check(output_shape, target_shape)
        if self.k >= output_shape[-1]:
            raise ShapeError(f"{self.name} of {output_shape[-1]} outputs is always 1; lower k")


@metrics.register("perplexity")
class Perplexity(_ByClass):
    """exp of the mean cross entropy: among how many equally likely classes the model wavers.

    Targets below zero are left out; so are the weights and the smoothing that a loss may have.
    """

    better = "min"
    name = "perplexity"

    def sums(self, xp: Any, output: Array, target: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """output (..., V), target (...) -> the sum of -log p of the targets, count."""
        shifted = output - output.max(axis=-1, keepdims=True)
        own = xp.take_along_axis(shifted, xp.maximum(target, 0)[..., None], axis=-1)[..., 0]
        return _totals(xp, xp.log(xp.exp(shifted).sum(axis=-1)) - own, mask, target >= 0)

    def value(self, *totals: float) -> float:
        """exp(sum / count), infinite where that is too large for a number."""
        mean = super().value(*totals)
        return math.exp(mean) if mean < 700 else mean if math.isnan(mean) else math.inf


@metrics.register("bits_per_character")
class BitsPerCharacter(Perplexity):
    """The mean cross entropy in bits, of one token; a character where tokens are characters."""

    name = "bits_per_character"

    def value(self, *totals: float) -> float:
        """sum / count / log 2."""
        return Metric.value(self, *totals) / math.log(2)


@metrics.register("binary_accuracy")
class BinaryAccuracy(Metric):
    """Share of logits on the right side of zero; targets 0 or 1 of the outputs' shape."""

    name = "binary_accuracy"

    def sums(self, xp: Any, output: Array, target: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """output and target of one shape -> hits, count."""
        return _totals(xp, (output > 0) == (target > 0.5), mask)


@metrics.register("mae")
class MeanAbsoluteError(Metric):
    """Mean of |output - target|, in the target's unit."""

    better = "min"
    name = "mae"

    def sums(self, xp: Any, output: Array, target: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """output and target of one shape -> sum of distances, count."""
        return _totals(xp, xp.abs(output - target), mask)


@metrics.register("mse")
class MeanSquaredError(Metric):
    """Mean of (output - target)²."""

    better = "min"
    name = "mse"

    def sums(self, xp: Any, output: Array, target: Array, mask: Array | None = None) -> tuple[Array, Array]:
        """output and target of one shape -> sum of squares, count."""
        return _totals(xp, (output - target) ** 2, mask)


@metrics.register("rmse")
class RootMeanSquaredError(MeanSquaredError):
    """√ of the mean of (output - target)², in the target's unit."""

    name = "rmse"

    def value(self, *totals: float) -> float:
        """√(sum / count)."""
        return math.sqrt(super().value(*totals))


@metrics.register("head")
class Head(Metric):
    """A metric of one head of a model with several outputs; its figure is called `<name>/<metric>`."""

    def __init__(self, name: str, metric: Metric) -> None:
        self.head, self.metric = name, metric
        self.name, self.better = f"{name}/{metric.name}", metric.better

    def sums(
        self, xp: Any, output: Mapping[str, Array], target: Mapping[str, Array], mask: Any = None
    ) -> tuple[Array, ...]:
        """Outputs and targets by head, mask (N,) or by head -> the metric's sums."""
        own = mask.get(self.head) if isinstance(mask, Mapping) else mask
        return self.metric.sums(xp, output[self.head], target[self.head], *([] if own is None else [own]))

    def value(self, *totals: float) -> float:
        """The metric's figure."""
        return self.metric.value(*totals)

    def check(self, output_shape: Any, target_shape: Any) -> None:
        """Both are dicts by head, hold this head, and suit the metric."""
        for shapes, what in ((output_shape, "outputs"), (target_shape, "targets")):
            if not isinstance(shapes, Mapping):
                raise ShapeError(f"{self.name} needs {what} by head, got {shapes}; leave head out for a single output")
            if self.head not in shapes:
                known = ", ".join(map(str, shapes))
                raise ShapeError(
                    f"{self.name}: no {what} called {self.head!r}; known: {known}{did_you_mean(self.head, shapes)}"
                )
        self.metric.check(output_shape[self.head], target_shape[self.head])


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


def _totals(xp: Any, values: Array, mask: Array | None, kept: Array | None = None) -> tuple[Array, Array]:
    """values (N, ...), mask of their leading axes, kept of their shape -> sum and count of those that count."""
    if kept is None:
        kept = xp.ones(values.shape, bool)
    if mask is not None:
        kept = kept & mask.reshape(*mask.shape, *(1,) * (values.ndim - mask.ndim))
    return xp.where(kept, values, 0).sum(), kept.sum()
