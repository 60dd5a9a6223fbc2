"""The base of all optimizers: what an update is, from the flat buffers to the state dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from gpubackprop.backend import Array, HostArray
from gpubackprop.errors import CheckpointError, UsageError
from gpubackprop.optim.group import Groups, Setting, as_groups, check_patterns, group_of, layer_scales
from gpubackprop.parameters import Param, Parameters, Segment, checked
from gpubackprop.registry import Registry, did_you_mean

Kinds: TypeAlias = Sequence[Literal["bias", "norm"]]  #: of params, as `Param.kind` calls them
T = TypeVar("T")


class Run(NamedTuple):
    """A stretch of the flat buffers in which all params are updated alike, the padding between them included."""

    start: int
    stop: int
    setting: int  #: row of `scalars`
    decay: bool
    alone: Segment | None = None  #: the one param of the stretch, where it is updated by itself


class Optimizer:
    """Updates a model's params from their gradients.

    An optimizer writes its formula once, over a stretch of the flat buffers, so a whole model is mostly one pass:

        class SGD(Optimizer):
            def __init__(self, params: Given[Parameters], lr: PositiveFloat = 1e-3): ...
            def coefficients(self, lr, weight_decay): return (lr,)
            def update_run(self, value, grad, state, scalars, decay):
                (lr,) = scalars
                value -= lr * grad

    Where a rule looks at a param as a whole (its norm, its being a matrix) `alone` says so, and `update_param` is it.

    `step()` is one update. It has two halves, so that the second can be captured and replayed on a GPU: `prepare()`
    counts the step and sends the coefficients to the device, `update()` runs on the device alone.

    lr        learning rate; a schedule sets it between steps
    momentum  the share of the running mean of gradients that is kept (beta1 in Adam); a schedule may set it where
              `has_momentum`, that is where the optimizer was built to keep such a mean
    steps     updates done
    scalars   (settings, K) `coefficients` of each of `settings` on the device, in the params' precision
    state     running means and the like by PyTorch's names, each a flat array (P,) laid out as the params
    numbers   what goes from step to step on the host

    Which params are frozen (`needs_grad` false) is read once, here: they are not touched, nor decayed. A group with
    `frozen` sets that flag on its params first, for good: what is built from them records no gradient either.
    """

    BLOCK = 2**20  # elements: temporaries of a few MiB stay cheap on a CPU, and a GPU is still busy with each

    def __init__(
        self,
        params: Parameters,
        lr: float,
        weight_decay: float = 0.0,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: float = 1.0,
        momentum: float = 0.0,
    ) -> None:
        check_params(self, params)
        for kind in no_decay:
            if kind not in ("bias", "norm"):
                hint = did_you_mean(kind, ["bias", "norm"])
                raise UsageError(f"no_decay: unknown kind {kind!r}; known: bias, norm{hint}")
        self.params, self.backend, self.xp = params, params.backend, params.backend.xp
        self.lr, self.base_lr, self.weight_decay, self.momentum = lr, lr, weight_decay, momentum
        self.no_decay, self.groups = no_decay, as_groups(groups)
        self.steps, self.has_momentum = 0, momentum != 0
        self.state: dict[str, Array] = {}
        self.numbers: dict[str, float] = {}
        keys = [segment.name for segment in params.segments]
        for group in self.groups:
            check_patterns(group.patterns, keys)
        for name, param, *_ in params.segments:
            if (found := group_of(self.groups, name)) and found.frozen:
                param.needs_grad = False
        self.layer_scales = layer_scales(params.segments, layer_decay)
        self.trained = [segment for segment in params.segments if segment.param.needs_grad]
        self.scalars: Array = None
        self.sent: list[tuple[float, ...]] = []  #: the coefficients that lie in `scalars`

    # --- what an optimizer writes ------------------------------------------------------------------------------

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """The numbers that change from step to step, from `momentum` and `steps` (1 at the first update).

        `lr` and `weight_decay` are those of a setting.
        """
        return (lr,)

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """Update `value` (P,) and `state` ((P,) each) in place from `grad` (P,), which is read-only.

        `scalars` (K,) are the coefficients, on the device; `decay` says whether weight decay falls here.
        """
        raise NotImplementedError(f"{type(self).__name__}.update_run")

    def update_param(
        self, param: Param, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool
    ) -> None:
        """As `update_run`, for one param that is `alone`: all arrays are views in the param's shape."""
        raise NotImplementedError(f"{type(self).__name__}.update_param")

    def alone(self, segment: Segment) -> bool:
        """Whether this param is updated by itself, by `update_param`."""
        return False

    def rates(self, segment: Segment) -> tuple[float, float]:
        """Learning rate and weight decay of a param, before groups, `layer_decay` and `no_decay` have their say."""
        return self.base_lr, self.weight_decay

    def keeps(self, state: str, segment: Segment) -> bool:
        """Whether a state array is of any meaning for a param, and so part of the state dict."""
        return True

    def add_state(self, *names: str, fill: float = 0.0) -> None:
        """Flat state arrays, `fill` at the start, 0 in the padding. Zero gradients there must keep them zero."""
        for name in names:
            self.state[name] = self.xp.zeros(self.params.master.shape, self.params.master.dtype)
            for _, _, start, stop in self.trained if fill else ():
                self.state[name][start:stop] = fill

    # --- what every optimizer can do ---------------------------------------------------------------------------

    def setting(self, segment: Segment) -> Setting:
        """Learning-rate factor and weight decay of a param; what a group says goes before all else."""
        lr, decay = self.rates(segment)
        lr *= self.layer_scales[segment.name]
        if segment.param.kind in self.no_decay:
            decay = 0.0
        if group := group_of(self.groups, segment.name):
            lr = group.lr if group.lr is not None else lr * (group.lr_scale or 1.0)
            decay = group.weight_decay if group.weight_decay is not None else decay
        return Setting(lr / self.base_lr, decay)

    @property
    def copies(self) -> int:
        """How many arrays as long as the params it holds."""
        return len(self.state)

    @cached_property
    def settings(self) -> list[Setting]:
        """The different settings of the params that are trained."""
        return list(dict.fromkeys(map(self.setting, self.trained)))

    @cached_property
    def runs(self) -> list[Run]:
        """The fewest runs that cover all params that are trained."""
        runs: list[Run] = []
        for before, segment in pairwise([None, *self.params.segments]):
            if segment not in self.trained:
                continue
            setting = self.setting(segment)
            alone = segment if self.alone(segment) else None
            run = Run(segment.start, segment.stop, self.settings.index(setting), setting.weight_decay != 0, alone)
            if before in self.trained and not alone and run[2:] == runs[-1][2:]:
                run = run._replace(start=runs.pop().start)
            runs.append(run)
        return runs

    def step(self) -> None:
        """One update of all params from their gradients."""
        self.prepare()
        with self.backend.running():
            self.update()

    def prepare(self) -> None:
        """The host's half of a step: count it, and send its coefficients to the device."""
        if self.momentum and not self.has_momentum:
            raise UsageError(
                "the schedule cycles the momentum, but the optimizer was built without; set optimizer.momentum"
            )
        self.steps += 1
        rows = [self.coefficients(self.lr * scale, decay) for scale, decay in self.settings]
        if rows == self.sent:
            return
        sent = self.backend.from_host(np.array(rows, self.params.master.dtype))
        if self.scalars is None:
            self.scalars = self.xp.zeros_like(sent)
        self.scalars[...] = sent  # always the same memory: a captured update goes on reading it
        self.sent = rows

    def counted(self) -> tuple[Any, ...]:
        """What `prepare` counts on the host, for `recount`."""
        return self.steps, self.numbers.copy()

    def recount(self, counted: tuple[Any, ...]) -> None:
        """Go back to what `counted` gave: the step that was prepared has not come about."""
        self.steps, self.numbers = counted

    def gradient(self, evaluate: Callable[[], T]) -> T:
        """Leave the gradient of the step in the params; `evaluate` puts there that of where the params stand.

        Returns what the first `evaluate` gave. An optimizer that looks elsewhere too may call it again.
        """
        return evaluate()

    def update(self, ok: Array | None = None) -> None:
        """The device's half of a step; where `ok`, a bool of shape () on the device, is false nothing changes there.
        The host does not know: `steps`, and what is computed of it, counts the step all the same."""
        self.backend.rule(update_all)(self, ok)

    def state_dict(self) -> dict[str, HostArray]:
        """Copies of the state as `<param key>.<state name>`, in PyTorch's layouts, as NumPy arrays.

        Numbers that go from step to step stand under their bare names, with shape ().
        """
        arrays = {
            f"{name}.{state}": np.array(param.to_torch(flat[start:stop].reshape(param.shape)), order="C")
            for state, flat in ((state, self.backend.to_host(array)) for state, array in self.state.items())
            for name, param, start, stop in self.trained
            if self.keeps(state, Segment(name, param, start, stop))
        }
        return arrays | {name: np.array(number) for name, number in self.numbers.items()}

    def load_state_dict(self, saved: Mapping[str, HostArray], steps: int) -> None:
        """Go on where another run stood after `steps` updates.

        Raises CheckpointError that names the keys or shapes that do not fit; nothing has been changed then.
        """
        wanted = {
            f"{segment.name}.{state}": (segment, state)
            for state in self.state
            for segment in self.trained
            if self.keeps(state, segment)
        }
        fit_keys(saved, [*wanted, *self.numbers], type(self).__name__)
        shapes = {key: segment.param.torch_shape for key, (segment, _) in wanted.items()}
        fitting = {key: checked(key, shapes.get(key, ()), array) for key, array in saved.items()}
        size, dtype = self.params.master.shape, self.params.master.dtype
        flats = {state: np.zeros(size, dtype) for state in self.state}
        for key, ((_, param, start, stop), state) in wanted.items():
            flats[state][start:stop] = param.from_torch(fitting[key]).ravel()
        for state, flat in flats.items():
            self.state[state][...] = self.backend.from_host(flat)
        self.numbers = {name: float(fitting[name]) for name in self.numbers}
        self.steps = steps


