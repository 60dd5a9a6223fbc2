"""A model's arrays: trainable ones in one flat buffer, and buffers such as running statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gpubackprop.backend import Array, Backend, HostArray
from gpubackprop.backend.philox import stream_of
from gpubackprop.backend.precision import full
from gpubackprop.errors import CheckpointError

#: `init(rng, shape)`: the starting values of a param, float64 on the host.
Init: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], HostArray]


class _Stored:
    """An array that appears in the state dict, there in PyTorch's layout: `layout` is the transposition to it.

    `master` is what the state dict holds: `value`, or where that is short (backend/precision.py), its float32 original.
    """

    value: Array = None
    master: Array = None

    def __init__(self, shape: Sequence[int], layout: Sequence[int] | None = None) -> None:
        self.shape = tuple(shape)
        self.layout = tuple(layout) if layout is not None else tuple(range(len(self.shape)))

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape in the state dict."""
        return tuple(self.shape[axis] for axis in self.layout)

    def to_torch(self, array: Array) -> Array:
        """A view of `array` (laid out as ours) in PyTorch's layout."""
        return array.transpose(self.layout)

    def from_torch(self, array: HostArray) -> HostArray:
        """A view of `array` (laid out as PyTorch's) in our layout."""
        return array.transpose(np.argsort(self.layout))


class Param(_Stored):
    """A trainable array of a layer. Layers declare its shape and initialiser; building the model gives it memory.

    `value`, `master` and `grad` are views of the model's flat buffers. `kind` is what weight-decay options call it.
    `fixed` is the index of a row that has no gradient by definition: the padding row of a table.
    """

    grad: Array = None

    def __init__(
        self,
        shape: Sequence[int],
        init: Init,
        layout: Sequence[int] | None = None,
        kind: str = "weight",
        fixed: int | None = None,
    ) -> None:
        super().__init__(shape, layout)
        self.init, self.kind, self.fixed = init, kind, fixed
        self.needs_grad = True


class Buffer(_Stored):
    """An array of a layer that is part of its state but not trained; `fill` is its starting value everywhere."""

    def __init__(self, shape: Sequence[int], fill: float, dtype: npt.DTypeLike | None = None) -> None:
        super().__init__(shape)
        self.fill, self.dtype = fill, dtype


class Segment(NamedTuple):
    """Where a param lies in the flat buffers."""

    name: str
    param: Param
    start: int
    stop: int


class Parameters:
    """All trainable arrays of a model, in layer order, in one flat buffer per role.

    value   the working copy that the ops read, of `dtype`
    master  the copy that the optimizer updates: float32 where `dtype` is short, else the same array as `value`
    grad    gradients, in the same places and in master's dtype

    The model owns the buffers, an optimizer refers to them. Padding between segments stays zero everywhere.
    """

    ALIGN = 64  # elements: every param starts on a cache line, and at a 16-byte address on a GPU

    def __init__(self, named: Mapping[str, Param], backend: Backend, dtype: npt.DTypeLike, seed: int) -> None:
        self.backend, self.dtype = backend, np.dtype(dtype)
        self.segments: list[Segment] = []
        size = 0
        for name, param in named.items():
            stop = size + prod(param.shape)
            self.segments.append(Segment(name, param, size, stop))
            size = -(-stop // self.ALIGN) * self.ALIGN
        start = np.zeros(size, full(self.dtype))
        for name, param, low, high in self.segments:
            # Each param draws from its own stream, so adding a layer does not change the others' weights.
            rng = np.random.default_rng([seed, stream_of(name)])
            start[low:high] = param.init(rng, param.shape).ravel()
        used = np.zeros(size, bool)
        for segment in self.segments:
            used[segment.start : segment.stop] = True
        self._padding = backend.from_host(np.flatnonzero(~used))
        self.master = backend.from_host(start)
        self.value = backend.cast(self.master, self.dtype)
        self.grad = backend.xp.zeros(size, start.dtype)  # of which NumPy touches no page before it is used
        for _, param, low, high in self.segments:
            param.value = self.value[low:high].reshape(param.shape)
            param.master = self.master[low:high].reshape(param.shape)
            param.grad = self.grad[low:high].reshape(param.shape)

    def work(self) -> None:
        """value ← master, where they are two: after every change of master that the ops are to see."""
        if self.value is not self.master:
            self.backend.assign(self.value, self.master)

    def clear_padding(self) -> None:
        """Zeros in the gradient's padding, where a factor that is not finite leaves what no op writes over."""
        self.grad[self._padding] = 0

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def count(self) -> int:
        """How many numbers are trained, padding not counted."""
        return sum(prod(segment.param.shape) for segment in self.segments)


def checked(key: str, wanted: tuple[int, ...], array: npt.ArrayLike) -> HostArray:
    """`array` as NumPy's, or a CheckpointError where its shape is not the wanted one."""
    host = np.asarray(array)
    if host.shape != wanted:
        raise CheckpointError(f"{key}: shape {host.shape} does not fit the model's {wanted}")
    return host
