"""Recurrent layers: rnn, lstm, gru."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from gpubackprop.backend import Array, HostArray
from gpubackprop.backend.philox import stream_of
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.init import normal, uniform, zeros
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.dropout import dropout
from gpubackprop.ops.recurrent import gru, lstm, rnn
from gpubackprop.ops.shape import concat
from gpubackprop.parameters import Buffer, Init, Param
from gpubackprop.registry import Inferred, Positive, Share, did_you_mean
from gpubackprop.tape import Op, Tensor

#: (h,), of an lstm (h, c): each (N, H), a tensor, an array (a constant) or None (zeros).
State: TypeAlias = tuple[Any, ...]


class Recurrent(Layer):
    """What rnn, lstm and gru share: layers, directions, dropout between layers, and where states come from and go to.

    hidden_size    H; num_layers on top of each other, each one reading the outputs of the one below
    dropout        p, on the outputs of all layers but the top one, in training
    bidirectional  a second direction reads backwards; outputs are side by side, (N, T, 2H)
    last           give the top layer's last states alone, at each sample's last real position (backward: its first)
    stateful       start where the batch before ended, with no gradient into the past (truncated backpropagation through
                   time, Williams and Peng 1990): for batches that go on with the same sequences
    initial        the name of a saved tensor (N, H), in which h of all layers starts: an encoder's last state

    Positions that the mask leaves out have the output 0, hand the state on, and get and give no gradient.
    State dict, for layer k: weight_ih_lk (G, D), weight_hh_lk (G, H), bias_ih_lk, bias_hh_lk (G,), the backward
    direction's with `_reverse`; G is H times the number of gates. All start in U(±1/√H).
    """

    op: ClassVar[Op]
    gates: ClassVar[int]
    states: ClassVar[int] = 1  #: how many arrays its state has

    def __init__(
        self,
        input_size: Inferred[Positive],
        hidden_size: Positive,
        num_layers: Positive = 1,
        bias: bool = True,
        dropout: Share = 0.0,
        bidirectional: bool = False,
        last: bool = False,
        stateful: bool = False,
        initial: str | None = None,
    ) -> None:
        if bidirectional and (stateful or initial is not None):
            option = "stateful" if stateful else "initial"
            raise UsageError(f"{option} needs one direction: the backward one starts at the end; bidirectional: false")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.dropout, self.bidirectional = bias, dropout, bidirectional
        self.last, self.stateful, self.initial = last, stateful, initial
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.streams = not bidirectional

    @property
    def options(self) -> dict[str, Any]:
        """Options of the op, besides its direction."""
        return {}

    def output_shape(self, shape: Shape) -> Shape:
        """(T, D) -> (T, H · directions), or (H · directions,) with `last`."""
        name = layers.name_of(type(self))
        if len(shape) != 2:
            raise ShapeError(f"{name} needs sequences (T, D), got {shape}; put embedding or reshape before it")
        if shape[0] < 1:
            raise ShapeError(f"{name} needs at least one position, got {shape}")
        self.settle("input_size", shape[1])
        width = self.hidden_size * len(self.directions)
        return (width,) if self.last else (shape[0], width)

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """`output_shape`; the tensor named by `initial` must be there and hold a state."""
        if self.initial is not None:
            if self.initial not in scope:
                known = f"saved: {', '.join(scope) or 'nothing'}"
                hint = did_you_mean(self.initial, scope)
                raise ShapeError(f"initial: nothing was saved as {self.initial!r} before; {known}{hint}")
            if scope[self.initial] != (self.hidden_size,):
                raise ShapeError(
                    f"initial: {self.initial!r} has shape {scope[self.initial]}, but the state ({self.hidden_size},); "
                    "save the output of a layer with last: true, or of a linear layer behind it"
                )
        return super().infer(shape, scope)

    def flops(self) -> int:
        """2 G (D + H) for every position, layer and direction."""
        assert self.shapes is not None
        length, width = self.shapes[0]
        hidden, total = self.hidden_size, 0
        for _ in range(self.num_layers):
            total += 2 * length * self.gates * hidden * (width + hidden) * len(self.directions)
            width = hidden * len(self.directions)
        return total

    def arrays(self) -> dict[str, Param | Buffer]:
        """Weights and biases by layer and direction."""
        rows, width = self.gates * self.hidden_size, self.size("input_size")
        arrays: dict[str, Param | Buffer] = {}
        for layer in range(self.num_layers):
            for suffix in self.directions:
                shapes: dict[str, Shape] = {"weight_ih": (rows, width), "weight_hh": (rows, self.hidden_size)}
                if self.bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    param = Param(shape, self.initialiser(name), kind="weight" if len(shape) > 1 else "bias")
                    arrays[f"{name}_l{layer}{suffix}"] = param
            width = self.hidden_size * len(self.directions)
        return arrays

    def initialiser(self, name: str) -> Init:
        """How weight_ih, weight_hh, bias_ih or bias_hh starts: U(±1/√H), PyTorch's."""
        return uniform(1 / sqrt(self.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T, H · directions), or (N, H · directions) with `last`."""
        tape = x.tape
        key = tape.key(self.path)
        store = tape.cache if tape.cache is not None and self.streams else tape.carry if self.stateful else None
        y, ends = self.run(x, self._start(x, (store or {}).get(key)))
        if store is not None:
            # Copies: they outlive the step's memory, and as arrays they are constants to the next one.
            store[key] = [each.value.copy() for state in ends for each in state]
        if not self.last:
            return y
        top = [state[0] for state in ends[-len(self.directions) :]]
        return top[0] if len(top) == 1 else _beside(*top)

    def run(self, x: Tensor, start: Sequence[State] | None = None) -> tuple[Tensor, list[State]]:
        """x (N, T, D) -> the top layer's outputs (N, T, H · directions), and the last states of all.

        States, `start` and the result, are by layer and within it by direction, as PyTorch's h_0 and h_n; where they
        are tensors, gradients flow through them.
        """
        start = start or [(None,) * self.states] * (self.num_layers * len(self.directions))
        mask, tape = x.mask, x.tape
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and x.training:
                stream = stream_of(self.path, tape.call_number(self.path))
                x = dropout(x, tape.samples, tape.step, p=self.dropout, seed=tape.seed, stream=stream)
            ys = []
            for suffix in self.directions:
                weights = [
                    getattr(self, f"{name}_l{layer}{suffix}", None)
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                ]
                y, *end = self.op(x, *weights, *start[len(ends)], mask, reverse=bool(suffix), **self.options)
                for state in end:
                    state.mask = None  # (N, H) may look like (N, T)
                ys.append(y)
                ends.append(tuple(end))
            x = ys[0] if len(ys) == 1 else _beside(*ys)
        return x, ends

    def _start(self, x: Tensor, kept: list[Array] | None) -> list[State] | None:
        """The states kept from before, unless of another batch size; else h from `initial`; else None, zeros."""
        if kept is not None and kept[0].shape[0] == x.shape[0]:
            return [tuple(kept[i : i + self.states]) for i in range(0, len(kept), self.states)]
        if self.initial is None:
            return None
        return [(x.tape.saved[self.initial], *[None] * (self.states - 1))] * self.num_layers


@layers.register("rnn")
class RNN(Recurrent):
    """h = tanh(W x + b + W' h + b'), or relu: (T, D) -> (T, H). Elman 1990.

    init: identity  starts weight_hh as the identity, weight_ih in N(0, 0.001²) and biases at 0: with relu the IRNN of
                    Le, Jaitly and Hinton 2015, through which gradients pass unchanged at first
    """

    op, gates = rnn, 1

    def __init__(
        self,
        input_size: Inferred[Positive],
        hidden_size: Positive,
        num_layers: Positive = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        dropout: Share = 0.0,
        bidirectional: bool = False,
        last: bool = False,
        stateful: bool = False,
        initial: str | None = None,
        init: Literal["pytorch", "identity"] = "pytorch",
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, dropout, bidirectional, last, stateful, initial)
        self.nonlinearity, self.init = nonlinearity, init

    @property
    def options(self) -> dict[str, Any]:
        """The nonlinearity."""
        return {"nonlinearity": self.nonlinearity}

    def initialiser(self, name: str) -> Init:
        """PyTorch's, or Le's."""
        if self.init == "pytorch":
            return super().initialiser(name)
        return {"weight_ih": normal(0.001), "weight_hh": _identity}.get(name, zeros)


@layers.register("lstm")
class LSTM(Recurrent):
    """Long short-term memory: (T, D) -> (T, H). Gates i, f, g, o. Hochreiter and Schmidhuber 1997.

    forget_bias    the forget gate's bias at the start, bias_ih's and bias_hh's together; 1 keeps gradients alive over
                   long times (Jozefowicz et al. 2015). null: as PyTorch, random around 0
    """

    op, gates, states = lstm, 4, 2

    def __init__(
        self,
        input_size: Inferred[Positive],
        hidden_size: Positive,
        num_layers: Positive = 1,
        bias: bool = True,
        dropout: Share = 0.0,
        bidirectional: bool = False,
        last: bool = False,
        stateful: bool = False,
        initial: str | None = None,
        forget_bias: float | None = None,
    ) -> None:
        if forget_bias is not None and not bias:
            raise UsageError("forget_bias needs bias: true")
        super().__init__(input_size, hidden_size, num_layers, bias, dropout, bidirectional, last, stateful, initial)
        self.forget_bias = forget_bias

    def initialiser(self, name: str) -> Init:
        """PyTorch's; of the forget gate's biases the first starts at forget_bias, the second at 0."""
        usual = super().initialiser(name)
        if self.forget_bias is None or not name.startswith("bias"):
            return usual
        value = self.forget_bias if name == "bias_ih" else 0.0
        hidden = self.hidden_size

        def init(rng: np.random.Generator, shape: tuple[int, ...]) -> HostArray:
            bias = usual(rng, shape)
            bias[hidden : 2 * hidden] = value
            return bias

        return init


@layers.register("gru")
class GRU(Recurrent):
    """Gated recurrent units: (T, D) -> (T, H). Gates r, z, n, r behind the product with h. Cho et al. 2014."""

    op, gates = gru, 3


def _identity(rng: np.random.Generator, shape: tuple[int, ...]) -> HostArray:
    weight: HostArray = np.eye(shape[0])
    return weight


def _beside(forward: Tensor, backward: Tensor) -> Tensor:
    """Both directions, (N, ..., 2H)."""
    return concat(forward, backward)  # type: ignore[no-any-return]  # an op returns a Tensor, or a tuple of them
