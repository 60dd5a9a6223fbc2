"""Layers made of layers: chains, residuals, repetition, branches, and skips by name."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.shape import add, concat
from gpubackprop.registry import Positive
from gpubackprop.tape import Tensor


@layers.register("sequential")
class Sequential(Layer):
    """Layers one after the other. Keys: the index of each, or its name."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = list(layers)

    def children(self) -> dict[str, Layer]:
        """By index or name. Raises UsageError where two layers have the same."""
        children = {layer.name or str(i): layer for i, layer in enumerate(self.layers)}
        if len(children) < len(self.layers):
            raise UsageError(f"two layers of one list share a name: the keys are {', '.join(children)}")
        return children

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The last layer's output shape."""
        for key, layer in self.children().items():
            try:
                shape = layer.infer(shape, scope)
            except ShapeError as error:
                raise error.under(key, layer) from None
        return shape

    def forward(self, x: Tensor) -> Tensor:
        """Through every layer in turn."""
        for layer in self.layers:
            x = layer.forward(x)
        return x


@layers.register("residual")
class Residual(Layer):
    """y = layers(x) + shortcut(x), the shortcut being x itself where none is given (He et al. 2015).

    Keys: the layers' own, and `shortcut.<layer>`.
    """

    def __init__(self, layers: list[Layer], shortcut: list[Layer] | None = None) -> None:
        if any(layer.name == "shortcut" for layer in layers):
            raise UsageError("a layer of a residual cannot be named 'shortcut': that is the shortcut's own key")
        self.body = Sequential(*layers)
        self.shortcut = Sequential(*shortcut) if shortcut else None

    def children(self) -> dict[str, Layer]:
        """The body's children beside the shortcut."""
        return self.body.children() | ({"shortcut": self.shortcut} if self.shortcut else {})

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """Both ways must give the same shape."""
        through = self.body.infer(shape, scope)
        around = self.shortcut.infer(shape, scope) if self.shortcut else shape
        if through != around:
            raise ShapeError(f"the layers give {through}, but the shortcut {around}; they are added, so must agree")
        return through

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *output_shape)."""
        y: Tensor = add(self.body.forward(x), self.shortcut.forward(x) if self.shortcut else x)
        return y


@layers.register("repeat")
class Repeat(Layer):
    """The same list of layers `times` times in a row, each copy with weights of its own. Keys: `<copy>.<layer>`."""

    def __init__(self, times: Positive, layers: list[Layer]) -> None:
        # Layers without weights are options only, so a copy costs nothing; each infers its own input size.
        self.chain = Sequential(*(Sequential(*deepcopy(layers)) for _ in range(times)))

    def children(self) -> dict[str, Layer]:
        """The copies by number."""
        return self.chain.children()

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The last copy's output shape."""
        return self.chain.infer(shape, scope)

    def forward(self, x: Tensor) -> Tensor:
        """Through every copy in turn."""
        return self.chain.forward(x)


@layers.register("parallel")
class Parallel(Layer):
    """Branches that all see the input; their outputs are concatenated over the last axis, or added."""

    def __init__(self, branches: list[list[Layer]], join: Literal["concat", "add"] = "concat") -> None:
        if not branches:
            raise UsageError("branches is empty; parallel needs at least one, and an empty branch is the input itself")
        self.branches = [Sequential(*branch) for branch in branches]
        self.join = join

    def children(self) -> dict[str, Layer]:
        """The branches by number."""
        return {str(i): branch for i, branch in enumerate(self.branches)}

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The joined shape; all axes but the last must agree, for `add` the last one too."""
        found = []
        for key, branch in self.children().items():
            try:
                found.append(branch.infer(shape, scope))
            except ShapeError as error:
                raise error.under(key, branch) from None
        return joined(found, self.join)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *joined)."""
        ys = [branch.forward(x) for branch in self.branches]
        if self.join == "concat":
            return concat(*ys)  # type: ignore[no-any-return]  # an op returns a Tensor, or a tuple of them
        y = ys[0]
        for other in ys[1:]:
            y = add(y, other)
        return y


class _Skip(Layer):
    """A layer that refers to a tensor by the name that a `save` layer gave it."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor

    def saved_shape(self, scope: dict[str, Shape]) -> Shape:
        """The shape that was saved under the name."""
        if self.tensor not in scope:
            raise ShapeError(f"nothing was saved as {self.tensor!r} before; saved: {', '.join(scope) or 'nothing'}")
        return scope[self.tensor]


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


def joined(shapes: Sequence[Shape], join: str) -> Shape:
    """The shape of several outputs concatenated over the last axis or added; ShapeError where they do not fit."""
    first = shapes[0]
    if join == "add" and any(shape != first for shape in shapes):
        raise ShapeError(f"shapes {', '.join(map(str, shapes))} are added, so must agree")
    if join == "concat" and () in shapes:
        raise ShapeError("single numbers have no axis to be concatenated over; put reshape before it")
    if any(shape[:-1] != first[:-1] for shape in shapes):
        raise ShapeError(f"shapes {', '.join(map(str, shapes))} are concatenated, so must agree but for the last axis")
    return first if join == "add" else (*first[:-1], sum(shape[-1] for shape in shapes))
