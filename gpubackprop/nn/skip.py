"""Layers that refer to others by name: tensors (save, add, concat, input) and layers (share)."""

from __future__ import annotations

from collections.abc import Iterator

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.containers import joined
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.shape import add, concat
from gpubackprop.registry import did_you_mean
from gpubackprop.tape import Tensor


class _Skip(Layer):
    """A layer that refers to a tensor by the name that a `save` layer gave it, or the data gave an input."""

    streams = True

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor

    def saved_shape(self, scope: dict[str, Shape]) -> Shape:
        """The shape that was saved under the name."""
        return saved_shape(self.tensor, scope)


def saved_shape(name: str, scope: dict[str, Shape]) -> Shape:
    """The shape of the tensor that has this name by now; ShapeError where none has."""
    if name not in scope:
        known = f"saved: {', '.join(scope) or 'nothing'}"
        raise ShapeError(f"nothing was saved as {name!r} before; {known}{did_you_mean(name, scope)}")
    return scope[name]


@layers.register("save")
class Save(_Skip):
    """Remember this tensor under a name, for an `add` or `concat` further on; the tensor itself goes through."""

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """Unchanged."""
        scope[self.tensor] = shape
        return shape

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        x.tape.saved[self.tensor] = x
        return x


@layers.register("add")
class Add(_Skip):
    """y = x + the tensor saved under a name."""

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """Unchanged; both shapes must agree."""
        return joined([shape, self.saved_shape(scope)], "add")

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *shape)."""
        y: Tensor = add(x, x.tape.saved[self.tensor])
        return y


@layers.register("concat")
class Concat(_Skip):
    """x and the tensor saved under a name, side by side in the last axis."""

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The last axes added up; all others must agree."""
        return joined([shape, self.saved_shape(scope)], "concat")

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., C), saved (N, ..., S) -> (N, ..., C + S)."""
        y: Tensor = concat(x, x.tape.saved[self.tensor])
        return y


@layers.register("input")
class Input(_Skip):
    """Go on with a tensor that has a name: one of the model's inputs, or one that was saved; x is dropped.

    Where a model takes several inputs they have the names that the data gives them, and the first one is where the
    model starts.
    """

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The named tensor's."""
        return self.saved_shape(scope)

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the named tensor."""
        return x.tape.saved[self.tensor]


@layers.register("share")
class Share(Layer):
    """The layer that has this name, once more, with the same weights.

    They stand under both keys in the state dict, and under the first one among the gradients. The layer must stand
    before; of several layers with the name it is the latest.
    """

    layer: Layer | None = None

    def __init__(self, shared: str) -> None:
        self.shared = shared

    def link(self, named: dict[str, Layer]) -> None:
        """Find the layer."""
        self.layer = find_layer(self.shared, named)
        if self.name is not None:
            named[self.name] = self.layer

    @property
    def target(self) -> Layer:
        """The layer that is meant. Raises UsageError before it was looked for, by `build`."""
        if self.layer is None:
            raise UsageError(f"share: {self.shared}: the model has not been built yet")
        return self.layer

    @property
    def streams(self) -> bool:  # type: ignore[override]  # a class attribute of most layers
        """As the layer."""
        return self.target.streams

    def children(self) -> dict[str, Layer]:
        """The layer's own."""
        return self.layer.children() if self.layer else {}

    def walk(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """The layer's, under this path as well."""
        return self.layer.walk(path) if self.layer else super().walk(path)

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The layer's; it must be able to take this shape too."""
        try:
            return self.target.infer(shape, scope)
        except ShapeError as error:  # the mistake lies here, not where the layer stands first
            raise ShapeError(f"{self.shared!r} cannot take this input too: {error}") from None

    def forward(self, x: Tensor) -> Tensor:
        """The layer's."""
        return self.target.forward(x)


def find_layer(name: str, named: dict[str, Layer]) -> Layer:
    """The layer of that name; ShapeError, as shapes are what is checked next, where none stands before."""
    if name not in named:
        known = f"named so far: {', '.join(named) or 'none'}"
        raise ShapeError(f"no layer before is named {name!r}; {known}{did_you_mean(name, named)}")
    return named[name]
