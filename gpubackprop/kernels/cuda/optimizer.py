"""Update rules as in optim/*.py: one launch for all params, which writes their working copy too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.chunks import Chunks
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import THREADS, elementwise
from gpubackprop.kernels.cuda.kernel import rule
from gpubackprop.optim import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Lion,
    Lookahead,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    average,
    optimizer,
)
from gpubackprop.optim.optimizer import Run

RULES = ("Descent", "Momentum", "Adam", "Nadam", "Radam", "Lion", "Adagrad", "Adadelta", "RMSprop", "Lookahead")
UPDATE, FOLLOW = "update<{{real}}, {}>", "follow<{real}>"
SOURCE = Source("optimizer.cu", (*map(UPDATE.format, RULES), FOLLOW))


class Form(NamedTuple):
    """How optimizer.cu computes an `update_run`."""

    rule: Callable[[Any], str]  #: of RULES, by the optimizer
    states: tuple[str, ...]  #: up to three; the optimizer need not have them all
    numbers: Callable[[Any], tuple[float, ...]] = lambda _: ()  #: up to three that never change
    form: Callable[[Any], bool] = lambda _: False


_MEANS = "exp_avg", "exp_avg_sq", "max_exp_avg_sq"


def _adam(name: str) -> Form:
    return Form(lambda _: name, _MEANS, lambda o: (o.beta2, 1 - o.beta2, o.eps), lambda o: o.decoupled)


FORMS: dict[Callable[..., None], Form] = {
    SGD.update_run: Form(
        lambda o: "Momentum" if o.state else "Descent", ("momentum_buffer",), form=lambda o: o.nesterov
    ),
    Adam.update_run: _adam("Adam"),
    NAdam.update_run: _adam("Nadam"),
    RAdam.update_run: _adam("Radam"),
    Muon.update_run: _adam("Adam"),
    Lion.update_run: Form(lambda _: "Lion", ("exp_avg",), lambda o: (1 - o.beta2,)),
    Adagrad.update_run: Form(lambda _: "Adagrad", ("sum",), lambda o: (o.eps,)),
    Adadelta.update_run: Form(lambda _: "Adadelta", ("square_avg", "acc_delta"), lambda o: (o.rho, 1 - o.rho, o.eps)),
    RMSprop.update_run: Form(
        lambda _: "RMSprop",
        ("square_avg", "grad_avg", "momentum_buffer"),
        lambda o: (o.alpha, 1 - o.alpha, o.eps),
    ),
    Lookahead.update_run: Form(lambda _: "Lookahead", ("slow_params",)),
}


class Whole(Protocol):
    """Updates the params that are updated by themselves, all of them; `runs` are theirs."""

    fits: bool  #: whether it can

    def __init__(self, own: Any, runs: Sequence[Run]) -> None: ...

    def __call__(self, own: Any, ok: Array) -> None:
        """One update, unless not ok."""


ALONE: dict[Callable[..., None], type[Whole]] = {}  #: by the `update_param` that it stands in for


class _Plan:
    """What is known of an optimizer before its first step."""

    def __init__(self, own: Optimizer) -> None:
        runs, alone = ([run for run in own.runs if bool(run.alone) is each] for each in (False, True))
        self.form, whole = FORMS.get(type(own).update_run), ALONE.get(type(own).update_param)
        self.whole = whole(own, alone) if whole and alone else None
        # A user may have put an own formula in Adam's frame.
        adam = isinstance(own, Adam) and (type(own).means, type(own).decayed) != (Adam.means, Adam.decayed)
        known = (not runs or self.form) and (not alone or (self.whole and self.whole.fits))
        self.fits = bool(known) and not adam
        self.chunks = Chunks(own.backend, runs)


_PLANS: WeakKeyDictionary[Optimizer, _Plan] = WeakKeyDictionary()


def working_copy(own: Optimizer) -> Any:
    """The params' working copy (P,), NULL where there is but one."""
    return NULL if own.params.value is own.params.master else own.params.value


def update_all(self: Optimizer, ok: Array | None) -> None:
    """As optim/optimizer.py."""
    plan = _PLANS.get(self) or _PLANS.setdefault(self, _Plan(self))
    if not plan.fits:
        optimizer.update_all(self, ok)
        return
    b: Any = self.backend
    if plan.form and plan.chunks.count:
        params, number, form = self.params, self.params.master.dtype.type, plan.form
        states = [self.state.get(name, NULL) for name in form.states]
        numbers = form.numbers(self)
        b.launch(
            *(SOURCE, UPDATE.format(form.rule(self)), params.value.dtype, (plan.chunks.count,), (THREADS,)),
            *(plan.chunks.table, params.master, working_copy(self), params.grad, *states, *[NULL] * (3 - len(states))),
            *(self.scalars, NULL if ok is None else ok, *map(number, (*numbers, 0, 0, 0)[:3])),
            *(np.int32(form.form(self)), np.int32(self.scalars.shape[1])),
        )
    if plan.whole:
        plan.whole(self, NULL if ok is None else ok)


def follow(b: Any, mean: Array, value: Array, share: Array) -> None:
    """As optim/average.py."""
    size = elementwise(mean.size, mean.itemsize)
    b.launch(SOURCE, FOLLOW, mean.dtype, *size, mean, value, share, np.int64(mean.size))


rule(optimizer.update_all, update_all)
rule(average.follow, follow)
