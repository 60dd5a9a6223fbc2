"""Gated activations as layers."""

from __future__ import annotations

from gpubackprop.errors import ShapeError
from gpubackprop.nn.activation import AlongAxis, Elementwise
from gpubackprop.nn.layer import Shape, layers
from gpubackprop.ops import gated
from gpubackprop.tape import Tensor


@layers.register("hardswish")
class Hardswish(Elementwise):
    """y = x (x + 3) / 6, the gate (x + 3) / 6 clipped to [0, 1]; Howard et al. 2019."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = gated.hardswish(x)
        return y


@layers.register("mish")
class Mish(Elementwise):
    """y = x tanh(log(1 + eˣ)); Misra 2019."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = gated.mish(x)
        return y


class _Halved(AlongAxis):
    """One half of an axis gates the other, so that the axis comes out half as long."""

    def output_shape(self, shape: Shape) -> Shape:
        """The axis `dim` (of our layout, the batch being 0) halved; its size must be even."""
        super().output_shape(shape)
        axis = self.dim - 1 if self.dim > 0 else self.dim + len(shape)
        if shape[axis] % 2:
            raise ShapeError(f"needs an even size along dim {self.dim}, two halves, got {shape[axis]} of {shape}")
        return (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])


@layers.register("glu")
class GLU(_Halved):
    """y = a σ(b), [a, b] the halves of an axis, the last one unless `dim` says which; Dauphin et al. 2017."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., 2D, ...) -> (N, ..., D, ...)."""
        y: Tensor = gated.glu(x, axis=self.dim)
        return y


@layers.register("swiglu")
class SwiGLU(_Halved):
    """y = silu(a) b, [a, b] the halves of an axis, the last one unless `dim` says which; Shazeer 2020.

    Between a linear layer of twice the hidden size and one back it is the feed-forward block of most language models.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., 2D, ...) -> (N, ..., D, ...)."""
        y: Tensor = gated.swiglu(x, axis=self.dim)
        return y
