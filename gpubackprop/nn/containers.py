"""Layers made of layers: chains, residuals, repetition, branches, heads. Skips by name stand in skip.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Layer, Shape, Shapes, layers
from gpubackprop.ops.shape import add, concat, divide, merge
from gpubackprop.registry import Positive
from gpubackprop.tape import Tensor


class Container(Layer):
    """A layer made of layers. Subclasses write `through`, and `shape_through` for `infer`.

    recompute   keep nothing of what is inside for the backward pass but the input, and run it a second time there:
                less memory, about a third more work. Names that are saved inside are known inside alone.
    """

    recompute = False

    @property
    def streams(self) -> bool:  # type: ignore[override]  # a class attribute of most layers
        """Where all inside can."""
        return all(child.streams for child in self.children().values())

    def through(self, x: Tensor) -> Tensor:
        """The forward pass."""
        raise NotImplementedError(f"{type(self).__name__}.through")

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The output's shape; `scope` as in `infer`."""
        raise NotImplementedError(f"{type(self).__name__}.shape_through")

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """What `shape_through` finds. Raises ShapeError where several outputs were to be recomputed."""
        if not self.recompute:
            return self.shape_through(shape, scope)
        found = self.shape_through(shape, dict(scope))
        if isinstance(found, Mapping):
            raise ShapeError("heads cannot be recomputed: take recompute: true away, or put heads behind the container")
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *output_shape)."""
        return x.tape.recompute(self.through, x) if self.recompute else self.through(x)


@layers.register("sequential")
class Sequential(Container):
    """Layers one after the other. Keys: the index of each, or its name."""

    #: The forward passes of the layers, in turn, on a device that fuses; nn/fuse.py, which knows all layers, sets it.
    fused: ClassVar[Callable[[Sequential], list[Callable[[Tensor], Any]]]]

    def __init__(self, *layers: Layer, recompute: bool = False) -> None:
        self.layers, self.recompute = list(layers), recompute

    def children(self) -> dict[str, Layer]:
        """By index or name. Raises UsageError where two layers have the same."""
        children = {layer.name or str(i): layer for i, layer in enumerate(self.layers)}
        if len(children) < len(self.layers):
            raise UsageError(f"two layers of one list share a name: the keys are {', '.join(children)}")
        return children

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The last layer's output shape."""
        for key, layer in self.children().items():
            try:
                shape = layer.infer(single(shape), scope)
            except ShapeError as error:
                raise error.under(key, layer) from None
        return shape

    def through(self, x: Tensor) -> Tensor:
        """Through every layer in turn."""
        if x.tape.fuses:
            for forward in Sequential.fused(self):
                x = forward(x)
            return x
        for layer in self.layers:
            x = layer.forward(x)
        return x


@layers.register("residual")
class Residual(Container):
    """y = layers(x) + shortcut(x), the shortcut being x itself where none is given (He et al. 2015).

    Keys: the layers' own, and `shortcut.<layer>`.
    """

    def __init__(self, layers: list[Layer], shortcut: list[Layer] | None = None, recompute: bool = False) -> None:
        if any(layer.name == "shortcut" for layer in layers):
            raise UsageError("a layer of a residual cannot be named 'shortcut': that is the shortcut's own key")
        self.body = Sequential(*layers)
        self.shortcut = Sequential(*shortcut) if shortcut else None
        self.recompute = recompute

    def children(self) -> dict[str, Layer]:
        """The body's children beside the shortcut."""
        return self.body.children() | ({"shortcut": self.shortcut} if self.shortcut else {})

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """Both ways must give the same shape."""
        through = single(self.body.infer(shape, scope))
        around = self.shortcut.infer(shape, scope) if self.shortcut else shape
        if through != around:
            raise ShapeError(f"the layers give {through}, but the shortcut {around}; they are added, so must agree")
        return through

    def through(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *output_shape)."""
        y: Tensor = add(self.body.forward(x), self.shortcut.forward(x) if self.shortcut else x)
        return y


@layers.register("repeat")
class Repeat(Container):
    """The same list of layers `times` times in a row, each copy with weights of its own. Keys: `<copy>.<layer>`.

    recompute   each copy for itself, so that the inputs of all copies are kept
    """

    def __init__(self, times: Positive, layers: list[Layer], recompute: bool = False) -> None:
        # Layers without weights are options only, so a copy costs nothing; each infers its own input size.
        self.chain = Sequential(*(Sequential(*deepcopy(layers), recompute=recompute) for _ in range(times)))

    def children(self) -> dict[str, Layer]:
        """The copies by number."""
        return self.chain.children()

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The last copy's output shape."""
        return self.chain.infer(shape, scope)

    def through(self, x: Tensor) -> Tensor:
        """Through every copy in turn."""
        return self.chain.forward(x)


