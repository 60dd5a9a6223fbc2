"""Backward passes of a config's or a run's model, checked on its own data; a plugin's before it is trained with."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop import data as data_floor
from gpubackprop.config import Component
from gpubackprop.data import Loader
from gpubackprop.diagnose.gradcheck import TOLERANCE, Finding, check_model, is_plugin
from gpubackprop.errors import ConfigError, GpubackpropError, OperatorError, Problem
from gpubackprop.nn.containers import Sequential
from gpubackprop.run.check import Plan, make_plan
from gpubackprop.run.use import Run
from gpubackprop.training import checkpoint

SAMPLES = 4  #: of the first training batch, a handful, so that it takes a moment


def gradcheck(
    target: str | Path,
    overrides: Iterable[str] = (),
    *,
    samples: int = SAMPLES,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> list[Finding]:
    """Check every layer, the loss and the whole model, in float64 on the CPU, on training samples.

    target  a config, or a run's directory; the weights are a new model's, or those of the run's best checkpoint

    Raises ConfigError, DataError, CheckpointError.
    """
    run = Run(target) if Path(target).is_dir() else None
    plan = make_plan(run.files.resolved if run else str(target), [*overrides, "device=cpu", "precision=float64"])
    preprocessing = run.preprocessing if run else None
    prepared = data_floor.prepare(
        plan.source, plan.options, seed=plan.config.seed, dtype=np.float64, preprocessing=preprocessing
    )
    plan.model.build(plan.info.input_shape, plan.config.seed, "cpu", "float64")
    if run:
        checkpoint.load_model(run.checkpoint(), plan.model)
    return check_model(plan.model, plan.loss, _batch(prepared.train, samples), tolerance=tolerance, seed=seed)


def check_plugins(plan: Plan, loader: Loader) -> list[str]:
    """Check the layers and the loss that come from plugins; one line that says which, or none where there are none.

    On a few training samples, in a copy of the model. Raises ConfigError for those whose backward pass is wrong.
    """
    own = [layer for _, layer in plan.model.walk() if is_plugin(layer)]
    if not plan.config.training.check_plugins or not (own or is_plugin(plan.loss)):
        return []
    model = Sequential(*(component.build() for component in plan.config.model))
    model.build(plan.info.input_shape, plan.config.seed, "cpu", "float64")
    batch, with_loss = _batch(loader, SAMPLES), is_plugin(plan.loss)
    try:
        findings = check_model(model, plan.loss, batch, wanted=is_plugin, with_loss=with_loss, with_model=False)
    except Exception as error:  # whatever a user's own forward pass may raise
        if isinstance(error, GpubackpropError) and not isinstance(error, OperatorError):
            raise
        raise ConfigError([_broken(error, plan)]) from error
    problems = [_problem(finding, plan) for finding in findings if finding.verdict == "wrong"]
    if problems:
        raise ConfigError(problems)
    names = ", ".join(f"{f.path} {f.kind}" + (" (not smooth here)" if f.verdict == "unclear" else "") for f in findings)
    return [f"backward passes of plugins agree with numerical gradients: {names}"] if names else []


def check_before(plan: Plan) -> list[str]:
    """`check_plugins` on the config's own data, which is read only where there are plugins to check."""
    if not any(is_plugin(part) for part in (plan.loss, *(layer for _, layer in plan.model.walk()))):
        return []
    prepared = data_floor.prepare(plan.source, plan.options, seed=plan.config.seed, dtype=np.float64)
    return check_plugins(plan, prepared.train)


def _problem(finding: Finding, plan: Plan) -> Problem:
    place: Any = getattr(finding.layer, "origin", None) if finding.layer else plan.config.loss
    where, key = (str(place.mark), place.path) if isinstance(place, Component) else ("model", finding.path)
    remedy = "mend backward, or set training.check_plugins: false"
    return Problem(where, key, f"its backward pass is wrong: {finding.reason}; {remedy}")


def _broken(error: Exception, plan: Plan) -> Problem:
    """Which layer of the config was at work when a plugin raised, and on which line of the plugin."""
    place: Any = None
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        for thing in (frame.f_locals.get("self"), frame.f_locals.get("layer")):
            place = getattr(thing, "origin", None) or place
        if frame.f_code.co_filename in plan.config.plugins:
            line = f" ({Path(frame.f_code.co_filename).name}, line {number})"
    where, key = (str(place.mark), place.path) if isinstance(place, Component) else ("plugins", "")
    return Problem(where, key, f"raises {type(error).__name__}{line}: {' '.join(str(error).split())}")


def _batch(loader: Loader, samples: int) -> dict[str, Any]:
    return {name: _first(value, samples) for name, value in loader.batch(0, 0).items()}


def _first(value: Any, samples: int) -> Any:
    return {k: _first(v, samples) for k, v in value.items()} if isinstance(value, Mapping) else value[:samples]
