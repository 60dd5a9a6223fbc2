"""The base of all optimizers: what an update is, from the flat buffers to the state dict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from gpubackprop.backend import Array, HostArray
from gpubackprop.errors import CheckpointError, UsageError
from gpubackprop.parameters import Parameters, Segment, checked
from gpubackprop.registry import Registry, did_you_mean

Kinds: TypeAlias = Sequence[Literal["bias", "norm"]]  #: of params, as `Param.kind` calls them


class Run(NamedTuple):
    """A stretch of the flat buffers in which all params are updated alike, the padding between them included."""

    start: int
    stop: int
    decay: bool


class Optimizer:
    """Updates a model's params from their gradients.

    An optimizer writes its formula once, over a stretch of the flat buffers, so a whole model is mostly one pass:

        class SGD(Optimizer):
            def __init__(self, params: Given[Parameters], lr: PositiveFloat = 1e-3): ...
            def coefficients(self): return (self.lr,)
            def update_run(self, value, grad, state, decay):
                (lr,) = self.scalars
                value -= lr * grad

    `step()` is one update. It has two halves, so that the second can be captured and replayed on a GPU: `prepare()`
    counts the step and sends the coefficients to the device, `update()` runs on the device alone.

    lr        learning rate; a schedule sets it between steps
    momentum  the share of the running mean of gradients that is kept (beta1 in Adam); a schedule may set it where
              `has_momentum`, that is where the optimizer was built to keep such a mean
    steps     updates done
    scalars   `coefficients()` on the device, in the params' precision
    state     running means and the like by PyTorch's names, each a flat array (P,) laid out as the params

    Which params are frozen (`needs_grad` false) is read once, here: they are not touched, nor decayed.
    """

    BLOCK = 2**20  # elements: temporaries of a few MiB stay cheap on a CPU, and a GPU is still busy with each

    def __init__(
        self, params: Parameters, lr: float, weight_decay: float = 0.0, no_decay: Kinds = (), momentum: float = 0.0
    ) -> None:
        if not isinstance(params, Parameters):
            name = type(self).__name__
            raise UsageError(
                f"{name} takes a model's parameters, got {type(params).__name__}; write {name}(model.parameters())"
            )
        for kind in no_decay:
            if kind not in ("bias", "norm"):
                hint = did_you_mean(kind, ["bias", "norm"])
                raise UsageError(f"no_decay: unknown kind {kind!r}; known: bias, norm{hint}")
        self.params, self.backend, self.xp = params, params.backend, params.backend.xp
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.steps, self.has_momentum = 0, momentum != 0
        self.state: dict[str, Array] = {}
        self.trained = [segment for segment in params.segments if segment.param.needs_grad]
        self.runs = list(_runs(params.segments, weight_decay, no_decay))
        self.scalars: Array = None

    # --- what an optimizer writes ------------------------------------------------------------------------------

    def coefficients(self) -> tuple[float, ...]:
        """The numbers that change from step to step, from `lr`, `momentum` and `steps` (1 at the first update)."""
        return (self.lr,)

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], decay: bool) -> None:
        """Update `value` (P,) and `state` ((P,) each) in place from `grad` (P,), which is read-only.

        `decay` says whether weight decay falls here. Coefficients are read from `scalars`, never from `lr`.
        """
        raise NotImplementedError(f"{type(self).__name__}.update_run")

    def add_state(self, *names: str) -> None:
        """Flat state arrays, zero at the start. Zero gradients in the padding must keep them zero."""
        self.state |= {name: self.xp.zeros_like(self.params.master) for name in names}

    # --- what every optimizer can do ---------------------------------------------------------------------------

    def step(self) -> None:
        """One update of all params from their gradients."""
        self.prepare()
        self.update()

    def prepare(self) -> None:
        """The host's half of a step: count it, and send its coefficients to the device."""
        if self.momentum and not self.has_momentum:
            raise UsageError(
                "the schedule cycles the momentum, but the optimizer was built without; set optimizer.momentum"
            )
        self.steps += 1
        sent = self.backend.from_host(np.array(self.coefficients(), self.params.master.dtype))
        if self.scalars is None:
            self.scalars = self.xp.zeros_like(sent)
        self.scalars[...] = sent  # always the same memory: a captured update goes on reading it

    def update(self) -> None:
        """The device's half of a step."""
        master, grad, value = self.params.master, self.params.grad, self.params.value
        for start, stop, decay in self.runs:
            for low in range(start, stop, self.BLOCK):
                part = slice(low, min(low + self.BLOCK, stop))
                self.update_run(master[part], grad[part], {k: s[part] for k, s in self.state.items()}, decay)
        if value is not master:
            value[...] = master

    def state_dict(self) -> dict[str, HostArray]:
        """Copies of the state as `<param key>.<state name>`, in PyTorch's layouts, as NumPy arrays."""
        return {
            f"{name}.{state}": np.array(param.to_torch(flat[start:stop].reshape(param.shape)), order="C")
            for state, flat in ((state, self.backend.to_host(array)) for state, array in self.state.items())
            for name, param, start, stop in self.trained
        }

    def load_state_dict(self, saved: Mapping[str, HostArray], steps: int) -> None:
        """Go on where another run stood after `steps` updates.

        Raises CheckpointError that names the keys or shapes that do not fit; nothing has been changed then.
        """
        wanted = {f"{segment.name}.{state}": (segment, state) for state in self.state for segment in self.trained}
        missing, unknown = [k for k in wanted if k not in saved], [k for k in saved if k not in wanted]
        if missing or unknown:
            wrong = [f"missing {', '.join(missing[:5])}"] if missing else []
            wrong += [f"unknown {', '.join(unknown[:5])}"] if unknown else []
            hint = did_you_mean(unknown[0], missing) if unknown else ""
            ours = f"{type(self).__name__} with these options and frozen layers"
            raise CheckpointError(f"the optimizer state does not fit {ours}: {'; '.join(wrong)}{hint}")
        fitting = {key: checked(key, wanted[key][0].param.torch_shape, array) for key, array in saved.items()}
        size, dtype = self.params.master.shape, self.params.master.dtype
        flats = {state: np.zeros(size, dtype) for state in self.state}
        for key, host in fitting.items():
            (_, param, start, stop), state = wanted[key]
            flats[state][start:stop] = param.from_torch(host).ravel()
        for state, flat in flats.items():
            self.state[state][...] = self.backend.from_host(flat)
        self.steps = steps


def _runs(segments: Sequence[Segment], weight_decay: float, no_decay: Kinds) -> Iterator[Run]:
    """The fewest runs that cover all params that are not frozen."""
    open_run: Run | None = None
    for _, param, start, stop in segments:
        decay = weight_decay != 0 and param.kind not in no_decay
        if open_run and param.needs_grad and decay == open_run.decay:
            open_run = open_run._replace(stop=stop)
            continue
        if open_run:
            yield open_run
        open_run = Run(start, stop, decay) if param.needs_grad else None
    if open_run:
        yield open_run


optimizers = Registry("optimizer", Optimizer)
