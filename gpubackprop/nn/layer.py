"""The base of all layers: what a model is, from its constructor to its state dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias, TypeVar

import numpy as np

from gpubackprop.backend import Array, Backend, HostArray, choose
from gpubackprop.backend.precision import full, is_short, working
from gpubackprop.errors import CheckpointError, ShapeError
from gpubackprop.parameters import Buffer, Param, Parameters, checked
from gpubackprop.registry import Registry, did_you_mean
from gpubackprop.tape import Tape, Tensor

Shape: TypeAlias = tuple[int, ...]  #: of one sample, without the batch axis: (H, W, C), (T, D), (I,)
Shapes: TypeAlias = Shape | Mapping[str, Shape]  #: of a model that takes or gives several arrays, by name
T = TypeVar("T")


class Layer:
    """A function with parameters. A model is a layer too.

    The constructor records options only. `output_shape` settles what it left open and checks the input's shape,
    `arrays` declares params and buffers, `build` gives them memory, `forward` calls ops. A layer holds no derivative.

        class Linear(Layer):
            def __init__(self, in_features: Inferred[Positive], out_features: Positive, bias: bool = True): ...
            def output_shape(self, shape): ...
            def arrays(self): return {"weight": Param(...), "bias": Param(...)}
            def forward(self, x): return linear(x, self.weight, self.bias)
    """

    symbols: ClassVar[bool] = False  #: whether it takes numbers of words or symbols, integers
    #: whether a sequence may be fed piece by piece, with what is needed of the past kept in `Tape.cache`
    streams: bool = False

    bounded: bool = False  #: whether it knows no more positions of a sequence than it was trained on

    name: str | None = None  #: takes the place of the index in the keys
    path: str = ""  #: the key prefix in the model, known once built
    shapes: tuple[Shape, Shape] | None = None  #: of one input and output sample, known once inferred
    origin: object = None  #: the config's component that this layer was built from, for messages
    dtype: Any = np.float32  #: of the model's floats, known once built
    _built: _Built | None = None
    _checked: Shapes | None = None  # the input shape that was inferred last
    _outputs: Any = None  # and what was found

    # --- what a layer writes -----------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor (N, *shape) to (N, *output_shape) by calling ops."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of one output sample for one input sample; raises ShapeError where the input does not fit."""
        return shape

    def arrays(self) -> dict[str, Param | Buffer]:
        """New params and buffers by their PyTorch names; called once, when all shapes are settled."""
        return {}

    def children(self) -> dict[str, Layer]:
        """Layers inside this one by key; the default finds them among the attributes."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Layer)}

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """`output_shape`, for containers and skips too: `scope` holds the shapes of what has a name so far.

        Names are those of `save:` layers, and of the inputs where a model has several.
        """
        self.shapes = (shape, self.output_shape(shape))
        return self.shapes[1]

    def link(self, named: dict[str, Layer]) -> None:
        """Find the layers that are referred to by name: `named` holds those that stand before, and takes this one."""
        for key, child in self.children().items():
            try:
                child.link(named)
            except ShapeError as error:
                raise error.under(key, child) from None
        if self.name is not None:
            named[self.name] = self

    def flops(self) -> int:
        """Floating-point operations of a forward pass over one sample, a multiply-add as two; 0 where they are few."""
        return 0

    def settle(self, option: str, found: T) -> T:
        """Set an inferred option that was left open, or check the one that was given against what the input has."""
        given = getattr(self, option)
        if given is not None and given != found:
            raise ShapeError(f"{option} is {given}, but the input has {found}")
        setattr(self, option, found)
        return found

    def size(self, option: str) -> int:
        """An inferred size that must be known by now."""
        value = getattr(self, option)
        if value is None:
            where = self.path or type(self).__name__
            raise ShapeError(f"layer {where}: {option} is not known; give it, or build with input_shape")
        return int(value)

    # --- what every layer can do -------------------------------------------------------------------------------

    def named(self, name: str) -> Self:
        """This layer under a name of its own in the state dict."""
        self.name = name
        return self

    def walk(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all inside it, outermost first, with the path of each; shared layers at every path."""
        yield path, self
        for key, child in self.children().items():
            yield from child.walk(f"{path}.{key}" if path else key)

    def build(
        self,
        input_shape: Shapes | None = None,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "float32",
        kernels: str = "auto",
    ) -> Self:
        """Settle all shapes and make the weights; weights of an earlier build are replaced.

        `input_shape` is one sample's, without the batch axis; of several inputs, by name. Raises ShapeError,
        DeviceError.
        """
        dtype = working(precision)
        backend, _ = choose(device, kernels)
        backend.float32 = "tf32" if precision == "tf32" else "float32"
        self.link({})
        if input_shape is not None:
            self.infer(*entry(input_shape))
        stored, params = self.declare(dtype)
        for array in stored.values():
            if isinstance(array, Buffer):
                array.value = backend.from_host(np.full(array.shape, array.fill, array.dtype or full(dtype)))
                array.master = array.value
        symbols = any(layer.symbols for _, layer in self.walk())
        self._built = _Built(backend, Parameters(params, backend, dtype, seed), stored, seed, symbols)
        self._checked = None
        return self

    def declare(self, dtype: Any = np.float32) -> tuple[dict[str, Param | Buffer], dict[str, Param]]:
        """New arrays, without memory, for all layers: under every name, and the params under their first one.

        Shapes must be settled, and references to other layers linked.
        """
        stored: dict[str, Param | Buffer] = {}
        seen: dict[int, dict[str, Param | Buffer]] = {}
        for path, layer in self.walk():
            if id(layer) not in seen:
                layer.path, layer.dtype = path, dtype
                seen[id(layer)] = _declare(layer)
            stored |= {f"{path}.{name}".lstrip("."): array for name, array in seen[id(layer)].items()}
        first = {id(array): key for key, array in reversed(stored.items())}
        return stored, {key: p for key, p in stored.items() if isinstance(p, Param) and first[id(p)] == key}

    @property
    def built(self) -> _Built:
        """Memory and device; builds on the CPU, seed 0, float32 where nobody has built yet."""
        if self._built is None:
            self.build()
        assert self._built is not None
        return self._built

    def parameters(self) -> Parameters:
        """The trainable arrays, for an optimizer."""
        return self.built.parameters

    def __call__(self, x: Any) -> Any:
        """A tensor: run inside the forward pass. An array (N, *shape): inference, the same kind of array out.

        Several inputs are a dict of arrays, and several outputs come as one; of a short precision they are float32.
        """
        if isinstance(x, Tensor):
            return self.forward(x)
        inputs, backend = self.as_input(x), self.built.backend
        with backend.running():
            y = self.forward(Tape(backend).input(inputs))
        sample = next(iter(x.values())) if isinstance(x, Mapping) else x
        give = (lambda a: a) if backend.owns(sample) else backend.to_host
        found = outcome(y)
        return {name: give(each) for name, each in found.items()} if isinstance(found, Mapping) else give(found)

    def as_input(self, x: Any) -> Any:
        """x (N, *shape) on the model's device and in its precision; ShapeError where a layer cannot take the shape.

        Integers stay integers, int64, where a layer takes symbols (but not uint8, the dtype of pixels). A model that
        nobody has built yet is built for that shape.
        """
        self.outputs_for(x)
        if isinstance(x, Mapping):
            return {name: self.built.as_input(each) for name, each in x.items()}
        return self.built.as_input(x)

    def outputs_for(self, x: Any) -> Any:
        """The shape of one sample of what the model gives for x (N, *shape), by head where there are heads.

        Raises ShapeError where a layer cannot take the shape. A model that nobody has built yet is built for it.
        """
        shape: Any = tuple(np.shape(x)[1:])
        if isinstance(x, Mapping):
            shape = {name: tuple(np.shape(each)[1:]) for name, each in x.items()}
        if self._built is None:
            self.build(shape)
        if shape != self._checked:
            self._outputs = self.infer(*entry(shape))
            self._checked = shape
        return self._outputs

    def state_dict(self) -> dict[str, HostArray]:
        """Copies of all params and buffers under PyTorch's keys and in its layouts, as NumPy arrays."""
        to_host = self.built.backend.to_host
        return {key: np.array(a.to_torch(to_host(a.master)), order="C") for key, a in self.built.stored.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy and cast from a state dict with exactly this model's keys; a missing num_batches_tracked is let pass.

        Raises CheckpointError that names the keys or shapes that do not fit; nothing has been changed then.
        """
        stored, backend = self.built.stored, self.built.backend
        missing = [k for k in stored if k not in state and not k.endswith("num_batches_tracked")]
        unknown = [k for k in state if k not in stored]
        if missing or unknown:
            hint = did_you_mean(unknown[0], missing) if unknown else ""
            wrong = [f"missing {', '.join(missing[:5])}"] if missing else []
            wrong += [f"unknown {', '.join(unknown[:5])}"] if unknown else []
            raise CheckpointError(f"the state dict does not fit the model: {'; '.join(wrong)}{hint}")
        fitting = {key: checked(key, stored[key].torch_shape, array) for key, array in state.items()}
        for key, host in fitting.items():
            master = stored[key].master
            master[...] = backend.from_host(np.ascontiguousarray(stored[key].from_torch(host), master.dtype))
        self.built.parameters.work()


@dataclass(eq=False)
class _Built:
    """What building a model makes: its device and its memory."""

    backend: Backend
    parameters: Parameters
    stored: dict[str, Param | Buffer]
    seed: int
    symbols: bool  #: whether a layer takes class numbers

    def as_input(self, x: Any) -> Array:
        """`x` on the model's device and in its precision."""
        kind = np.dtype(getattr(x, "dtype", None) or np.asarray(x).dtype)
        whole = self.symbols and kind.kind in "iu" and kind != np.uint8
        dtype = np.dtype(np.int64) if whole else self.parameters.dtype
        if not self.backend.owns(x):
            return self.backend.from_host(x, dtype)
        return x if x.dtype == dtype else x.astype(dtype)


def outcome(y: Any) -> Any:
    """The array or arrays that a model's output is, in float32 where the model's precision is short."""
    if isinstance(y, Mapping):
        return {name: outcome(each) for name, each in y.items()}
    return y.tape.backend.cast(y.value, full(y.value.dtype)) if is_short(y.value.dtype) else y.value


def entry(shape: Shapes) -> tuple[Shape, dict[str, Shape]]:
    """What `infer` of a whole model takes: the shape of the first input, and those of all that have a name."""
    if isinstance(shape, Mapping):
        scope = {name: tuple(each) for name, each in shape.items()}
        return next(iter(scope.values())), scope
    return tuple(shape), {}


def _declare(layer: Layer) -> dict[str, Param | Buffer]:
    arrays = layer.arrays()
    for name, array in arrays.items():
        setattr(layer, name, array)
    return arrays


layers = Registry("layer", Layer)
