"""A checked component of a config: a class, its options, and where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from gpubackprop.config.document import Mark
from gpubackprop.config.signature import Argument, arguments, options_of
from gpubackprop.errors import ConfigError, Problem


@dataclass(frozen=True)
class Component:
    """A registered class (or a dataclass of options) with the options that a config gives.

    Options that are components are Components themselves, in lists as well.
    """

    cls: type
    options: dict[str, Any]
    mark: Mark
    path: str  #: dotted, `model.3.linear`
    type: str = ""  #: the registered name; empty for a dataclass of options
    name: str | None = None  #: what the config calls this layer
    broken: bool = False  #: a mistake was reported (other than in `common`); defaults stand in for what was wrong
    common: Component | None = field(default=None, repr=False)  #: options of a second signature (`data`)
    marks: Mapping[str, Mark] = field(default_factory=dict, repr=False)  #: where each option that was given stands

    def place(self, option: str) -> tuple[Mark, str]:
        """(mark, dotted path) for what is wrong with an option; the component's own where it was not given."""
        return (self.marks[option], f"{self.path}.{option}") if option in self.marks else (self.mark, self.path)

    def build(self, *given: Any) -> Any:
        """A new object of the class, with everything below it.

        `given` are the arguments marked `Given`, in order; components below it that want some take the same (an
        optimizer around another one, the model's params). Raises ConfigError, with this component's
        place, where the constructor raises ValueError.
        """
        supply = iter(given)
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for argument in arguments(self.cls).values():
            value = next(supply) if argument.given else self._value(argument, given)
            if argument.variadic:
                positional.extend(value)
            elif argument.positional:
                positional.append(value)
            else:
                keywords[argument.name] = value
        try:
            built = self.cls(*positional, **keywords)
        except ConfigError:
            raise
        except ValueError as error:
            message = " ".join(str(error).split())
            raise ConfigError([Problem(str(self.mark), self.path, message)]) from error
        if self.name is not None:
            built.name = self.name
        if hasattr(self.cls, "origin"):
            built.origin = self  # a layer says where it stands when its shape turns out not to fit
        return built

    def _value(self, argument: Argument, given: tuple[Any, ...]) -> Any:
        return _built(self.options[argument.name], given) if argument.name in self.options else argument.fallback()

    def resolved(self) -> dict[str, Any]:
        """Its options as plain values for YAML, every default filled in."""
        result: dict[str, Any] = {"name": self.name} if self.name is not None else {}
        for argument in options_of(self.cls).values():
            value = self.options[argument.name] if argument.name in self.options else argument.fallback()
            if argument.name not in self.options and argument.inferred:
                continue
            try:
                result[argument.name] = plain(value)
            except TypeError:  # an object as default: it is the same again when the option is left out
                continue
        return result | (self.common.resolved() if self.common else {})

    def single(self) -> Any:
        """Its plain value where one component stands: `{type: NAME, …}`."""
        return {"type": self.type, **self.resolved()} if self.type else self.resolved()

    def entry(self) -> Any:
        """Its plain value as an entry of a list: `NAME: {…}`, or `NAME`."""
        if not self.type:
            return self.resolved()
        return {self.type: options} if (options := self.resolved()) else self.type

    def walk(self) -> Iterator[Component]:
        """This component and all that are among its options, in order."""
        yield self
        for value in self.options.values():
            yield from components_in(value)
        if self.common:
            yield from self.common.walk()


def components_in(value: Any) -> Iterator[Component]:
    """All components in an option's value, at any depth."""
    if isinstance(value, Component):
        yield from value.walk()
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from components_in(item)


def plain(value: Any) -> Any:
    """An option's value as YAML can say it. Raises TypeError for other objects."""
    if isinstance(value, Component):
        return value.single()
    if isinstance(value, list | tuple):
        return [item.entry() if isinstance(item, Component) else plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path | Enum):
        return str(value) if isinstance(value, Path) else plain(value.value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


def _built(value: Any, given: tuple[Any, ...]) -> Any:
    if isinstance(value, Component):
        return value.build(*given)
    if isinstance(value, list | tuple):
        return type(value)(_built(item, given) for item in value)
    return {key: _built(item, given) for key, item in value.items()} if isinstance(value, dict) else value
