"""Whether Python objects are still as they were: what a recorded step was made from must not change behind its back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, NamedTuple

from gpubackprop.optim import Optimizer

#: What changes from step to step, or with the shape of what a model is asked, and is no part of what a step does.
PASSING = {"shapes", "_checked", "classes", "_classes", "grad_norm", "carries"}
OF_OPTIMIZERS = {"lr", "momentum", "steps", "numbers"}  # they reach a step as arrays


class _Seen(NamedTuple):
    held: Any  #: the attributes of an object, or a list or dict among them
    size: int
    values: Callable[[Any], tuple[Any, ...]]
    before: tuple[Any, ...]


class Watch:
    """The attributes of objects as they are now, lists and dicts among them too."""

    def __init__(self, objects: Iterable[object]) -> None:
        self.seen: list[_Seen] = []
        for each in objects:
            attributes = getattr(each, "__dict__", {})
            passing = PASSING | OF_OPTIMIZERS if isinstance(each, Optimizer) else PASSING
            names = [name for name in attributes if name not in passing]
            self._see(attributes, _picked(names))
            for name in names:
                if isinstance(attributes[name], list):
                    self._see(attributes[name], tuple)
                elif isinstance(attributes[name], dict):
                    self._see(attributes[name], _values)

    def _see(self, held: Any, values: Callable[[Any], tuple[Any, ...]]) -> None:
        self.seen.append(_Seen(held, len(held), values, values(held)))

    def unchanged(self) -> bool:
        """Whether all of it is as it was."""
        try:
            for held, size, values, before in self.seen:
                if len(held) != size or values(held) != before:  # what is the same object is not compared further
                    return False
        except (KeyError, ValueError):  # an attribute less, or another array
            return False
        return True


def _values(held: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(held.values())


def _picked(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda held: tuple(held[name] for name in names)