@layers.register("parallel")
class Parallel(Container):
    """Branches that all see the input; their outputs are concatenated over the last axis, or added."""

    def __init__(
        self, branches: list[list[Layer]], join: Literal["concat", "add"] = "concat", recompute: bool = False
    ) -> None:
        if not branches:
            raise UsageError("branches is empty; parallel needs at least one, and an empty branch is the input itself")
        self.branches = [Sequential(*branch) for branch in branches]
        self.join, self.recompute = join, recompute

    def children(self) -> dict[str, Layer]:
        """The branches by number."""
        return {str(i): branch for i, branch in enumerate(self.branches)}

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The joined shape; all axes but the last must agree, for `add` the last one too."""
        return joined(list(branch_shapes(self, shape, scope).values()), self.join)

    def through(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *joined)."""
        ys = [branch.forward(x) for branch in self.branches]
        if self.join == "concat":
            return concat(*ys)  # type: ignore[no-any-return]  # an op returns a Tensor, or a tuple of them
        y = ys[0]
        for other in ys[1:]:
            y = add(y, other)
        return y


@layers.register("heads")
class Heads(Container):
    """The end of a model with several outputs: branches by name, each from the same input.

    The model then gives a dict of outputs, and takes a dict of targets; the loss is `multi_task`.
    """

    def __init__(self, branches: dict[str, list[Layer]]) -> None:
        if not branches:
            raise UsageError("branches is empty; heads needs at least one")
        self.branches = {name: Sequential(*branch) for name, branch in branches.items()}

    def children(self) -> dict[str, Layer]:
        """The branches by name."""
        return dict(self.branches)

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Any:
        """Each head's shape by name."""
        return branch_shapes(self, shape, scope)

    def through(self, x: Tensor) -> Any:
        """(N, *shape) -> {name: (N, *shape of this head)}."""
        return {name: branch.forward(x) for name, branch in self.branches.items()}


@layers.register("each")
class Each(Container):
    """The same layers, with the same weights, for every item of the first axis: (K, *shape) -> (K, *output_shape).

    For frames of a film, or the two pictures of a pair. Batch statistics are over all items of all samples.
    """

    def __init__(self, layers: list[Layer], recompute: bool = False) -> None:
        self.body, self.recompute = Sequential(*layers), recompute
        self.items = 1  # of a sample, known once inferred

    def children(self) -> dict[str, Layer]:
        """The layers' own keys."""
        return self.body.children()

    def shape_through(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """The first axis stays."""
        if not shape:
            raise ShapeError("each needs samples of several items (K, ...), got single numbers")
        self.items = shape[0]
        return (self.items, *single(self.body.infer(shape[1:], scope)))

    def through(self, x: Tensor) -> Tensor:
        """(N, K, ...) -> (N, K, ...)."""
        tape, k = x.tape, x.shape[1]
        samples = tape.samples
        if samples is not None:  # every item draws random numbers of its own
            tape.samples = (samples[:, None] * k + tape.backend.xp.arange(k)).reshape(-1)
        merged = self.body.forward(merge(x))
        tape.samples = samples
        y: Tensor = divide(merged, items=k)
        y.mask = x.mask
        return y


def single(shape: Shapes) -> Shape:
    """`shape`, unless it is that of several outputs."""
    if isinstance(shape, Mapping):
        raise ShapeError("nothing can follow heads: they end a model, and stand in no branch")
    return shape


def branch_shapes(layer: Layer, shape: Shape, scope: dict[str, Shape]) -> dict[str, Shape]:
    """The output shapes of a layer's children, all from the same input; errors name the child."""
    found = {}
    for key, branch in layer.children().items():
        try:
            found[key] = single(branch.infer(shape, scope))
        except ShapeError as error:
            raise error.under(key, branch) from None
    return found


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
