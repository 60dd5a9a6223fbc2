"""Activation layers: (N, *shape) -> (N, *shape)."""

from __future__ import annotations

from typing import Literal

from gpubackprop.errors import ShapeError
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops import activation
from gpubackprop.ops.mask import fill
from gpubackprop.registry import NonNegativeFloat, PositiveFloat
from gpubackprop.tape import Tensor


class Elementwise(Layer):
    """A layer whose output at a place depends on the input there alone."""

    streams = True


@layers.register("relu")
class ReLU(Elementwise):
    """y = max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.relu(x)
        return y


@layers.register("leaky_relu")
class LeakyReLU(Elementwise):
    """y = x where x > 0, else negative_slope · x; Maas et al. 2013."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.leaky_relu(x, negative_slope=self.negative_slope)
        return y


@layers.register("elu")
class ELU(Elementwise):
    """y = x where x > 0, else alpha (eˣ - 1); Clevert et al. 2016."""

    def __init__(self, alpha: NonNegativeFloat = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.elu(x, alpha=self.alpha)
        return y


@layers.register("gelu")
class GELU(Elementwise):
    """y = x Φ(x), by the error function or its tanh approximation; Hendrycks and Gimpel 2016."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.gelu(x, approximate=self.approximate)
        return y


@layers.register("silu")
class SiLU(Elementwise):
    """y = x σ(x), also called swish; Elfwing et al. 2017."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.silu(x)
        return y


@layers.register("tanh")
class Tanh(Elementwise):
    """y = tanh x."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.tanh(x)
        return y


@layers.register("sigmoid")
class Sigmoid(Elementwise):
    """y = 1 / (1 + e⁻ˣ)."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.sigmoid(x)
        return y


@layers.register("softplus")
class Softplus(Elementwise):
    """y = log(1 + e^(βx)) / β, and x itself where βx > threshold."""

    def __init__(self, beta: PositiveFloat = 1.0, threshold: NonNegativeFloat = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        y: Tensor = activation.softplus(x, beta=self.beta, threshold=self.threshold)
        return y


NEVER = -1e30  # finite, so that padding alone gives numbers


class AlongAxis(Layer):
    """`dim` counts the axes of our layout, the batch being 0, as PyTorch's does."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged; dim must be an axis of the sample."""
        rank = len(shape)
        if not (-rank <= self.dim <= -1 or 1 <= self.dim <= rank):
            axes = f"1 to {rank} or -{rank} to -1" if rank else "none, for samples are single numbers"
            raise ShapeError(
                f"dim {self.dim} is no axis of a sample of shape {shape} (0 is the batch); allowed: {axes}"
            )
        return shape

    @property
    def streams(self) -> bool:  # type: ignore[override]  # a class attribute of most layers
        """Whether the axis is that of features, which every position has for itself."""
        return self.dim == -1 or (self.shapes is not None and self.dim == len(self.shapes[0]))

    def seen(self, x: Tensor) -> Tensor:
        """x, with what has no share in a softmax over positions where a mask leaves some out."""
        over_positions = x.mask is not None and self.dim % len(x.shape) == 1
        return fill(x, x.mask, value=NEVER) if over_positions else x


@layers.register("softmax")
class Softmax(AlongAxis):
    """y = eˣ / Σ eˣ along an axis; padding has no share. Not before cross_entropy, which takes logits."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *shape)."""
        y: Tensor = activation.softmax(self.seen(x), axis=self.dim)
        return y


@layers.register("log_softmax")
class LogSoftmax(AlongAxis):
    """y = x - log Σ eˣ along an axis. Not before cross_entropy, which takes logits."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *shape)."""
        y: Tensor = activation.log_softmax(self.seen(x), axis=self.dim)
        return y
