"""Layers that take whole numbers: words, characters, classes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from gpubackprop.backend import HostArray
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.init import normal
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.embedding import embedding, embedding_bag, one_hot
from gpubackprop.parameters import Buffer, Init, Param
from gpubackprop.registry import NonNegative, Positive, PositiveFloat
from gpubackprop.tape import Op, Tensor


class _Table(Layer):
    """A table of num_embeddings rows, picked by number."""

    symbols: ClassVar[bool] = True
    weight: Param

    def __init__(
        self,
        num_embeddings: Positive,
        embedding_dim: Positive,
        padding_idx: NonNegative | None = None,
        std: PositiveFloat = 1.0,
    ) -> None:
        if padding_idx is not None and padding_idx >= num_embeddings:
            raise UsageError(f"padding_idx is {padding_idx}; it must be below num_embeddings, {num_embeddings}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.std = padding_idx, std

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight (V, D), N(0, std²), its row padding_idx zero."""
        shape = (self.num_embeddings, self.embedding_dim)
        return {"weight": Param(shape, _padded(normal(self.std), self.padding_idx), fixed=self.padding_idx)}

    def look_up(self, op: Op, x: Tensor, *inputs: Any, **options: Any) -> Tensor:
        """Run `op` on x and the table. Raises UsageError for what is no row's number."""
        _whole_numbers(self, x)
        try:
            y: Tensor = op(x, self.weight, *inputs, padding_idx=self.padding_idx, **options)
        except IndexError as error:  # NumPy's; a GPU does not look
            raise UsageError(
                f"{_place(self)}: an input is not one of 0 to {self.num_embeddings - 1}; "
                "num_embeddings must be larger than every number in the data"
            ) from error
        return y


@layers.register("embedding")
class Embedding(_Table):
    """The row of a table for every whole number of the input: (...) -> (..., D). weight (V, D).

    num_embeddings  V, rows of the table: the input's numbers are 0 to V − 1
    embedding_dim   D, numbers in a row
    padding_idx     a row that starts at zero and is not trained
    std             standard deviation of the starting weights; PyTorch's is 1, GPT-2's 0.02
    """

    streams = True

    def output_shape(self, shape: Shape) -> Shape:
        """(...) -> (..., D)."""
        return (*shape, self.embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ..., D)."""
        return self.look_up(embedding, x)


@layers.register("embedding_bag")
class EmbeddingBag(_Table):
    """The rows of a table for a sample's whole numbers, joined into one: (T,) -> (D,). weight (V, D).

    mode         sum, mean or max
    padding_idx  a row that starts at zero, is not trained and does not count; nor do positions that a mask leaves out

    The other options are those of `embedding`. A sample in which nothing counts gives zeros.
    """

    def __init__(
        self,
        num_embeddings: Positive,
        embedding_dim: Positive,
        mode: Literal["sum", "mean", "max"] = "mean",
        padding_idx: NonNegative | None = None,
        std: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, std)
        self.mode = mode

    def output_shape(self, shape: Shape) -> Shape:
        """(T,) -> (D,)."""
        if len(shape) != 1:
            raise ShapeError(f"embedding_bag needs samples (T,), rows of whole numbers, got {shape}")
        return (self.embedding_dim,)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T) -> (N, D)."""
        y = self.look_up(embedding_bag, x, x.mask, mode=self.mode)
        y.mask = None  # there are no positions any more, whatever D is
        return y


@layers.register("one_hot")
class OneHot(Layer):
    """Whole numbers as vectors of zeros with a single one: (...) -> (..., V).

    A number that is not one of 0 to V − 1 gives zeros.
    """

    symbols: ClassVar[bool] = True
    streams = True

    def __init__(self, num_classes: Positive) -> None:
        self.num_classes = num_classes

    def output_shape(self, shape: Shape) -> Shape:
        """(...) -> (..., V)."""
        return (*shape, self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ..., V)."""
        _whole_numbers(self, x)
        y: Tensor = one_hot(x, x.tape.backend.xp.ones((), self.dtype), num_classes=self.num_classes)
        return y


def _whole_numbers(layer: Layer, x: Tensor) -> None:
    dtype = x.value.dtype
    if dtype.kind not in "iu":
        raise UsageError(
            f"{_place(layer)} takes whole numbers, and its input is {dtype}; save the data as int64: "
            "uint8 and floats are taken for pixels and quantities"
        )


def _place(layer: Layer) -> str:
    return f"layer {layer.path}" if layer.path else layers.name_of(type(layer))


def _padded(init: Init, row: int | None) -> Init:
    def padded(rng: np.random.Generator, shape: tuple[int, ...]) -> HostArray:
        start = init(rng, shape)
        if row is not None:
            start[row] = 0
        return start

    return padded