def update_all(self: Optimizer, ok: Array | None) -> None:
    """Optimizer.update: all runs, and the working copy after them."""
    params = self.params
    kept = [(array, array.copy()) for array in (params.master, *self.state.values()) if ok is not None]
    rule = self.backend.rule(type(self).update_run)
    kernel = getattr(rule, "__wrapped__", rule) is not type(self).update_run
    block = max(self.BLOCK, len(params.master)) if kernel else self.BLOCK  # a kernel makes no temporaries
    for start, stop, setting, decay, alone in self.runs:
        scalars = self.scalars[setting]
        if alone:
            arrays = params.master, params.grad, *self.state.values()
            value, grad, *states = (array[start:stop].reshape(alone.param.shape) for array in arrays)
            update_param = self.backend.rule(type(self).update_param)
            update_param(self, alone.param, value, grad, dict(zip(self.state, states, strict=True)), scalars, decay)
            continue
        for low in range(start, stop, block):
            part = slice(low, min(low + block, stop))
            state = {name: flat[part] for name, flat in self.state.items()}
            rule(self, params.master[part], params.grad[part], state, scalars, decay)
    for array, before in kept:
        array[...] = self.xp.where(ok, array, before)
    params.work()


def check_params(taker: object, params: object) -> None:
    """Raises UsageError where what `taker` was given are no parameters."""
    if not isinstance(params, Parameters):
        name = type(taker).__name__
        raise UsageError(
            f"{name} takes a model's parameters, got {type(params).__name__}; write {name}(model.parameters())"
        )


def fit_keys(saved: Iterable[str], wanted: Iterable[str], name: str) -> None:
    """Raises CheckpointError where the keys of a saved state are not those wanted by the optimizer called `name`."""
    missing, unknown = [k for k in wanted if k not in set(saved)], [k for k in saved if k not in set(wanted)]
    if missing or unknown:
        wrong = [f"missing {', '.join(missing[:5])}"] if missing else []
        wrong += [f"unknown {', '.join(unknown[:5])}"] if unknown else []
        hint = did_you_mean(unknown[0], missing) if unknown else ""
        ours = f"{name} with these options and frozen layers"
        raise CheckpointError(f"the optimizer state does not fit {ours}: {'; '.join(wrong)}{hint}")


optimizers = Registry("optimizer", Optimizer)
