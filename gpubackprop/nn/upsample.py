"""Layers that change the resolution without weights."""

from __future__ import annotations

from typing import Literal

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.spatial import KINDS, each, spatial
from gpubackprop.ops import upsample as ops
from gpubackprop.ops.mask import fill
from gpubackprop.registry import Positive, PositiveFloat
from gpubackprop.tape import Tensor

AXES = {"linear": 1, "bilinear": 2, "trilinear": 3}


@layers.register("upsample")
class Upsample(Layer):
    """Interpolate to `size`, or to `scale_factor` times the size: (*S, C) -> (*P, C); exactly one of the two is given.

    `nearest` takes sequences, images and volumes, `linear` sequences, `bilinear` images, `trilinear` volumes.
    `align_corners` lays the centres of the outermost cells on each other, else their edges. A mask ends here: padding
    counts as zeros.
    Raises UsageError where options do not go together.
    """

    def __init__(
        self,
        size: Positive | tuple[Positive, ...] | None = None,
        scale_factor: PositiveFloat | tuple[PositiveFloat, ...] | None = None,
        mode: Literal["nearest", "linear", "bilinear", "trilinear"] = "nearest",
        align_corners: bool = False,
    ) -> None:
        if (size is None) == (scale_factor is None):
            raise UsageError("upsample needs one of size and scale_factor, for example scale_factor: 2")
        if align_corners and mode == "nearest":
            raise UsageError("align_corners is for linear, bilinear and trilinear; nearest has no use for it")
        self.size_out, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def output_shape(self, shape: Shape) -> Shape:
        """(*S, C) -> (*P, C)."""
        axes = AXES.get(self.mode, len(shape) - 1)
        if not 1 <= axes <= 3:
            raise ShapeError(f"upsample needs {', '.join(KINDS[1:])}; got {shape}")
        sizes, channels = spatial(shape, f"upsample with mode: {self.mode}", axes)
        if self.size_out is not None:
            return (*each(self.size_out, axes), channels)
        found = tuple(int(size * factor) for size, factor in zip(sizes, self._factors(axes), strict=True))
        if min(found) < 1:
            raise ShapeError(f"scale_factor {self.scale_factor} leaves nothing of {shape}; use a larger one")
        return (*found, channels)

    def _factors(self, axes: int) -> tuple[float, ...]:
        assert self.scale_factor is not None
        return each(self.scale_factor, axes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *S, C) -> (N, *P, C)."""
        if x.mask is not None and len(x.shape) == 3:
            x = fill(x, x.mask)
        size, axes = self.output_shape(x.shape[1:])[:-1], len(x.shape) - 2
        if self.scale_factor is None:
            scales = tuple(before / after for before, after in zip(x.shape[1:-1], size, strict=True))
        else:  # as PyTorch: of a factor that does not divide evenly itself, not of the sizes that come of it
            scales = tuple(1 / factor for factor in self._factors(axes))
        y: Tensor
        if self.mode == "nearest":
            y = ops.upsample_nearest(x, size=size, scales=scales)
        else:
            y = ops.upsample_linear(x, size=size, scales=scales, align_corners=self.align_corners)
        y.mask = None
        return y


@layers.register("pixel_shuffle")
class PixelShuffle(Layer):
    """Channels become pixels: (H, W, C·r²) -> (H·r, W·r, C), r = `upscale_factor`. Shi et al. 2016."""

    def __init__(self, upscale_factor: Positive) -> None:
        self.factor = upscale_factor

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C·r²) -> (H·r, W·r, C)."""
        (height, width), channels = spatial(shape, "pixel_shuffle", 2)
        if channels % self.factor**2:
            raise ShapeError(
                f"upscale_factor {self.factor} needs a multiple of {self.factor**2} channels, the input has {channels}"
            )
        return height * self.factor, width * self.factor, channels // self.factor**2

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C·r²) -> (N, H·r, W·r, C)."""
        y: Tensor = ops.pixel_shuffle(x, factor=self.factor)
        return y


@layers.register("pixel_unshuffle")
class PixelUnshuffle(Layer):
    """Pixels become channels: (H·r, W·r, C) -> (H, W, C·r²), r = `downscale_factor`; the inverse of pixel_shuffle."""

    def __init__(self, downscale_factor: Positive) -> None:
        self.factor = downscale_factor

    def output_shape(self, shape: Shape) -> Shape:
        """(H·r, W·r, C) -> (H, W, C·r²)."""
        (height, width), channels = spatial(shape, "pixel_unshuffle", 2)
        if height % self.factor or width % self.factor:
            raise ShapeError(
                f"downscale_factor {self.factor} does not divide the height and width of {shape}; pad or crop before"
            )
        return height // self.factor, width // self.factor, channels * self.factor**2

    def forward(self, x: Tensor) -> Tensor:
        """(N, H·r, W·r, C) -> (N, H, W, C·r²)."""
        y: Tensor = ops.pixel_unshuffle(x, factor=self.factor)
        return y
