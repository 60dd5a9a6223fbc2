"""Normalisation layers."""

from __future__ import annotations

from math import prod

import numpy as np

from gpubackprop.errors import ShapeError
from gpubackprop.nn.init import ones, zeros
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.add_norm import add_layer_norm, add_rms_norm
from gpubackprop.ops.norm import (
    batch_norm,
    batch_norm_inference,
    masked_batch_norm,
    update_masked_statistics,
    update_statistics,
)
from gpubackprop.ops.sample_norm import group_norm, layer_norm, rms_norm, update_instance_statistics
from gpubackprop.ops.shape import add
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, Positive, PositiveFloat, Share
from gpubackprop.tape import Op, Tensor


@layers.register("batch_norm")
class BatchNorm(Layer):
    """Each channel to mean 0 and variance 1 over the batch, then weight and bias: (..., C) -> (..., C).

    Inference uses running statistics: running = (1 − momentum) running + momentum new, momentum None: their mean.
    Positions of a sequence that a mask leaves out do not count, and come out as 0 where statistics are the batch's.
    One class for rows (N, C), sequences (N, T, C) and images (N, H, W, C). Ioffe and Szegedy 2015.
    """

    weight: Param | None = None
    bias: Param | None = None
    running_mean: Buffer
    running_var: Buffer
    num_batches_tracked: Buffer
    ranks: tuple[int, ...] = ()  #: of a sample; empty: any

    def __init__(
        self,
        num_features: Inferred[Positive] = None,
        eps: PositiveFloat = 1e-5,
        momentum: Share | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        if self.ranks and len(shape) not in self.ranks:
            wanted = " or ".join(map(str, self.ranks))
            raise ShapeError(f"{type(self).__name__} needs samples of {wanted} axes, got {shape}; use BatchNorm")
        if not shape:
            raise ShapeError("batch_norm needs (..., C), got single numbers; put reshape before it")
        self.settle("num_features", shape[-1])
        return shape

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight 1, bias 0, and the running statistics."""
        shape = (self.size("num_features"),)
        arrays: dict[str, Param | Buffer] = _affine(shape) if self.affine else {}
        if self.track_running_stats:
            arrays |= _statistics(shape)
        return arrays

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., C) -> (N, ..., C)."""
        y: Tensor
        if not x.training and self.track_running_stats:
            mean, var = self.running_mean.value, self.running_var.value
            y = batch_norm_inference(x, self.weight, self.bias, mean, var, eps=self.eps)
            return y
        if not self.counts_all(x):
            if x.training and self.track_running_stats:
                running = (self.running_mean.value, self.running_var.value, self.num_batches_tracked.value)
                x.tape.after_step(update_masked_statistics, *running, x.value, x.mask, self.momentum)
            y = masked_batch_norm(x, self.weight, self.bias, x.mask, eps=self.eps)
            return y
        return self.by_batch(batch_norm, x)

    def counts_all(self, x: Tensor) -> bool:
        """Whether the statistics are those of the whole batch: no running ones, and no position is masked."""
        running = not x.training and self.track_running_stats
        return not running and (x.mask is None or len(x.shape) == 2)

    def by_batch(self, op: Op, x: Tensor, *others: Tensor) -> Tensor:
        """`op`, which is batch norm or does more behind it, of x (N, ..., C) and others of its shape."""
        y: Tensor
        try:
            y, mean, var = op(x, self.weight, self.bias, *others, eps=self.eps)
        except ShapeError as error:
            raise (error.under(self.path, self) if self.path else error) from None
        if x.training and self.track_running_stats:
            running = (self.running_mean.value, self.running_var.value, self.num_batches_tracked.value)
            count = prod(x.shape[:-1])
            x.tape.after_step(update_statistics, *running, mean.value, var.value, count, self.momentum)
        return y


class BatchNorm1d(BatchNorm):
    """Batch norm of rows (N, C) or sequences (N, T, C), under PyTorch's name."""

    ranks = (1, 2)


class BatchNorm2d(BatchNorm):
    """Batch norm of images (N, H, W, C), under PyTorch's name."""

    ranks = (3,)


class _LastAxes(Layer):
    """A norm over the last axes, `normalized_shape`: the last one unless given."""

    streams = True
    weight: Param | None = None
    normalized_shape: Shape | None

    def __init__(self, normalized_shape: int | Shape | None) -> None:
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape

    @property
    def axes(self) -> int:
        """How many."""
        return len(self.normalized_shape or (1,))

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        if self.axes > len(shape):
            raise ShapeError(f"normalized_shape is {self.normalized_shape}, but the input has {shape}")
        self.settle("normalized_shape", shape[len(shape) - self.axes :])
        return shape

    def of_sum(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """x and r of one shape -> their sum, and its norm: what follows a residual."""
        s: Tensor = add(x, r)
        return s, self.forward(s)

    def affine(self) -> dict[str, Param | Buffer]:
        """weight 1, bias 0, of the normalized shape."""
        if self.normalized_shape is None:
            where = self.path or type(self).__name__
            raise ShapeError(f"layer {where}: normalized_shape is not known; give it, or build with input_shape")
        return _affine(self.normalized_shape)


@layers.register("layer_norm")
class LayerNorm(_LastAxes):
    """Each sample to mean 0 and variance 1 over its last axes, then weight and bias: shape unchanged.

    `normalized_shape` says over which axes, and is the last one unless given: C of images, D of sequences.
    Ba, Kiros and Hinton 2016.
    """

    bias: Param | None = None

    def __init__(
        self,
        normalized_shape: Inferred[Positive | tuple[Positive, ...]] = None,
        eps: PositiveFloat = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(normalized_shape)
        self.eps, self.elementwise_affine, self.has_bias = eps, elementwise_affine, bias

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight 1, bias 0."""
        arrays = self.affine() if self.elementwise_affine else {}
        return {name: array for name, array in arrays.items() if name == "weight" or self.has_bias}

    def of_sum(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """x and r of one shape -> their sum, and its norm."""
        if not x.tape.fuses:
            return super().of_sum(x, r)
        s, y = add_layer_norm(x, r, self.weight, self.bias, axes=self.axes, eps=self.eps)
        return s, y

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., *S) -> (N, ..., *S)."""
        y: Tensor = layer_norm(x, self.weight, self.bias, axes=self.axes, eps=self.eps)
        return y


@layers.register("rms_norm")
class RMSNorm(_LastAxes):
    """Each sample to mean square 1 over its last axes, then weight: shape unchanged. Zhang and Sennrich 2019.

    normalized_shape  over which axes; the last one unless given
    eps               None: the rounding error of the precision, as PyTorch's
    """

    def __init__(
        self,
        normalized_shape: Inferred[Positive | tuple[Positive, ...]] = None,
        eps: PositiveFloat | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        super().__init__(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight 1."""
        return {"weight": self.affine()["weight"]} if self.elementwise_affine else {}

    def of_sum(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """x and r of one shape -> their sum, and its norm."""
        if not x.tape.fuses:
            return super().of_sum(x, r)
        s, y = add_rms_norm(x, r, self.weight, axes=self.axes, eps=self.eps)
        return s, y

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., *S) -> (N, ..., *S)."""
        y: Tensor = rms_norm(x, self.weight, axes=self.axes, eps=self.eps)
        return y


@layers.register("group_norm")
class GroupNorm(Layer):
    """Each sample to mean 0 and variance 1 in each group of channels, then weight and bias: (..., C) -> (..., C).

    The statistics of a group are over its channels and all positions; those that a mask leaves out do not count, and
    come out as 0. Wu and He 2018.
    """

    weight: Param | None = None
    bias: Param | None = None

    def __init__(
        self,
        num_groups: Positive,
        num_channels: Inferred[Positive] = None,
        eps: PositiveFloat = 1e-5,
        affine: bool = True,
    ) -> None:
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged. C must be a multiple of num_groups, and a group more than one value."""
        if not shape:
            raise ShapeError("group_norm needs (..., C), got single numbers; put reshape before it")
        channels = self.settle("num_channels", shape[-1])
        if channels % self.num_groups:
            fits = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
            raise ShapeError(f"num_groups is {self.num_groups}, but must divide the {channels} channels: {fits}")
        if prod(shape) == self.num_groups:
            raise ShapeError(f"a group of {shape} is a single value, which has no variance; lower num_groups")
        return shape

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight 1, bias 0, (C,)."""
        return _affine((self.size("num_channels"),)) if self.affine else {}

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., C) -> (N, ..., C)."""
        y: Tensor = group_norm(x, self.weight, self.bias, x.mask, groups=self.num_groups, eps=self.eps)
        return y


@layers.register("instance_norm")
class InstanceNorm(Layer):
    """Each channel of each sample to mean 0 and variance 1 over all positions: (..., C) -> (..., C).

    With track_running_stats inference uses running statistics: running = (1 − momentum) running + momentum new.
    Positions that a mask leaves out do not count, and come out as 0. One class for sequences (N, T, C), images
    (N, H, W, C) and volumes. Ulyanov, Vedaldi and Lempitsky 2016.
    """

    weight: Param | None = None
    bias: Param | None = None
    running_mean: Buffer
    running_var: Buffer
    num_batches_tracked: Buffer

    def __init__(
        self,
        num_features: Inferred[Positive] = None,
        eps: PositiveFloat = 1e-5,
        momentum: Share = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged. There must be more than one position."""
        if prod(shape[:-1]) < 2:
            raise ShapeError(f"instance_norm needs (..., C) with more than one position, got {shape}; use layer_norm")
        self.settle("num_features", shape[-1])
        return shape

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight 1, bias 0, and the running statistics, (C,); PyTorch keeps a counter, and never counts."""
        shape = (self.size("num_features"),)
        return (_affine(shape) if self.affine else {}) | (_statistics(shape) if self.track_running_stats else {})

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., C) -> (N, ..., C)."""
        y: Tensor
        if self.track_running_stats:
            mean, var = self.running_mean.value, self.running_var.value
            if not x.training:
                y = batch_norm_inference(x, self.weight, self.bias, mean, var, eps=self.eps)
                return y
            x.tape.after_step(update_instance_statistics, mean, var, x.value, x.mask, self.momentum)
        y = group_norm(x, self.weight, self.bias, x.mask, groups=x.shape[-1], eps=self.eps)
        return y


def _affine(shape: Shape) -> dict[str, Param | Buffer]:
    return {"weight": Param(shape, ones, kind="norm"), "bias": Param(shape, zeros, kind="norm")}


def _statistics(shape: Shape) -> dict[str, Param | Buffer]:
    return {
        "running_mean": Buffer(shape, 0.0),
        "running_var": Buffer(shape, 1.0),
        "num_batches_tracked": Buffer((), 0, np.int64),
    }
