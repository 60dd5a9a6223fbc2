"""A config: read, merged, overridden, checked, and said back with every default filled in."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from gpubackprop.config.blocks import first_parameter, read_blocks
from gpubackprop.config.check import BAD, Checker
from gpubackprop.config.component import Component
from gpubackprop.config.document import Mark, Node, Problems
from gpubackprop.config.dump import dump
from gpubackprop.config.merge import extend, from_text, read_text
from gpubackprop.config.override import WrongPathError, override, read_overrides
from gpubackprop.config.plugins import import_plugins
from gpubackprop.config.signature import Argument, Pattern, first_option, options_of
from gpubackprop.config.training import Training
from gpubackprop.errors import ConfigError
from gpubackprop.registry import NonNegative, Registry, did_you_mean

Device = Annotated[str, Pattern(r"auto|cpu|cuda(:[0-9]+)?", "auto, cpu, cuda or cuda:N")]
Precision = Literal["float64", "float32", "tf32", "bfloat16", "float16"]
Name = Annotated[str, Pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "a name of letters, digits, _, - and .")]

Check = Callable[[Mapping[str, Any], Problems], None]  #: a further check: (checked values by key, problems)


@dataclass(frozen=True)
class Kinds:
    """The base classes whose registries a config draws from, and the options that all data shares."""

    layer: type
    loss: type
    metric: type
    optimizer: type
    schedule: type
    source: type
    data_options: type

    @classmethod
    def installed(cls) -> Kinds:
        """Those of this package, with everything that it registers."""
        from gpubackprop.data.options import DataOptions
        from gpubackprop.data.source import Source
        from gpubackprop.nn.layer import Layer
        from gpubackprop.nn.loss import Loss
        from gpubackprop.optim.optimizer import Optimizer
        from gpubackprop.optim.schedule import Schedule
        from gpubackprop.training.metric import Metric

        return cls(Layer, Loss, Metric, Optimizer, Schedule, Source, DataOptions)

    def keys(self) -> dict[str, Argument]:
        """The keys at the top of a config, as if they were a constructor's arguments."""
        keys = (
            Argument("format", Literal[1], 1),
            Argument("name", Name, "run"),
            Argument("seed", NonNegative, 0),
            Argument("device", Device, "auto"),
            Argument("precision", Precision, "float32"),
            Argument("kernels", Literal["auto", "reference"], "auto"),
            Argument("plugins", list[str], factory=list),
            Argument("data", self.source),
            Argument("model", list[self.layer]),  # type: ignore[name-defined]  # an annotation as a value
            Argument("loss", self.loss),
            Argument("metrics", list[self.metric], factory=list),  # type: ignore[name-defined]  # the same
            Argument("optimizer", self.optimizer),
            Argument("schedule", self.schedule | None, None),
            Argument("training", Training, factory=Training),
        )
        return {argument.name: argument for argument in keys}


@dataclass(frozen=True)
class Config:
    """A config without a mistake. Components are built by whoever uses them."""

    name: str
    seed: int
    device: str
    precision: Precision
    kernels: Literal["auto", "reference"]
    plugins: list[str]  #: absolute paths
    data: Component  #: `data.build()` is the source, `data.common.build()` the options that all data shares
    model: list[Component]
    loss: Component
    metrics: list[Component]
    optimizer: Component
    schedule: Component | None
    training: Training
    text: str  #: the file as given
    path: str | None = None  #: the file's path as given; None for a dict
    notes: tuple[str, ...] = ()  #: what is allowed, and yet hardly meant

    def resolved(self) -> dict[str, Any]:
        """The config as plain values with every default filled in; loads to the same run anywhere."""
        return {
            "format": 1,
            "name": self.name,
            "seed": self.seed,
            "device": self.device,
            "precision": self.precision,
            "kernels": self.kernels,
            "plugins": list(self.plugins),
            "data": self.data.single(),
            "model": [layer.entry() for layer in self.model],
            "loss": self.loss.single(),
            "metrics": [metric.entry() for metric in self.metrics],
            "optimizer": self.optimizer.single(),
            "schedule": self.schedule.single() if self.schedule else None,
            "training": dataclasses.asdict(self.training),
        }

    def resolved_yaml(self) -> str:
        """`resolved` as YAML."""
        return dump(self.resolved())


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[str] = (),
    *,
    checks: Iterable[Check] = (),
    kinds: Kinds | None = None,
) -> Config:
    """Read a config from a YAML file, or from a dict, and check all of it.

    `overrides`: `["optimizer.lr=0.01"]`, or `{"optimizer.lr": 0.01}`. `checks` see what could be
    made of each key, even where there were mistakes (a layer that could not be made is None), and
    add problems of their own. Raises ConfigError with all problems, in the order of the file.
    """
    kinds = kinds or Kinds.installed()
    problems = Problems()
    document, text = _read(source, problems)
    if document is None:
        raise ConfigError(list(problems))
    document, plugins, sure = _overridden(document, overrides, kinds, problems)
    checker = Checker(problems, sure)
    values = _check(document, kinds, checker, problems) | {"plugins": plugins}
    for check in checks:
        check(values, problems)
    problems.raise_any()
    path = None if isinstance(source, Mapping) else os.fspath(source)
    if "name" not in document.value:
        values["name"] = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).stem).lstrip(".-") or "run" if path else "run"
    del values["format"]
    values["training"] = values["training"].build()
    notes = tuple(f"note: define.{name} is not used" for name in sorted(checker.blocks.unused))
    text = text if path else dump(Node.of(source, Mark("config")).plain())
    return Config(**values, text=text, path=path, notes=notes)


