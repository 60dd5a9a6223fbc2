"""Whether Python objects are still as they were: what a recorded step was made from must not change behind its back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from types import FunctionType, MethodType
from typing import Any

from gpubackprop.optim import Optimizer

#: What changes from step to step, or with the shape of what a model is asked, and is no part of what a step does.
PASSING = {"shapes", "_checked", "_outputs", "grad_norm", "_begun"}
OF_OPTIMIZERS = {"lr", "momentum", "steps", "numbers", "sent"}  # they reach a step as arrays
_CODE = (FunctionType, MethodType)


class Watch:
    """The attributes of objects as they are now, lists and dicts among them too.

    What is the same object is not compared further, which makes a look at a whole model take a microsecond.
    """

    def __init__(self, objects: Iterable[object]) -> None:
        self.whole: list[Any] = []  #: the attributes of objects, and the lists among them
        #: Attributes some of which pass, and dicts among them: how many, how to get what counts, and what that was.
        self.partly: list[tuple[dict[str, Any], int, Callable[[Any], Any], Any]] = []
        places: list[tuple[Any, Any]] = []
        for each in objects:
            attributes = getattr(each, "__dict__", {})
            passing = PASSING | OF_OPTIMIZERS if isinstance(each, Optimizer) else PASSING
            names = [name for name in attributes if name not in passing]
            places += ((attributes, name) for name in names)
            if len(names) == len(attributes):
                self.whole.append(attributes)
            elif names:
                self._see_part(attributes, itemgetter(*names))
            for inner in (attributes[name] for name in names):
                if isinstance(inner, list):
                    self.whole.append(inner)
                    places += ((inner, i) for i in range(len(inner)))
                elif isinstance(inner, dict):
                    self._see_part(inner, _in_order)
                    places += ((inner, key) for key in inner)
        self.before = [each.copy() for each in self.whole]
        #: Arrays of one number compare like it: that another one is in their place, this shows.
        single = ((held, key, held[key]) for held, key in places)
        self.single = [place for place in single if getattr(place[2], "shape", None) in ((), (1,))]

    def _see_part(self, held: dict[str, Any], values: Callable[[Any], Any]) -> None:
        self.partly.append((held, len(held), values, values(held)))

    def unchanged(self) -> bool:
        """Whether all of it is as it was."""
        try:
            if self.whole != self.before:
                return False
            for held, size, values, before in self.partly:
                if len(held) != size or values(held) != before:
                    return False
            for held, key, value in self.single:
                if held[key] is not value:
                    return False
        except (KeyError, IndexError, ValueError):  # an attribute less, or another array
            return False
        return True


def _in_order(held: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(held.items())


def foreign(objects: Iterable[object]) -> str | None:
    """Why Python code that is not this package's runs in a step that is made of them, None: none does."""
    for each in objects:
        if not type(each).__module__.startswith("gpubackprop."):
            return f"what {type(each).__name__} does in Python is not known here"
        for name, value in getattr(each, "__dict__", {}).items():
            own = (value.__module__ or "").startswith("gpubackprop.") if isinstance(value, _CODE) else True
            if not own:
                return f"what {type(each).__name__}.{name} does in Python is not known here"
    return None
