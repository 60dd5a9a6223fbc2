"""The tape: it records coarse ops as they run and calls their hand-written backwards in reverse.

It differentiates nothing. The order of recording is topological already, so residuals, branches and shared weights need
no code of their own: a tensor that was used twice simply receives two gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from gpubackprop.backend import Array, Backend
from gpubackprop.backend.precision import is_short
from gpubackprop.errors import OperatorError, UsageError
from gpubackprop.parameters import Param


class Slot:
    """What an op's backward should do about the gradient of one input.

    `wanted` False: nothing, return None. Otherwise return the gradient; where `out` is an array the op may write into
    it and return it, which saves a copy. `wide` is such an array in float32, given in its place for a short input
    (backend/precision.py): an op that has the gradient in float32 may return it so, there or elsewhere.
    """

    __slots__ = ("out", "wanted", "wide")

    def __init__(self, wanted: bool = True, out: Array | None = None, wide: Array | None = None) -> None:
        self.wanted, self.out, self.wide = wanted, out, wide

    def widened(self) -> Slot:
        """What a pair is told that does the work in float32."""
        return self if self.wide is None else Slot(out=self.wide)


SKIP, FREE = Slot(wanted=False), Slot()
Slots: TypeAlias = Sequence[Slot]


class Tensor:
    """A value on a tape. Layers pass it from op to op and look at nothing but its shape and its mask.

    `mask` (N, T), booleans, says which positions of a sequence are real, None: all. It travels with the values: an op's
    output has the mask of the op's first input that has one, as long as its first two axes are still (N, T).
    """

    __slots__ = ("grad", "mask", "needs_grad", "owned", "tape", "value")

    def __init__(self, value: Array, tape: Tape, needs_grad: bool, mask: Array | None = None) -> None:
        self.value, self.tape, self.needs_grad, self.mask = value, tape, needs_grad, mask
        self.grad: Array | None = None
        self.owned = False  # whether `grad` is ours to add to, or an array that an op returned and may share

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, batch first."""
        return self.value.shape  # type: ignore[no-any-return]  # arrays are Any: NumPy's and CuPy's alike

    @property
    def training(self) -> bool:
        """Whether this forward pass trains (dropout, batch statistics) or infers."""
        return self.tape.training

    def __array_ufunc__(self, function: Any, *rest: Any, **options: Any) -> Any:
        raise _refuse(f"numpy.{function.__name__}", function.__name__)

    def __array_function__(self, function: Any, *rest: Any) -> Any:
        raise _refuse(f"numpy.{function.__name__}", function.__name__)

    def __array__(self, *rest: Any, **options: Any) -> Any:
        raise _refuse("numpy.asarray", "asarray")

    def accumulate(self, grad: Array) -> None:
        """Add a gradient. The first one is kept as it is: ops may return `dy` itself; but of a short tensor it is
        rounded, where it comes in float32."""
        if is_short(self.value.dtype) and grad.dtype != self.value.dtype:
            grad = self.tape.backend.cast(grad, self.value.dtype)
        if self.grad is None:
            self.grad = grad
        elif self.owned:
            self.tape.backend.add(self.grad, grad, out=self.grad)
        else:
            self.grad, self.owned = self.tape.backend.add(self.grad, grad), True


