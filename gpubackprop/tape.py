"""The tape: it records coarse ops as they run and calls their hand-written backwards in reverse.

It differentiates nothing. The order of recording is topological already, so residuals, branches and shared weights need
no code of their own: a tensor that was used twice simply receives two gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from gpubackprop.backend import Array, Backend
from gpubackprop.parameters import Param


class Slot:
    """What an op's backward should do about the gradient of one input.

    `wanted` False: nothing, return None. Otherwise return the gradient; where `out` is an array the op may write into
    it and return it, which saves a copy.
    """

    __slots__ = ("out", "wanted")

    def __init__(self, wanted: bool = True, out: Array | None = None) -> None:
        self.wanted, self.out = wanted, out


SKIP, FREE = Slot(wanted=False), Slot()
Slots: TypeAlias = Sequence[Slot]


class Tensor:
    """A value on a tape. Layers pass it from op to op and look at nothing but its shape."""

    __slots__ = ("grad", "needs_grad", "owned", "tape", "value")

    def __init__(self, value: Array, tape: Tape, needs_grad: bool) -> None:
        self.value, self.tape, self.needs_grad = value, tape, needs_grad
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

    def accumulate(self, grad: Array) -> None:
        """Add a gradient. The first one is kept as it is: ops may return `dy` itself."""
        if self.grad is None:
            self.grad = grad
        elif self.owned:
            self.grad += grad
        else:
            self.grad, self.owned = self.grad + grad, True


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
        y, saved = self.forward(tape.backend, *arrays, **options)
        needs_grad = any(getattr(x, "needs_grad", False) for x in inputs)
        several = type(y) is tuple
        outputs = tuple(Tensor(value, tape, needs_grad) for value in (y if several else (y,)))
        if tape.recording and needs_grad:
            tape.entries.append((self, saved, inputs, outputs))
        return outputs if several else outputs[0]


class Tape:
    """One forward pass, and the context in which it runs.

    training   dropout acts and batch statistics are used; False: inference
    recording  keep what the backward pass needs
    seed, step, samples (N,)   what random numbers are a function of: samples count through the step's whole batch
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
    ) -> None:
        self.backend, self.training, self.recording = backend, training, recording
        self.seed, self.step, self.samples = seed, step, samples
        self.entries: list[tuple[Op, Any, tuple[Any, ...], tuple[Tensor, ...]]] = []
        self.effects: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.saved: dict[str, Tensor] = {}  # by the names of `save:` layers
        self.calls: dict[str, int] = {}
        # Params whose grad holds something already; micro-batches of one step share the set.
        self.written: set[Param] = set() if written is None else written

    def input(self, array: Array, needs_grad: bool = False) -> Tensor:
        """Put an array on the tape."""
        return Tensor(array, self, needs_grad)

    def call_number(self, path: str) -> int:
        """How often the layer at `path` drew random numbers in this pass: a shared layer draws anew each time."""
        self.calls[path] = self.calls.get(path, -1) + 1
        return self.calls[path]

    def after_step(self, effect: Callable[..., None], *args: Any) -> None:
        """Run `effect(backend, *args)` once the step is known to count: running statistics, counters."""
        self.effects.append((effect, args))

    def apply_effects(self) -> None:
        """Run what was deferred, in the order of the forward pass."""
        for effect, args in self.effects:
            effect(self.backend, *args)
        self.effects.clear()

    def backward(self, loss: Tensor) -> None:
        """Fill the grads of all params and inputs that want one with d loss / d them; loss has shape ()."""
        loss.accumulate(self.backend.xp.ones_like(loss.value))
        while self.entries:
            op, saved, inputs, outputs = self.entries.pop()
            dys = tuple(y.grad for y in outputs)
            for y in outputs:
                y.grad = None  # memory is free again as soon as the op is done
            if all(dy is None for dy in dys):
                continue
            slots = [self._slot(x) for x in inputs]
            grads = op.backward(self.backend, saved, dys if len(dys) > 1 else dys[0], slots)
            for x, slot, grad in zip(inputs, slots, grads, strict=True):
                if slot.wanted:
                    self._accumulate(x, grad)

    def _slot(self, x: Any) -> Slot:
        if not getattr(x, "needs_grad", False):
            return SKIP
        if isinstance(x, Param) and x not in self.written:
            return Slot(out=x.grad)
        return FREE

    def _accumulate(self, x: Tensor | Param, grad: Array) -> None:
        if isinstance(x, Tensor):
            x.accumulate(grad)
        elif x in self.written:
            x.grad += grad
        else:
            if grad is not x.grad:
                x.grad[...] = grad
            self.written.add(x)
