"""Losses of distances between vectors: the output of a sample is a pair or a triplet of them, stacked in one axis."""

from __future__ import annotations

from typing import Annotated, ClassVar

from gpubackprop.backend import Array, HostArray
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Shape
from gpubackprop.nn.loss import Loss, check_counts, first_target, losses, run
from gpubackprop.ops import pair_loss as ops
from gpubackprop.registry import NonNegativeFloat, PositiveFloat, Range
from gpubackprop.tape import Tensor


class _Stacked(Loss):
    """A loss of outputs (N, ..., K, D), K vectors that belong together."""

    vectors: ClassVar[int] = 2
    labels: ClassVar[tuple[int, int] | None] = None  #: what a target may be; None: targets are not looked at

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Outputs (..., K, D), and targets (...) where they are looked at."""
        if len(output_shape) < 2 or output_shape[-2] != self.vectors:
            raise ShapeError(
                f"{self.name} needs outputs (..., {self.vectors}, D), {self.vectors} vectors that are compared, "
                f"got {tuple(output_shape)}"
            )
        if self.labels is not None and tuple(target_shape) != tuple(output_shape[:-2]):
            raise ShapeError(
                f"{self.name} needs one target for each pair: outputs {tuple(output_shape)} go with targets "
                f"{tuple(output_shape[:-2])}, got {tuple(target_shape)}"
            )

    def check_targets(self, target: HostArray) -> None:
        """Nothing but the two labels."""
        if self.labels is not None:
            wrong = (target != self.labels[0]) & (target != self.labels[1])
            if wrong.any():
                allowed = f"targets are {self.labels[0]} or {self.labels[1]}"
                raise UsageError(f"{self.name}: {first_target(target, wrong)}; {allowed}")


@losses.register("cosine_embedding")
class CosineEmbeddingLoss(_Stacked):
    """Pairs (N, ..., 2, D): 1 - cos where the target (N, ...) is 1, max(0, cos - margin) where it is -1."""

    labels = (1, -1)

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pairs (N, ..., 2, D), targets (N, ...) -> sum, weight."""
        self.check(output.shape, target.shape)
        check_counts(output.shape[:-2], weight, mask)
        return run(ops.cosine_embedding, output, target, weight, mask, margin=self.margin)


@losses.register("contrastive")
class ContrastiveLoss(_Stacked):
    """Pairs (N, ..., 2, D): d²/2 where the target (N, ...) is 0, alike, max(0, margin - d)²/2 where it is 1, different.

    d is the Euclidean distance. Hadsell, Chopra and LeCun 2006, whose labels these are.
    """

    labels = (0, 1)

    def __init__(self, margin: PositiveFloat = 1.0) -> None:
        self.margin = margin

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pairs (N, ..., 2, D), targets (N, ...) -> sum, weight."""
        self.check(output.shape, target.shape)
        check_counts(output.shape[:-2], weight, mask)
        return run(ops.contrastive, output, target, weight, mask, margin=self.margin)


@losses.register("triplet")
class TripletMarginLoss(_Stacked):
    """Anchor a, positive c and negative n as (N, ..., 3, D): max(0, margin + d(a, c) - d(a, n)). Targets do not matter.

    margin   how much farther the negative is to be
    p        of the norm that is the distance, d(u, v) = ‖u - v + eps‖_p
    swap     take d(c, n) where that is the smaller one; Balntas et al. 2016
    """

    vectors = 3

    def __init__(
        self,
        margin: PositiveFloat = 1.0,
        p: Annotated[float, Range(ge=1)] = 2.0,
        eps: NonNegativeFloat = 1e-6,
        swap: bool = False,
    ) -> None:
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Triplets (N, ..., 3, D), any target -> sum, weight."""
        self.check(output.shape, target.shape)
        check_counts(output.shape[:-2], weight, mask)
        return run(ops.triplet, output, weight, mask, margin=self.margin, p=self.p, eps=self.eps, swap=self.swap)


@losses.register("info_nce")
class InfoNCELoss(_Stacked):
    """Two views of each sample as (N, 2, D): cross entropy of finding a view's partner among all others by cosine.

    NT-Xent of SimCLR, Chen et al. 2020; the mean is over the 2N views. Targets do not matter. The candidates are those
    of one batch: accumulated micro-batches have fewer of them than the large batch.
    """

    def __init__(self, temperature: PositiveFloat = 0.5) -> None:
        self.temperature = temperature

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Outputs (2, D) or, with the batch, (N, 2, D)."""
        super().check(output_shape, target_shape)
        if len(output_shape) > 3:
            raise ShapeError(f"{self.name} needs outputs (N, 2, D), got {tuple(output_shape)}")

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Views (N, 2, D), any target -> sum, weight."""
        self.check(output.shape, target.shape)
        check_counts(output.shape[:1], weight, mask)
        return run(ops.info_nce, output, weight, mask, temperature=self.temperature)
