"""Everything that can be known to be wrong before any work starts: config, data's headers, shapes, figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from os import PathLike
from typing import Any

import numpy as np

from gpubackprop import data
from gpubackprop.backend import NumpyBackend
from gpubackprop.backend.precision import working
from gpubackprop.config import Component, Config, Problems, Training, load_config
from gpubackprop.config.document import Mark
from gpubackprop.data import DataInfo, DataOptions, Source
from gpubackprop.errors import ConfigError, DataError, ShapeError, UsageError
from gpubackprop.nn.containers import Sequential, single
from gpubackprop.nn.layer import Layer, Shape, entry
from gpubackprop.nn.loss import Loss
from gpubackprop.nn.norm import BatchNorm
from gpubackprop.optim.group import check_patterns
from gpubackprop.optim.plateau import Plateau
from gpubackprop.parameters import Parameters
from gpubackprop.run import templates
from gpubackprop.training.metric import Metric


@dataclass
class Plan:
    """A config whose parts are made and fit together; nothing has been read but headers, nothing been written."""

    config: Config
    source: Source
    options: DataOptions
    info: DataInfo
    model: Sequential
    loss: Loss
    metrics: list[Metric]

    @property
    def monitor(self) -> str | None:
        """The figure that chooses the best checkpoint; None where there is no validation data, unless it is given."""
        if "validation" not in self.info.counts:
            return self.config.training.monitor
        first = f"val/{self.metrics[0].name}" if self.metrics else "val/loss"
        return self.config.training.monitor or first

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        return _steps(self.config.training, self.info, self.options)[0]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return _steps(self.config.training, self.info, self.options)[1]

    @property
    def notes(self) -> list[str]:
        """What is allowed, and yet hardly meant."""
        notes = [*self.config.notes, *_unused_names(self.config.model)]
        options = self.config.schedule.options if self.config.schedule else {}
        warmup, milestones = options.get("warmup"), options.get("milestones")
        if isinstance(warmup, int) and warmup >= self.total_steps:
            notes.append(
                f"note: schedule.warmup is {warmup:,} steps, but the whole training has {self.total_steps:,}: "
                "the learning rate never comes to its full height; lower warmup, or train longer"
            )
        if milestones and (max(milestones) >= self.total_steps or max(milestones) < self.steps_per_epoch):
            notes.append(
                f"note: schedule.milestones {milestones} count optimizer steps; an epoch has "
                f"{self.steps_per_epoch:,}, the whole training {self.total_steps:,}"
            )
        last = self.config.model[-1].type
        if self.loss.log_probabilities and last != "log_softmax":
            notes.append(f"note: {self.loss.name} takes log-probabilities; end the model with log_softmax")
        elif self.loss.class_targets and not self.loss.log_probabilities and last in ("softmax", "log_softmax"):
            notes.append(f"note: model ends with {last}, but the loss takes logits; leave it out")
        handed_on = getattr(self.source, "contiguous", False) or not self.options.shuffle
        if not handed_on and any(getattr(layer, "stateful", False) for _, layer in self.model.walk()):
            notes.append(
                "note: a stateful layer goes on with the state of the batch before, but batches are drawn at random; "
                "set data.contiguous: true (text), or data.shuffle: false"
            )
        if self.info.vocabulary is not None and not any(layer.symbols for _, layer in self.model.walk()):
            notes.append(
                "note: the inputs are numbers of tokens, and no layer takes them as such; begin with embedding"
            )
        return notes


def make_plan(
    config: str | PathLike[str] | Mapping[str, Any],
    overrides: Mapping[str, Any] | Iterable[str] = (),
    arrays: Mapping[str, Any] | None = None,
) -> Plan:
    """Read a config, make its parts and check that they fit. Raises ConfigError with all problems at once.

    A text is a path, or the name of a template; `arrays` are the user's own, by split, in place of the config's source.
    Raises UsageError where the precision needs a package that is missing.
    """
    if isinstance(config, str):
        config = templates.find(config)
    if arrays is not None and isinstance(config, Mapping) and "data" not in config:
        config = {**config, "data": "arrays"}
    parts = _Parts(arrays)
    checked = load_config(config, overrides, checks=[parts])
    working(checked.precision)  # whether its package is there
    found = parts.source, parts.options, parts.info, parts.model, parts.loss
    assert all(part is not None for part in found), "a part that cannot be made is a problem, which load_config raises"
    return Plan(checked, *found, parts.metrics)  # type: ignore[arg-type]  # the assertion above, which mypy cannot follow


def _steps(training: Training, info: DataInfo, options: DataOptions) -> tuple[int, int]:
    """Optimizer steps of an epoch, and of the whole training; the last of an epoch may hold fewer samples."""
    batches = data.batches_in(info.counts["train"], options.batch_size, options.drop_last)
    per_epoch = max(1, -(-batches // training.accumulate))
    return per_epoch, training.steps or per_epoch * (training.epochs or 1)


def _unused_names(model: Iterable[Component]) -> Iterator[str]:
    """Notes of tensors that are saved, and yet no layer's options name them."""
    layers = [each for layer in model for each in layer.walk()]
    options = [value for each in layers if each.type != "save" for value in each.options.values()]
    named = {text for value in options for text in (value if isinstance(value, list) else [value]) if type(text) is str}
    saves = {each.mark: each for each in reversed(layers) if each.type == "save"}  # once for all uses of a block
    for each in reversed(saves.values()):
        if each.options["tensor"] not in named:
            yield f"note: {each.path}: nothing takes what is saved as {each.options['tensor']!r}; leave it out"


