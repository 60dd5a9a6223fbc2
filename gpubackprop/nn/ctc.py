"""Connectionist temporal classification."""

from __future__ import annotations

from gpubackprop.backend import Array, HostArray
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Shape
from gpubackprop.nn.loss import Loss, check_counts, check_largest, first_target, losses, run
from gpubackprop.ops.ctc import ctc
from gpubackprop.registry import NonNegative
from gpubackprop.tape import Tensor


@losses.register("ctc")
class CTCLoss(Loss):
    """-log of the probability of a label sequence, summed over all its alignments in time; Graves et al. 2006.

    Outputs are logits (N, T, V): unlike PyTorch's, this loss takes the log_softmax itself. Targets (N, S) are label
    numbers, padded with -100 (anything below zero) at their ends. How long an output is tells its mask (N, T), which
    comes from the data's; without one all are T long. Each sample's loss is divided by its number of labels, then the
    mean is over samples, as PyTorch's default does.

    blank           the label that stands for none
    zero_infinity   let targets count nothing that do not fit into the time; else their loss is infinite. Either way
                    they have no gradient
    """

    def __init__(self, blank: NonNegative = 0, zero_infinity: bool = False) -> None:
        self.blank, self.zero_infinity = blank, zero_infinity

    def forward(
        self, output: Tensor, target: Array, weight: Array | None = None, mask: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, T, V), targets (N, S); weight (N,); mask (N,) of samples or (N, T) of times -> sum, weight."""
        self.check(output.shape, target.shape)
        if target.dtype.kind not in "iu":
            raise UsageError(f"{self.name} needs label numbers, integers, as targets; got {target.dtype}")
        times = output.mask
        if times is None and mask is not None and mask.ndim == 2:
            times = mask
        samples = mask if mask is not None and mask.ndim == 1 else None
        check_counts(output.shape[:2], times)
        check_counts(output.shape[:1], weight, samples)
        lengths = None if times is None else times.sum(axis=1)
        options = {"blank": self.blank, "zero_infinity": self.zero_infinity}
        try:
            return run(ctc, output, target, lengths, weight, samples, **options)
        except IndexError:  # NumPy's; a GPU does not look
            self.check_labels(target, output.shape[1:])
            raise

    def check(self, output_shape: Shape, target_shape: Shape, classes: int | None = None) -> None:
        """Outputs (T, V) and targets (S,), or both with the batch; V above blank."""
        if len(output_shape) not in (2, 3) or len(target_shape) != len(output_shape) - 1:
            raise ShapeError(
                f"{self.name} needs logits (T, V) and labels (S,) of each sample, got outputs {tuple(output_shape)} "
                f"and targets {tuple(target_shape)}"
            )
        if len(output_shape) == 3 and output_shape[0] != target_shape[0]:
            raise ShapeError(f"{self.name}: outputs of {output_shape[0]} samples, targets of {target_shape[0]}")
        if self.blank >= output_shape[-1]:
            raise ShapeError(
                f"{self.name}: blank is {self.blank}, but the model's {output_shape[-1]} outputs are 0 to "
                f"{output_shape[-1] - 1}"
            )

    def check_targets(self, target: HostArray) -> None:
        """Padding stands at the end, and no label is the blank."""
        if target.ndim != 2:
            return  # `check` tells
        if ((target[:, :-1] < 0) & (target[:, 1:] >= 0)).any():
            raise UsageError(f"{self.name}: a label stands behind padding; targets are padded at their ends")
        if (blank := target == self.blank).any():
            raise UsageError(
                f"{self.name}: {first_target(target, blank)}; it is the blank, and labels are the other numbers"
            )

    def check_labels(self, target: HostArray, output_shape: Shape) -> None:
        """None above V - 1."""
        check_largest(self, target, output_shape[-1], "labels")
