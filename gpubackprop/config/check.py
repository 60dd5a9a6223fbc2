"""Documents against signatures: options become checked values, mistakes become problems.

Containers (lists, mappings, unions, components) are walked here, so that a mistake is reported where
it stands; scalars are left to pydantic. A mistake never stops the check: the value becomes BAD, and
what holds it falls back to its default or becomes BAD too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ValidationError

from gpubackprop.config.blocks import CHAIN, NAME, RULE, Blocks
from gpubackprop.config.component import Component
from gpubackprop.config.document import UNKNOWN, Mark, Node, Problems, describe
from gpubackprop.config.signature import (
    Argument,
    a,
    alternatives,
    arguments,
    first_option,
    fits,
    item_of,
    leaf,
    options_of,
    range_words,
    unwrap,
    words,
)
from gpubackprop.errors import ConfigError, UsageError
from gpubackprop.registry import Registry, did_you_mean

BAD: Any = UNKNOWN  #: a value whose mistake has been reported

_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


class _Form(NamedTuple):
    """A component as written: its name, where that stands, its options, and the short form's value."""

    type: str
    mark: Mark
    options: Node
    first: Node | None = None


class Checker:
    """Checks nodes against annotations; problems go to `problems`.

    `sure` is false where a plugin failed to load: an unknown name may be one of its, and is passed over. `blocks` are
    the definitions that lists of layers may use.
    """

    def __init__(self, problems: Problems, sure: bool = True, blocks: Blocks | None = None) -> None:
        self.problems, self.sure = problems, sure
        self.blocks = blocks or Blocks()

    def value(self, node: Node, annotation: Any, path: str, entry: bool = False) -> Any:
        """The value of `node` as `annotation` wants it, or BAD. `entry`: it stands in a list."""
        if node.value is UNKNOWN:
            return BAD
        core, _ = unwrap(annotation)
        if core is Any:
            return node.plain()
        arms = alternatives(annotation)
        if len(arms) > 1:
            return self._union(node, arms, annotation, path, entry)
        if core in Registry.by_base:
            return self.component(node, Registry.by_base[core], path, entry=entry) or BAD
        if not fits(node.value, annotation):
            return self._bad(node, annotation, path)
        if dataclasses.is_dataclass(core):
            return self.section(node, core if isinstance(core, type) else type(core), path) or BAD
        if (item := item_of(annotation)) is not None:
            return self._list(node, [item] * len(node.value), path)
        if get_origin(core) is tuple:
            items = get_args(core)
            items = items[:1] * len(node.value) if ... in items else items
            return tuple(values) if (values := self._list(node, items, path)) is not BAD else BAD
        if get_origin(core) in (dict, Mapping):
            inner = get_args(core)[1]
            values = {key: self.value(below, inner, f"{path}.{key}") for key, below in node.value.items()}
            return BAD if BAD in values.values() else values
        return self._leaf(node, annotation, path)

    def _union(self, node: Node, arms: list[Any], annotation: Any, path: str, entry: bool) -> Any:
        trials = []
        for arm in arms:
            if fits(node.value, arm):
                trial = Checker(Problems(), self.sure, self.blocks)
                value = trial.value(node, arm, path, entry)
                if not trial.problems:
                    return value
                if get_origin(unwrap(arm)[0]) is not Literal:
                    trials.append(trial.problems)
        if not trials:
            return self._bad(node, annotation, path)
        self.problems.extend(trials[0])
        return BAD

    def entries(self, node: Node, registry: Registry[Any], path: str) -> list[Component | None]:
        """A list of components of `registry`, with None for each one that cannot be made."""
        if not isinstance(node.value, list):
            if node.value is not UNKNOWN:
                self._bad(node, list[registry.base], path)  # type: ignore[name-defined]  # an annotation as a value
            return []
        found = self._items(node, [registry.base] * len(node.value), path)
        return [None if component is BAD else component for component in found]

    def _list(self, node: Node, items: Iterable[Any], path: str) -> Any:
        values = self._items(node, items, path)
        return BAD if BAD in values else values

    def _items(self, node: Node, items: Iterable[Any], path: str) -> list[Any]:
        values = [
            self.value(below, item, f"{path}.{index}", entry=True)
            for index, (below, item) in enumerate(zip(node.value, items, strict=True))
        ]
        names: dict[str, str] = {}
        for value in values:
            if isinstance(value, Component) and value.name is not None:
                if value.name in names:
                    message = f"{value.name!r} is the name of {names[value.name]} already; names in a list are unique"
                    self.problems.add(value.mark, f"{value.path}.name", message)
                names.setdefault(value.name, value.path)
        return values

    def _leaf(self, node: Node, annotation: Any, path: str) -> Any:
        try:
            return leaf(annotation).validate_python(node.plain())
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] in _OUT_OF_RANGE and (bounds := range_words(annotation)):
                self.problems.add(node.mark, path, f"must be {bounds}, got {describe(node.value)}")
                return BAD
            return self._bad(node, annotation, path)

    def _bad(self, node: Node, annotation: Any, path: str) -> Any:
        known = [str(each) for arm in alternatives(annotation) for each in get_args(unwrap(arm)[0])]
        literal = any(get_origin(unwrap(arm)[0]) is Literal for arm in alternatives(annotation))
        close = did_you_mean(node.value, known) if literal and isinstance(node.value, str) else ""
        if isinstance(node.value, str) and item_of(annotation) in Registry.by_base:
            close = f"; write [{node.value}]"
        self.problems.add(node.mark, path, f"must be {words(annotation)}, got {describe(node.value)}{close}")
        return BAD

    def component(
        self, node: Node, registry: Registry[Any], path: str, entry: bool = False, common: type | None = None
    ) -> Component | None:
        """One component of `registry`, or None where it cannot be made.

        `entry`: it stands in a list, where the short forms are allowed. `common`: a dataclass whose
        fields stand among the options as well; they become the component's `common`.
        """
        if not fits(node.value, registry.base):
            if node.value is not UNKNOWN:
                self._bad(node, registry.base, path)
            return None
        form = self._form(node, registry, path, entry)
        if form is None:
            return None
        path = f"{path}.{form.type}" if entry else path
        if form.type in (blocks := self.blocks.names(registry)):
            layers = self.blocks.expand(form.type, form.mark, form.options, form.first, path, self.problems)
            if layers is None:
                return None
            form = _Form(CHAIN, form.mark, layers)
        if form.type not in registry:
            if self.sure:
                names = sorted({*registry, *blocks})
                known = f"known: {', '.join(names)}{did_you_mean(form.type, names)}"
                self.problems.add(form.mark, path, f"unknown {registry.kind} {form.type!r}; {known}")
            return None
        cls, options, name = registry[form.type], form.options, None
        try:
            own, shared = list(options_of(cls)), list(options_of(common)) if common else []
        except UsageError as error:
            self.problems.add(form.mark, path, str(error))
            return None
        second = None
        if common is not None:
            of_common = options.without(*(key for key in options.value if key not in shared))
            second = self._signature(common, of_common, path, form.mark, shared)
            options = options.without(*(key for key in shared if key not in own))
        before = len(self.problems)
        if form.first is not None:
            if (first := first_option(cls)) is None:
                message = f"{form.type!r} takes no options, got {describe(form.first.value)}"
                self.problems.add(form.first.mark, path, message)
            else:
                options = Node({first: form.first}, form.first.mark)
        if entry and registry.kind == "layer" and "name" in options.value and "name" not in own:
            name = self._name(options.value["name"], f"{path}.name")
            options = options.without("name")
        component = self._signature(cls, options, path, form.mark, [*own, *shared], form.type)
        if component is None:
            return None
        broken = component.broken or len(self.problems) > before
        return dataclasses.replace(component, type=form.type, name=name, broken=broken, common=second)

    def section(self, node: Node, cls: type, path: str) -> Component | None:
        """A mapping whose keys are the fields of the dataclass `cls`."""
        return self._signature(cls, node, path, node.mark, list(options_of(cls)))

    def _form(self, node: Node, registry: Registry[Any], path: str, entry: bool) -> _Form | None:
        kind, value = registry.kind, node.value
        nothing = Node({}, node.mark)
        if isinstance(value, str):
            return _Form(value, node.mark, nothing)
        if "type" in value:
            name = value["type"]
            if isinstance(name.value, str):
                return _Form(name.value, name.mark, node.without("type"))
            if name.value is not UNKNOWN:
                self.problems.add(name.mark, path, f"type must be the name of {a(kind)}, got {describe(name.value)}")
        elif entry and len(value) == 1:
            ((name, below),) = value.items()
            if below.value is UNKNOWN:
                return None
            mark = node.key(name)
            if isinstance(below.value, dict):
                return _Form(name, mark, below)
            return _Form(name, mark, nothing, below if below.value is not None else None)
        elif entry and value:
            message = f"an entry is one NAME, NAME: value or NAME: {{options}}, got the keys {', '.join(value)}"
            self.problems.add(node.mark, path, f"{message}; indent the options below the name")
        else:
            named = next((key for key in value if key in registry), None)
            remedy = f"write {named}, or {{type: {named}, …}}" if named else f"known: {', '.join(sorted(registry))}"
            self.problems.add(node.mark, path, f"{a(kind)} is NAME or {{type: NAME, …}}, type is missing; {remedy}")
        return None

    def _name(self, node: Node, path: str) -> str | None:
        if isinstance(node.value, str) and NAME.fullmatch(node.value):
            return node.value
        if node.value is not UNKNOWN:
            self.problems.add(node.mark, path, f"{RULE}, got {describe(node.value)}")
        return None

    def _signature(
        self, cls: type, given: Node, path: str, mark: Mark, allowed: list[str], name: str = ""
    ) -> Component | None:
        """Options of one class; keys outside of `allowed` are mistakes. None: a required one is bad."""
        before = len(self.problems)
        options, complete = self.options(options_of(cls), given, path, mark, allowed, name)
        if not complete:
            return None
        broken = len(self.problems) > before or any(value is BAD for value in options.values())
        marks = {key: node.mark for key, node in given.value.items()}
        component = Component(cls, options, mark, path, broken=broken, marks=marks)
        return component if broken else self._tried(component)

    def options(
        self, known: Mapping[str, Argument], given: Node, path: str, mark: Mark, allowed: list[str], name: str = ""
    ) -> tuple[dict[str, Any], bool]:
        """(the good options among `given`, whether all required ones are there)."""
        options: dict[str, Any] = {}
        complete = True
        below = f"{path}." if path else ""
        for key in given.value:
            if key not in allowed:
                these = f"allowed: {', '.join(allowed)}{did_you_mean(key, allowed)}" if allowed else "there are none"
                what = f"unknown option of {name}" if name else "unknown key"
                self.problems.add(given.key(key), f"{below}{key}", f"{what}; {these}")
        for key, argument in known.items():
            if key in given.value:
                value = self.value(given.value[key], argument.annotation, f"{below}{key}")
                if value is not BAD:
                    options[key] = value
                    continue
            elif argument.required:
                what = f"{name} needs it" if name else "it is required"
                self.problems.add(mark, f"{below}{key}", f"missing; {what}: {words(argument.annotation)}")
            complete = complete and not argument.required
        return options, complete

    def _tried(self, component: Component) -> Component:
        """`component`, marked broken where its constructor refuses the options."""
        if any(argument.given for argument in arguments(component.cls).values()):
            return component
        if any(below.broken for below in component.walk()):
            return dataclasses.replace(component, broken=True)
        try:
            component.build()
        except ConfigError as error:
            for problem in error.problems:
                self.problems.add(component.mark, problem.key, problem.message)
            return dataclasses.replace(component, broken=True)
        return component
