"""Losses of classes and of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gpubackprop.backend import Array, HostArray
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Shape
from gpubackprop.nn.loss import ByClass, Constant, Elementwise, check_counts, first_target, losses, run
from gpubackprop.ops import class_loss, loss
from gpubackprop.registry import NonNegativeFloat, Share
from gpubackprop.tape import Tensor


@losses.register("cross_entropy")
class CrossEntropyLoss(ByClass):
    """-log of the softmax probability of the target class: logits (N, ..., V), integer targets (N, ...).

    weight           one per class (V,): what a sample of that class counts
    ignore_index     targets of this value count nothing
    label_smoothing  share of the target that is spread over all classes; Szegedy et al. 2016
    """

    def __init__(
        self, weight: Sequence[float] | None = None, ignore_index: int = -100, label_smoothing: Share = 0.0
    ) -> None:
        super().__init__(weight, ignore_index)
        self.label_smoothing = label_smoothing

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, ..., V), targets (N, ...) of any integer dtype -> sum, weight."""
        return self.classify(loss.cross_entropy, output, target, weight, mask, label_smoothing=self.label_smoothing)


@losses.register("nll")
class NLLLoss(ByClass):
    """-x at the target class: log-probabilities x (N, ..., V) as log_softmax gives them, integer targets (N, ...).

    weight         one per class (V,): what a sample of that class counts
    ignore_index   targets of this value count nothing
    """

    log_probabilities = True

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, ..., V), targets (N, ...) of any integer dtype -> sum, weight."""
        return self.classify(class_loss.nll, output, target, weight, mask)


@losses.register("focal")
class FocalLoss(ByClass):
    """-alpha_t (1 - p_t)^gamma log p_t, p the softmax of logits (N, ..., V), integer targets (N, ...); Lin et al. 2017.

    What is classified well counts little. The mean is over positions: alpha scales the loss, not the weight.

    gamma          how little; 0 is cross entropy
    alpha          one per class (V,)
    ignore_index   targets of this value count nothing
    """

    def __init__(
        self, gamma: NonNegativeFloat = 2.0, alpha: Sequence[float] | None = None, ignore_index: int = -100
    ) -> None:
        super().__init__(alpha, ignore_index)
        self.gamma = gamma

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, ..., V), targets (N, ...) of any integer dtype -> sum, weight."""
        return self.classify(class_loss.focal, output, target, weight, mask, gamma=self.gamma)


@losses.register("hinge")
class HingeLoss(ByClass):
    """Σ over the other classes of max(0, margin - x_t + x_c)^p / V: outputs (N, ..., V), integer targets (N, ...).

    PyTorch's MultiMarginLoss, the multi-class hinge of Weston and Watkins 1999. The mean is over positions: `weight`,
    one per class (V,), scales the loss alone. Targets of ignore_index count nothing.
    """

    def __init__(
        self,
        p: Literal[1, 2] = 1,
        margin: float = 1.0,
        weight: Sequence[float] | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(weight, ignore_index)
        self.p, self.margin = p, margin

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs (N, ..., V), targets (N, ...) of any integer dtype -> sum, weight."""
        return self.classify(class_loss.hinge, output, target, weight, mask, p=self.p, margin=self.margin)


@losses.register("kl_div")
class KLDivLoss(Elementwise):
    """Σ_c t_c (log t_c - x_c): log-probabilities x (N, ..., V) as log_softmax gives them, targets t of their shape.

    The mean is over positions (N, ...): PyTorch's reduction `batchmean` for (N, V), not its default, which divides by
    the number of classes as well. weight and mask belong to positions.

    log_target   targets are log-probabilities too
    """

    log_probabilities = True

    def __init__(self, log_target: bool = False) -> None:
        self.log_target = log_target

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and targets (N, ..., V) -> sum, weight."""
        self.check(output.shape, target.shape)
        check_counts(output.shape[:-1], weight, mask)
        return run(class_loss.kl_div, output, target, weight, mask, log_target=self.log_target)

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Both shapes must be equal, and have an axis of classes."""
        super().check(output_shape, target_shape)
        if not output_shape:
            raise ShapeError(f"{self.name} needs distributions (..., V), got single numbers")


@losses.register("bce_with_logits")
class BCEWithLogitsLoss(Elementwise):
    """Binary cross entropy of logits (N, ...) and targets in [0, 1] of the same shape.

    pos_weight   what a positive counts, one for each value of the last axis
    """

    def __init__(self, pos_weight: Sequence[float] | None = None) -> None:
        self.pos_weight = Constant.of(pos_weight)

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and targets (N, ...) -> sum, weight."""
        positive = Constant.on(self.pos_weight, output)
        return self.compare(loss.bce_with_logits, output, target, positive, weight, mask)

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Both shapes must be equal, and pos_weight fit the last axis."""
        super().check(output_shape, target_shape)
        if self.pos_weight is not None and self.pos_weight.values.shape not in ((1,), tuple(output_shape[-1:])):
            shape = self.pos_weight.values.shape
            allowed = f"(1,) or {tuple(output_shape[-1:])}"
            raise ShapeError(
                f"{self.name}: pos_weight has shape {shape}; with outputs {output_shape} it must be {allowed}"
            )


@losses.register("binary_focal")
class BinaryFocalLoss(Elementwise):
    """-alpha_t (1 - p_t)^gamma log p_t of logits (N, ...) and targets 0 or 1 of the same shape; Lin et al. 2017.

    torchvision's sigmoid_focal_loss, and its mean.

    alpha   what a positive counts; a negative counts 1 - alpha; null: both count 1
    gamma   how little counts what is classified well
    """

    def __init__(self, alpha: Share | None = 0.25, gamma: NonNegativeFloat = 2.0) -> None:
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and targets (N, ...) -> sum, weight."""
        return self.compare(class_loss.binary_focal, output, target, weight, mask, alpha=self.alpha, gamma=self.gamma)

    def check_targets(self, target: HostArray) -> None:
        """Nothing but 0 and 1."""
        wrong = (target != 0) & (target != 1)
        if wrong.any():
            what = first_target(target, wrong)
            raise UsageError(f"{self.name}: {what}; targets are 0 or 1 (bce_with_logits takes shares)")
