"""Positions added to the vectors of a sequence: (N, T, E) -> (N, T, E)."""

from __future__ import annotations

from gpubackprop.errors import ShapeError
from gpubackprop.nn.attention import sequence
from gpubackprop.nn.init import normal
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops import position
from gpubackprop.parameters import Buffer, Param
from gpubackprop.registry import Inferred, NonNegativeFloat, Positive, PositiveFloat
from gpubackprop.tape import Tensor


class _Position(Layer):
    """Counts positions from 0; under a cache, from where the piece before ended."""

    streams = True
    bounded = True
    max_length: int | None

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged; T may be at most max_length."""
        sequence(shape, layers.name_of(type(self)))
        self._check_length(shape[0])
        return shape

    def offset(self, x: Tensor) -> int:
        """The position of x's first vector. Raises ShapeError where its last one would be past max_length."""
        cache = x.tape.cache
        if cache is None:
            self._check_length(x.shape[1])
            return 0
        key = x.tape.key(self.path)
        start: int = cache.get(key, 0)
        self._check_length(start + x.shape[1])
        cache[key] = start + x.shape[1]
        return start

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise ShapeError(f"max_length is {self.max_length}, but the sequence has {length} positions")


@layers.register("learned_position")
class LearnedPosition(_Position):
    """y = x + weight[position], weight (max_length, E) trained and N(0, std²) at first, as in GPT-2."""

    weight: Param

    def __init__(self, embedding_dim: Inferred[Positive], max_length: Positive, std: NonNegativeFloat = 0.02) -> None:
        self.embedding_dim, self.max_length, self.std = embedding_dim, max_length, std

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged; T may be at most max_length."""
        shape = super().output_shape(shape)
        self.settle("embedding_dim", shape[-1])
        return shape

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight."""
        assert self.max_length is not None
        return {"weight": Param((self.max_length, self.size("embedding_dim")), normal(self.std))}

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        y: Tensor = position.learned_position(x, self.weight, offset=self.offset(x))
        return y


@layers.register("sinusoidal_position")
class SinusoidalPosition(_Position):
    """y = x + sines and cosines of the position, of wavelengths from 2π to 2π base; Vaswani et al. 2017."""

    def __init__(self, max_length: Positive | None = None, base: PositiveFloat = 1e4) -> None:
        self.max_length, self.base = max_length, base

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        y: Tensor = position.sinusoidal_position(x, offset=self.offset(x), base=self.base)
        return y
