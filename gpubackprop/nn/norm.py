"""Normalisation layers."""

from __future__ import annotations

from math import prod

import numpy as np

from gpubackprop.errors import ShapeError
from gpubackprop.nn.init import ones, zeros
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.norm import batch_norm, batch_norm_inference, layer_norm, update_statistics
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, Positive, PositiveFloat, Share
from gpubackprop.tape import Tensor


@layers.register("batch_norm")
class BatchNorm(Layer):
    """Each channel to mean 0 and variance 1 over the batch, then weight and bias: (..., C) -> (..., C).

    Inference uses running statistics: running = (1 − momentum) running + momentum new, momentum None: their mean.
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
            arrays["running_mean"], arrays["running_var"] = Buffer(shape, 0.0), Buffer(shape, 1.0)
            arrays["num_batches_tracked"] = Buffer((), 0, np.int64)
        return arrays

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., C) -> (N, ..., C)."""
        y: Tensor
        if not x.training and self.track_running_stats:
            mean, var = self.running_mean.value, self.running_var.value
            y = batch_norm_inference(x, self.weight, self.bias, mean, var, eps=self.eps)
            return y
        try:
            y, mean, var = batch_norm(x, self.weight, self.bias, eps=self.eps)
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


@layers.register("layer_norm")
class LayerNorm(Layer):
    """Each sample to mean 0 and variance 1 over its last axes, then weight and bias: shape unchanged.

    `normalized_shape` says over which axes, and is the last one unless given: C of images, D of sequences.
    Ba, Kiros and Hinton 2016.
    """

    weight: Param | None = None
    bias: Param | None = None

    def __init__(
        self,
        normalized_shape: Inferred[Positive | tuple[Positive, ...]] = None,
        eps: PositiveFloat = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        self.normalized_shape: Shape | None = normalized_shape
        self.eps, self.elementwise_affine, self.has_bias = eps, elementwise_affine, bias

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        axes = len(self.normalized_shape) if self.normalized_shape else 1
        if axes > len(shape):
            raise ShapeError(f"normalized_shape is {self.normalized_shape}, but the input has {shape}")
        self.settle("normalized_shape", shape[len(shape) - axes :])
        return shape

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight 1, bias 0."""
        if not self.elementwise_affine:
            return {}
        if self.normalized_shape is None:
            raise ShapeError(
                f"layer {self.path or 'LayerNorm'}: normalized_shape is not known; give it, or build with input_shape"
            )
        arrays = _affine(self.normalized_shape)
        return arrays if self.has_bias else {"weight": arrays["weight"]}

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., *S) -> (N, ..., *S)."""
        axes = len(self.normalized_shape or (1,))
        y: Tensor = layer_norm(x, self.weight, self.bias, axes=axes, eps=self.eps)
        return y


def _affine(shape: Shape) -> dict[str, Param | Buffer]:
    return {"weight": Param(shape, ones, kind="norm"), "bias": Param(shape, zeros, kind="norm")}