#: What is meant, by the name of the operator or of NumPy's function.
_CALLS = {
    "add": "ops.shape.add(x, y)",
    "mul": "ops.arithmetic.scale(x, s), for factors s (N, C)",
    "multiply": "ops.arithmetic.scale(x, s), for factors s (N, C)",
    "matmul": "ops.linear.linear(x, weight, bias)",
    "dot": "ops.linear.linear(x, weight, bias)",
    "maximum": "ops.activation.relu(x)",
    "tanh": "ops.activation.tanh(x)",
    "reshape": "ops.shape.reshape(x, shape=…)",
    "concatenate": "ops.shape.concat(x, y)",
}
_BINARY = {"add": "+", "sub": "-", "mul": "*", "matmul": "@", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**"}
_OTHERS = {"neg": "-", "abs": "abs()", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "getitem": "[]"}


def _refuse(what: str, name: str) -> OperatorError:
    call = f"call gpubackprop.{_CALLS[name]}, or write" if name in _CALLS else "write"
    return OperatorError(
        f"{what} on a Tensor: the tape records ops alone; {call} an Op, a pair of forward and backward in which x is "
        "an array (README: Layers and ops of your own)"
    )


def _refusing(name: str, symbol: str) -> Callable[..., Any]:
    def method(self: Tensor, *others: Any) -> Any:
        raise _refuse(symbol, name)

    return method


for _name, _symbol in (_BINARY | _OTHERS).items():
    for _side in ("", "r", "i") if _name in _BINARY else ("",):
        setattr(Tensor, f"__{_side}{_name}__", _refusing(_name, _symbol))


class Op:
    """A hand-written pair of functions, called with a backend `b` and arrays.

        forward(b, *arrays, **options) -> y, saved
        backward(b, saved, dy, slots) -> a gradient, or None, for each array

    y may be a tuple of arrays; dy then is a tuple too, None where nothing came back. Ops are pure: inputs, saved and dy
    are read-only. Calling the op on tensors runs forward and records it; arrays and None are constants.
    """

    def __init__(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        self.name = forward.__name__.removesuffix("_forward")
        self.forward, self.backward = forward, backward

    def __repr__(self) -> str:
        return f"Op({self.name})"

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run on tensors, params, arrays or None; the result is a Tensor, or a tuple of them."""
        tape = next(x.tape for x in inputs if type(x) is Tensor)
        arrays = [x.value if isinstance(x, Tensor | Param) else x for x in inputs]
        pair = tape.backend.pair(self, arrays, options)
        y, saved = pair.forward(tape.backend, *arrays, **options)
        needs_grad = any(getattr(x, "needs_grad", False) for x in inputs)
        several = type(y) is tuple
        mask = next((x.mask for x in inputs if type(x) is Tensor and x.mask is not None), None)
        outputs = tuple(
            Tensor(value, tape, needs_grad, mask if mask is not None and value.shape[:2] == mask.shape else None)
            for value in (y if several else (y,))
        )
        if tape.recording and needs_grad:
            tape.entries.append((pair, saved, inputs, outputs))
        return outputs if several else outputs[0]


class Tape:
    """One forward pass, and the context in which it runs.

    training   dropout acts and batch statistics are used; False: inference
    recording  keep what the backward pass needs
    seed, step, samples (N,)   what random numbers are a function of: samples count through the step's whole batch
    cache      where layers keep what they need of the past while a stream is fed piece by piece; None: whole sequences
    fuse       neighbouring layers may be done as one where the device is quicker so; False: each by itself, to be seen
    carry      states that stateful layers hand on from step to step; None: every sequence starts anew
    """

    def __init__(
        self,
        backend: Backend,
        *,
        training: bool = False,
        recording: bool = False,
        seed: int = 0,
        step: int | Array = 0,
        samples: Array | None = None,
        written: set[Param] | None = None,
        cache: dict[str, Any] | None = None,
        carry: dict[str, list[Array]] | None = None,
        fuse: bool = True,
    ) -> None:
        self.backend, self.training, self.recording = backend, training, recording
        self.seed, self.step, self.samples = seed, step, samples
        self.cache, self.carry = cache, carry
        self.fuses = fuse and backend.fuses
        self.entries: list[tuple[Op, Any, tuple[Any, ...], tuple[Tensor, ...]]] = []
        self.effects: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.saved: dict[str, Tensor] = {}  # by the names of `save:` layers and of the inputs
        self.losses: list[Tensor] = []  # of `add_loss`
        self.calls: dict[str, int] = {}
        self.uses: dict[str, int] = {}
        # Params whose grad holds something already; micro-batches of one step share the set.
        self.written: set[Param] = set() if written is None else written

    def input(self, array: Any, needs_grad: bool = False, mask: Any = None) -> Tensor:
        """Put an array on the tape, with the mask (N, T) of its real positions.

        Of several, given by name, each is saved under its name, and the first is what the first layer gets.
        """
        if isinstance(array, Mapping):
            masks = mask if isinstance(mask, Mapping) else {}
            for name, each in array.items():
                self.saved[name] = self.input(each, needs_grad, masks.get(name))
            return self.saved[next(iter(array))]
        # Of the targets are masks by name, where there is but one input, and those of another length.
        own = mask is not None and not isinstance(mask, Mapping) and mask.ndim == 2 and mask.shape == array.shape[:2]
        return Tensor(array, self, needs_grad, mask if own else None)

    def key(self, path: str) -> str:
        """A name in `cache` and `carry` for the layer at `path`: another one for each use in a pass."""
        self.uses[path] = self.uses.get(path, -1) + 1
        return f"{path}#{self.uses[path]}"

    def add_loss(self, total: Tensor) -> None:
        """Add a term of a layer's own to the objective: shape (), the sum over the samples of this batch."""
        self.losses.append(total)

    def call_number(self, path: str) -> int:
        """How often the layer at `path` drew random numbers in this pass: a shared layer draws anew each time."""
        self.calls[path] = self.calls.get(path, -1) + 1
        return self.calls[path]

    def after_step(self, effect: Callable[..., None], *args: Any) -> None:
        """Run `effect(backend, *args)` once the step is known to count: running statistics, counters."""
        self.effects.append((effect, args))

    def recompute(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), of which only x is kept for the backward pass: there it is run once more (Chen et al. 2016).

        The second run draws the same random numbers and has no effects. What it saves by name is for itself alone.
        """
        if not self.recording:
            return function(x)
        calls, uses, saved = dict(self.calls), dict(self.uses), dict(self.saved)
        carry = None if self.carry is None else dict(self.carry)
        losses = len(self.losses)
        self.recording = False
        y = function(x)
        self.recording = True
        self.saved = saved
        if len(self.losses) > losses:
            raise UsageError("a layer that adds a loss of its own cannot be recomputed; take recompute: true away")
        y.needs_grad = True

        def again(b: Backend, _: Any, dy: Array, slots: Slots) -> tuple[()]:
            """Record what was not recorded; the loop of `backward` goes on with it."""
            effects, kept = len(self.effects), self.carry
            self.calls, self.uses, self.saved, self.carry = dict(calls), dict(uses), dict(saved), carry
            function(x).accumulate(dy)
            del self.effects[effects:]
            self.carry = kept
            return ()

        self.entries.append((Op(function, again), None, (), (y,)))
        return y

    def apply_effects(self) -> None:
        """Run what was deferred, in the order of the forward pass."""
        for effect, args in self.effects:
            self.backend.rule(effect)(self.backend, *args)
        self.effects.clear()

    def backward(self, loss: Tensor, start: Array | None = None) -> None:
        """Fill the grads of all params and inputs that want one with d loss / d them, times `start` where it is given.

        loss and start have shape ().
        """
        loss.accumulate(self.backend.xp.ones_like(loss.value) if start is None else start)
        while self.entries:
            op, saved, inputs, outputs = self.entries.pop()
            dys = tuple(y.grad for y in outputs)
            for y in outputs:
                y.grad = None  # memory is free again as soon as the op is done
            if all(dy is None for dy in dys):
                continue
            slots = [self._slot(x, inputs[:i]) for i, x in enumerate(inputs)]
            grads = op.backward(self.backend, saved, dys if len(dys) > 1 else dys[0], slots)
            for x, slot, grad in zip(inputs, slots, grads, strict=True):
                if slot.wanted:
                    self._accumulate(x, grad)

    def _slot(self, x: Any, before: tuple[Any, ...]) -> Slot:
        """`before`: the op's inputs before this one, one of which may be the same param."""
        if not getattr(x, "needs_grad", False):
            return SKIP
        if isinstance(x, Param) and x not in self.written and not any(x is other for other in before):
            return Slot(out=x.grad) if x.grad.dtype == x.value.dtype else Slot(wide=x.grad)
        return FREE

    def _accumulate(self, x: Tensor | Param, grad: Array) -> None:
        if isinstance(x, Tensor):
            x.accumulate(grad)
        elif x in self.written:
            grad = self.backend.cast(grad, x.grad.dtype) if is_short(x.value.dtype) else grad
            self.backend.add(x.grad, grad, out=x.grad)
        else:
            if grad is not x.grad:
                self.backend.assign(x.grad, grad)
            self.written.add(x)