def _read(source: str | os.PathLike[str] | Mapping[str, Any], problems: Problems) -> tuple[Node | None, str]:
    if isinstance(source, Mapping):
        node = Node.of(source, Mark("config"))
        return extend(node, problems), ""
    path = os.fspath(source)
    text = read_text(path, Mark(path), "", problems)
    return (None, "") if text is None else (from_text(text, path, problems), text)


def _overridden(
    document: Node, overrides: Mapping[str, Any] | Iterable[str], kinds: Kinds, problems: Problems
) -> tuple[Node, list[str], bool]:
    """(document with overrides, absolute paths of its plugins, whether all plugins are there).

    Plugins come first: the short form of a component that they register may have to be written out.
    """
    given = read_overrides(overrides, problems)
    for path, value in given:
        if path == "extends":
            problems.add(value.mark, path, "cannot be set; write it in the file that extends another")
    plugins: list[str] = []
    sure = True
    for turn in ("plugins", "the rest"):
        for path, value in given:
            if path != "extends" and (path.partition(".")[0] == "plugins") == (turn == "plugins"):
                try:
                    document = override(document, path, value, partial(_first, kinds, document, path))
                except WrongPathError as error:
                    problems.add(value.mark, path, str(error))
        if turn == "plugins" and (node := document.value.get("plugins")) and node.value is not None:
            plugins, sure = import_plugins(node, problems)
    return document, plugins, sure


def _first(kinds: Kinds, document: Node, path: str, name: str) -> str | None:
    layers = path.startswith(("model.", "define."))
    registries = [each for base, each in Registry.by_base.items() if (base is kinds.layer) == layers]
    found = next((first_option(registry[name]) for registry in registries if name in registry), None)
    return first_parameter(document, name) if found is None and layers else found


def _check(document: Node, kinds: Kinds, checker: Checker, problems: Problems) -> dict[str, Any]:
    """What could be made of each key (`training` as a Component); a key without a value is as good as absent."""
    keys = kinds.keys()
    given = document.without(*(key for key, node in document.value.items() if node.value is None))
    for key in given.value:
        if key not in (*keys, "define"):
            _unknown(given.key(key), key, [*keys, "define", "extends"], kinds, problems)
    checker.blocks = read_blocks(given.value.get("define"), Registry.by_base[kinds.layer], problems)
    values: dict[str, Any] = {}
    for key, argument in keys.items():
        node = given.value.get(key)
        if node is None and argument.required:
            problems.add(document.mark, key, "missing; a config needs data, model, loss and optimizer")
        elif key == "training":
            node = node or Node({}, document.mark)
            if (training := checker.value(node, Training, key)) is not BAD:
                values[key] = training
        elif node is None:
            values[key] = argument.fallback()
        elif key == "data":
            source = Registry.by_base[kinds.source]
            values[key] = checker.component(node, source, key, common=kinds.data_options)
        elif key == "model":
            values[key] = checker.entries(node, Registry.by_base[kinds.layer], key)
            if node.value == []:
                problems.add(node.mark, key, "is empty; it needs at least one layer")
        elif key != "plugins" and (value := checker.value(node, argument.annotation, key)) is not BAD:
            values[key] = value
    if "monitor" in getattr(values.get("training"), "options", {}) and "metrics" in values:
        _check_monitor(given.value["training"].value["monitor"], values, problems)
    return values


def _check_monitor(node: Node, values: Mapping[str, Any], problems: Problems) -> None:
    monitor = values["training"].options["monitor"]
    metrics = [metric for metric in values["metrics"] if not metric.broken]
    known = [*(f"val/{getattr(metric.build(), 'name', metric.type)}" for metric in metrics), "val/loss", "train/loss"]
    if monitor is not None and monitor not in known:
        message = f"must be one of {', '.join(known)}, got {monitor!r}{did_you_mean(monitor, known)}"
        problems.add(node.mark, "training.monitor", message)


def _unknown(mark: Mark, key: str, known: list[str], kinds: Kinds, problems: Problems) -> None:
    hint = did_you_mean(key, known)
    for section, cls in (("training", Training), ("data", kinds.data_options)):
        if key in options_of(cls):
            hint = f"; did you mean '{section}.{key}'?"
    problems.add(mark, key, f"unknown key; allowed: {', '.join(known)}{hint}")
