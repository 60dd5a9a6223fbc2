"""Whether Python objects are still as they were: what a recorded step was made from must not change behind its back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import is_, itemgetter
from typing import Any, NamedTuple

#: What changes from step to step, or with the shape of what a model is asked, and is no part of what a step does.
PASSING = {"shapes", "_checked", "classes", "_classes", "lr", "momentum", "steps", "numbers", "grad_norm", "carries"}
PLAIN = (int, float, str, tuple)


class _Seen(NamedTuple):
    held: Any  #: the attributes of an object, or a list or dict among them
    size: int
    values: Callable[[Any], tuple[Any, ...]]
    before: tuple[Any, ...]

    def same(self) -> bool:
        return len(self.held) == self.size and all(map(is_, self.values(self.held), self.before))

    def equal(self) -> bool:
        """`same`, but numbers and names may be other ones of the same value: slower."""
        return len(self.held) == self.size and all(map(_equal, self.values(self.held), self.before))


class Watch:
    """The attributes of objects as they are now, lists and dicts among them too."""

    def __init__(self, objects: Iterable[object]) -> None:
        self.seen: list[_Seen] = []
        for each in objects:
            attributes = getattr(each, "__dict__", {})
            names = [name for name in attributes if name not in PASSING]
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
            return all(seen.same() or seen.equal() for seen in self.seen)
        except KeyError:  # an attribute less
            return False


def _values(held: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(held.values())


def _picked(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda held: tuple(held[name] for name in names)


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b) or not isinstance(a, PLAIN):
        return False
    return len(a) == len(b) and all(map(_equal, a, b)) if isinstance(a, tuple) else bool(a == b)