class _Parts:
    """What could be made of a config, and what is wrong between its parts; `load_config` calls it as a check."""

    def __init__(self, arrays: Mapping[str, Any] | None) -> None:
        self.arrays = arrays
        self.source: Source | None = None
        self.options: DataOptions | None = None
        self.info: DataInfo | None = None
        self.model: Sequential | None = None
        self.loss: Loss | None = None
        self.metrics: list[Metric] = []

    def __call__(self, values: Mapping[str, Any], problems: Problems) -> None:
        self.problems = problems
        self.read(values.get("data"))
        output = self.chain(values["model"]) if values.get("model") else None
        losses = self.made([values.get("loss")])
        metrics = self.made(values.get("metrics") or [])
        self.loss = losses[0][1] if losses else None
        self.metrics = [metric for _, metric in metrics]
        if self.info is not None and output is not None:
            target = self.info.target_shape
            classes = len(self.info.classes) if self.info.classes else None
            for component, loss in losses:
                self.compared(component, loss.check, output, target, classes)
                reconstructs = self.options is not None and self.options.targets == "inputs"
                if loss.class_targets and not reconstructs and str(self.info.target_dtype).startswith("float"):
                    mark, path = values["data"].place("path")
                    what = f"the targets are {self.info.target_dtype}; {component.type} needs class numbers, integers"
                    self.problems.add(mark, path, f"{what}: save them by y.astype(int)")
            for component, metric in metrics:
                self.compared(component, metric.check, output, target)
        self.single_samples()
        self.tokens()
        self.monitored(values.get("training"), values.get("schedule"))
        self.updates(values.get("training"), values.get("optimizer"), values.get("schedule"))
        # The keys of a broken model are not those that are meant.
        if output is not None and not any(problem.key.startswith("model") for problem in problems):
            self.patterns(values.get("optimizer"))

    def read(self, section: Component | None) -> None:
        """The source, the options that all data shares, and what the headers tell."""
        if section is None or section.broken or section.common is None:
            return
        try:
            self.options = section.common.build()
            # Divided once, so that `prepare` need not read again what the check has read.
            self.source = data.divided(
                section.build() if self.arrays is None else data.Memory(self.arrays), self.options
            )
            self.info = data.check(self.source, self.options)
        except (DataError, ShapeError) as error:
            mark, path = section.place("path")
            self.problems.add(mark, path, str(error))
        except ConfigError as error:
            self.again(section, error)

    def chain(self, components: list[Component | None]) -> Shape | None:
        """Make the model and return its output's shape; past a layer whose shape cannot be known nothing is said."""
        shape, scope = entry(self.info.input_shape) if self.info else (None, {})
        named: dict[str, Layer] = {}
        layers: list[Layer] = []
        for number, component in enumerate(components):
            made = self.made([component], even_broken=True)
            if not made:
                shape = None
                continue
            layer = made[0][1]
            layers.append(layer)
            shape = self.inferred(layer, layer.name or str(number), shape, scope, named)
        self.model = Sequential(*layers)
        return shape

    def inferred(
        self, layer: Layer, key: str, shape: Shape | None, scope: dict[str, Shape], named: dict[str, Layer]
    ) -> Shape | None:
        """The layer's output shape, or None after a problem was reported where the inner layer stands."""
        try:
            layer.link(named)
            return None if shape is None else layer.infer(single(shape), scope)
        except ShapeError as error:
            inner = error.under(key, layer)
            origin = getattr(inner.layer, "origin", None)
            mark, path = (origin.mark, origin.path) if isinstance(origin, Component) else (Mark("config"), key)
            self.problems.add(mark, path, inner.reason)
            return None

    def single_samples(self) -> None:
        """Batch norm cannot train on one value per channel; the first such batch may come after hours."""
        if self.info is None or self.options is None or self.model is None:
            return
        rest = self.info.counts["train"] % self.options.batch_size
        if self.options.batch_size > 1 and (rest != 1 or self.options.drop_last):
            return
        remedy = "change data.batch_size" + ("" if self.options.batch_size == 1 else ", or set data.drop_last: true")
        for _, layer in self.model.walk():
            if isinstance(layer, BatchNorm) and layer.shapes and prod(layer.shapes[0][:-1]) == 1:
                origin = layer.origin
                if isinstance(origin, Component):
                    message = f"the last training batch is a single sample, which has no variance; {remedy}"
                    self.problems.add(origin.mark, origin.path, message)

    def tokens(self) -> None:
        """What takes symbols must get whole numbers, and the first table have a row for every token of the data."""
        if self.info is None or self.model is None:
            return
        if not isinstance(self.info.input_dtype, dict) and self.info.float_inputs:
            for _, layer in self.model.walk():
                if layer.symbols and isinstance(layer.origin, Component):
                    what = f"takes whole numbers, and the data's inputs are {self.info.input_dtype}"
                    self.problems.add(layer.origin.mark, layer.origin.path, f"{what}; save them as int64")
        vocabulary = self.info.vocabulary
        if vocabulary is None:
            return
        tables = (layer for _, layer in self.model.walk() if hasattr(layer, "num_embeddings"))
        first = next(tables, None)
        rows = getattr(first, "num_embeddings", len(vocabulary))
        if first is not None and rows < len(vocabulary) and isinstance(first.origin, Component):
            mark, path = first.origin.place("num_embeddings")
            what = f"{rows} rows, but the data has {len(vocabulary)} tokens"
            self.problems.add(mark, path, f"{what}; set num_embeddings: {len(vocabulary)}, or lower data.vocabulary")

    def monitored(self, training: Component | None, schedule: Component | None) -> None:
        """Whatever looks at a figure must have one."""
        if self.info is None or "validation" in self.info.counts or training is None:
            return
        monitor = training.options.get("monitor")
        if monitor == "train/loss":
            return
        asking = [(training, f"training.{key}") for key in ("monitor", "early_stopping") if training.options.get(key)]
        if schedule is not None and issubclass(schedule.cls, Plateau):
            asking.append((schedule, schedule.path))
        remedy = "set data.validation, or training.monitor: train/loss"
        for component, key in asking:
            self.problems.add(component.mark, key, f"needs validation data, and there is none; {remedy}")

    def updates(self, training: Component | None, optimizer: Component | None, schedule: Component | None) -> None:
        """What the constructors of optimizer and schedule refuse, and whether the two fit each other."""
        optimizers = self.made([optimizer], Parameters({}, NumpyBackend(), np.float32, 0))
        if self.info is None or self.options is None:
            return
        for _, length in self.made([training]):
            for component, curve in self.made([schedule], _steps(length, self.info, self.options)[1]):
                if curve.momentum(0) is not None and any(not built.has_momentum for _, built in optimizers):
                    key = f"{component.path}.cycle_momentum"
                    message = f"needs an optimizer with momentum, and {optimizers[0][0].type} is built without; "
                    self.problems.add(component.mark, key, message + "set optimizer.momentum")

    def patterns(self, optimizer: Component | None) -> None:
        """Whether the patterns of an optimizer's groups match any param; the model's shapes are known."""
        assert self.model is not None
        keys = list(self.model.declare()[1])
        for component in optimizer.walk() if optimizer else ():
            # `adamw_for` of Muon holds patterns as a group's `match` does.
            for option in ("match", "adamw_for"):
                found = component.options.get(option, ())
                try:
                    check_patterns([found] if isinstance(found, str) else found, keys)
                except UsageError as error:
                    self.problems.add(*component.place(option), str(error))

    def made(
        self, components: Iterable[Component | None], *given: Any, even_broken: bool = False
    ) -> list[tuple[Component, Any]]:
        """The components that can be built, with what they build. What is wrong with a broken one was said before."""
        built = []
        for component in components:
            if component is None or (component.broken and not even_broken):
                continue
            try:
                built.append((component, component.build(*given)))
            except ConfigError as error:
                if not component.broken:
                    self.again(component, error)
        return built

    def again(self, component: Component, error: ConfigError) -> None:
        """Report what a constructor refused."""
        for problem in error.problems:
            self.problems.add(component.mark, problem.key, problem.message)

    def compared(self, component: Component, check: Callable[..., None], output: Any, target: Any, *more: Any) -> None:
        """Report where the component stands that a loss or metric cannot compare such outputs with such targets."""
        several = {"model gives outputs": output, "data has targets": target}
        try:
            for what, shape in several.items():
                if isinstance(shape, Mapping) and not _by_head(component):
                    remedy = "use multi_task" if component.path == "loss" else "write {head: {name: …, metric: …}}"
                    names = ", ".join(shape)
                    raise ShapeError(f"the {what} {names}, and {component.type} compares a single one; {remedy}")
            check(output, target, *more)
        except ShapeError as error:
            self.problems.add(component.mark, component.path, str(error))


def _by_head(component: Component) -> bool:
    """Whether a loss or metric takes dicts of outputs and targets; a plugin's own says it by `by_head = True`."""
    return bool(getattr(component.cls, "by_head", component.type in ("multi_task", "head")))
