"""Names that a config may use, and the markers that turn a constructor's signature into its schema.

A component is an ordinary class. Registering it makes its name usable in a config, and the typed
signature of its constructor is all that the config, the JSON Schema and the error messages need:

    @layers.register("linear")
    class Linear(Layer):
        def __init__(self, in_features: Inferred[Positive], out_features: Positive, bias: bool = True): ...

This module needs the standard library alone: the floors below `config` never import pydantic.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from gpubackprop.errors import UsageError

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Range:
    """Bounds of a number in a signature; `None` means unbounded."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None


class Marker:
    """A role of a constructor's argument, carried by `Annotated`."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __repr__(self) -> str:
        return f"<{self.role}>"


INFERRED = Marker("inferred")  #: known once the input's shape is; a config may leave it out
GIVEN = Marker("given")  #: handed in by the program; never an option of a config

Inferred = Annotated[T | None, INFERRED]
Given = Annotated[T, GIVEN]

Positive = Annotated[int, Range(ge=1)]
NonNegative = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, lt=1)]  #: in [0, 1)
Share = Annotated[float, Range(ge=0, le=1)]  #: in [0, 1]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'relu'?"` where some known word is close, else an empty string."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


class Registry(Generic[T]):
    """The classes of one kind (layer, loss, optimizer, …) by the name that a config uses.

    `base` is the class that signatures name: an argument annotated `list[Layer]` takes a list of
    entries from the registry whose base is `Layer`.
    """

    by_base: ClassVar[dict[type, Registry[Any]]] = {}

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind, self.base = kind, base
        self._classes: dict[str, type[T]] = {}
        Registry.by_base[base] = self

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator; a name that is taken is an error, so that a plugin shadows nothing."""

        def add(cls: C) -> C:
            there = self._classes.get(name)
            # The same class again is a plugin that is imported anew, after its author has mended it.
            if there and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UsageError(f"{self.kind} {name!r} is registered already, by {there.__module__}")
            self._classes[name] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise UsageError(
                f"unknown {self.kind} {name!r}; known: {', '.join(sorted(self))}{did_you_mean(name, self)}"
            )
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def name_of(self, cls: type) -> str:
        """The registered name of `cls`, else its class name (a user's own, unregistered class)."""
        return next((name for name, known in self._classes.items() if known is cls), cls.__name__)
