"""A YAML file as a tree that remembers where every key and every value stands.

The tree is built from the parser's events: nothing of YAML's object machinery takes part, so no tag
can run code, and the meaning of a scalar is decided in one place (`scalars.resolve`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, MappingStartEvent, ScalarEvent, SequenceStartEvent

from gpubackprop.config.scalars import expand, hide, resolve, reveal
from gpubackprop.errors import ConfigError, Problem

_TAGS = ("!", "tag:yaml.org,2002:str")
_MAX_DEPTH = 100
_MAX_NODES = 100_000  # aliases of aliases grow exponentially when they are walked


class Mark(NamedTuple):
    """Where something stands; line and column count from 1, and are 0 for what comes from no file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Unknown(Enum):
    """The value of a node that was reported as a mistake already: nobody reports it again."""

    UNKNOWN = "unknown"


UNKNOWN = Unknown.UNKNOWN


@dataclass(frozen=True)
class Node:
    """A value of the document: a scalar, a `list[Node]` or a `dict[str, Node]`, and its place."""

    value: Any
    mark: Mark
    keys: Mapping[str, Mark] = field(default_factory=dict)  #: where each key of a mapping stands
    size: int = 1  #: nodes below and including this one

    @classmethod
    def of(cls, value: Any, mark: Mark) -> Node:
        """A plain Python value as a tree, all of it at one place."""
        if isinstance(value, Mapping):
            return cls({str(key): cls.of(item, mark) for key, item in value.items()}, mark)
        if isinstance(value, list | tuple):
            return cls([cls.of(item, mark) for item in value], mark)
        if isinstance(value, np.generic):  # of np.logspace and the like
            value = value.item()
        return cls(os.fspath(value) if isinstance(value, os.PathLike) else value, mark)

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def key(self, key: str) -> Mark:
        """Where `key` of this mapping stands."""
        return self.keys.get(key, self.mark)

    def with_key(self, key: str, node: Node, mark: Mark) -> Node:
        """This mapping with one key more, or another value for it."""
        return Node({**self.value, key: node}, self.mark, {**self.keys, key: mark})

    def without(self, *keys: str) -> Node:
        """This mapping without `keys`."""
        return Node({k: node for k, node in self.value.items() if k not in keys}, self.mark, self.keys)


class Problems:
    """The mistakes found so far."""

    def __init__(self) -> None:
        self._found: list[tuple[Mark, str, str]] = []
        self.files: list[str] = []  #: those read so far, in the order in which their problems come

    def add(self, mark: Mark, key: str, message: str) -> None:
        """Note that `key`, a dotted path (or empty), which stands at `mark`, is wrong: `message`.

        What stands at one place of a file and is used many times (an alias, a defined block) is named at its first use.
        """
        found = mark, _line(key), _line(message)
        same = (mark, _last(found[1]), found[2])
        if found not in self._found and not (mark.line and same in ((m, _last(k), t) for m, k, t in self._found)):
            self._found.append(found)

    def extend(self, other: Problems) -> None:
        """Take over the problems of a trial."""
        for found in other._found:
            self.add(*found)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        """By file, line and column; what stands in no file comes last."""

        def place(mark: Mark) -> tuple[bool, int, int, int]:
            return not mark.line, self.files.index(mark.file) if mark.file in self.files else 0, mark.line, mark.column

        order = sorted(self._found, key=lambda found: place(found[0]))
        return (Problem(_line(str(mark)), key, message) for mark, key, message in order)

    def raise_any(self) -> None:
        """Raise ConfigError with all of them, if there are any."""
        if self._found:
            raise ConfigError(list(self))


def parse(text: str, file: str, problems: Problems, at: Mark | None = None) -> Node | None:
    """YAML text as a tree; syntax errors, duplicate keys and unset variables go to `problems`.

    `at` replaces all places, for a value from the command line. None where there is no tree.
    """
    problems.files.append(file)
    return _Reader(text, file, problems, at).document()


class _Reader:
    def __init__(self, text: str, file: str, problems: Problems, at: Mark | None) -> None:
        self.file, self.problems, self.at = file, problems, at
        self.text, self.anchors = text, dict[str, Node | None]()

    def document(self) -> Node | None:
        try:
            self.events = iter(list(YAML(typ="safe", pure=True).parse(hide(self.text))))
            next(self.events)  # the stream's start
            if type(next(self.events)).__name__ != "DocumentStartEvent":
                return Node(None, self.at or Mark(self.file, 1, 1))
            node = self.node(next(self.events), ())
            next(self.events)  # the document's end
            if type(following := next(self.events)).__name__ == "DocumentStartEvent":
                self.problems.add(self.mark(following), "", "a config is one YAML document; remove this '---'")
            return node
        except MarkedYAMLError as error:
            self.problems.add(self.mark(error), "", _syntax(error))
        except YAMLError as error:
            self.problems.add(self.at or Mark(self.file, 1, 1), "", f"not valid YAML: {' '.join(str(error).split())}")
        return None

    def mark(self, event: Any) -> Mark:
        place = getattr(event, "problem_mark", None) or getattr(event, "start_mark", None)
        return self.at or (Mark(self.file, place.line + 1, place.column + 1) if place else Mark(self.file, 1, 1))

    def node(self, event: Any, path: tuple[str, ...]) -> Node:
        mark = self.mark(event)
        if len(path) > _MAX_DEPTH:
            raise MarkedYAMLError(problem=f"nested deeper than {_MAX_DEPTH} levels", problem_mark=event.start_mark)
        if isinstance(event, AliasEvent):
            return self.alias(event, path)
        if event.anchor:
            self.anchors[event.anchor] = None
        if event.tag and str(event.tag) not in _TAGS:
            message = f"tag {str(event.tag)!r} is not allowed; a config is plain data, remove the tag"
            self.problems.add(mark, ".".join(path), message)
        if isinstance(event, MappingStartEvent):
            node = self.mapping(mark, path)
        elif isinstance(event, SequenceStartEvent):
            node = self.sequence(mark, path)
        else:
            node = self.scalar(event, mark, path)
        if node.size > _MAX_NODES:
            raise MarkedYAMLError(problem=f"more than {_MAX_NODES:,} values", problem_mark=event.start_mark)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: AliasEvent, path: tuple[str, ...]) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            wrong = (
                "contains itself"
                if event.anchor in self.anchors
                else "has no anchor before it; a text that begins with * needs quotes"
            )
            self.problems.add(self.mark(event), ".".join(path), f"alias *{event.anchor} {wrong}")
            return Node(UNKNOWN, self.mark(event))
        return node

    def scalar(self, event: ScalarEvent, mark: Mark, path: tuple[str, ...]) -> Node:
        text, whole, unset = expand(event.value)
        for name in unset:
            remedy = f"set it, or give a default: ${{{name}:value}}"
            self.problems.add(mark, ".".join(path), f"environment variable {name} is not set; {remedy}")
        if unset:
            return Node(UNKNOWN, mark)
        plain = event.style is None and not event.tag and (whole or text == event.value)
        return Node(resolve(text) if plain else text, mark)

    def sequence(self, mark: Mark, path: tuple[str, ...]) -> Node:
        items: list[Node] = []
        while type(event := next(self.events)).__name__ != "SequenceEndEvent":
            items.append(self.node(event, (*path, str(len(items)))))
        return Node(items, mark, size=1 + sum(item.size for item in items))

    def mapping(self, mark: Mark, path: tuple[str, ...]) -> Node:
        entries: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        while type(event := next(self.events)).__name__ != "MappingEndEvent":
            place = self.mark(event)
            if not isinstance(event, ScalarEvent):
                self.node(event, path)
                self.node(next(self.events), path)
                self.problems.add(place, ".".join(path), "a key must be a plain word")
                continue
            key = reveal(event.value)
            below = (*path, key)
            value = self.node(next(self.events), below)
            if key == "<<":
                message = "merge keys are not part of YAML 1.2; write the keys out, or use extends"
                self.problems.add(place, ".".join(below), message)
            elif key in keys:
                self.problems.add(place, ".".join(below), f"duplicate key; it stands at {keys[key]} already")
            else:
                entries[key], keys[key] = value, place
        return Node(entries, mark, keys, 1 + sum(item.size for item in entries.values()))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _syntax(error: MarkedYAMLError) -> str:
    problem = reveal(str(error.problem or error.context or error))
    if "'\\t'" in problem:
        problem = "a tab cannot indent; use spaces"
    elif "mapping values are not allowed" in problem:
        problem += "; check the indentation, and quote a text that holds ': '"
    context = f"{reveal(str(error.context))}" if error.context and error.problem else ""
    if context:
        context += f" that starts on line {error.context_mark.line + 1}, " if error.context_mark else ", "
    return f"not valid YAML: {context}{' '.join(problem.split())}"


def _line(text: str) -> str:
    """`text` on one line that a terminal shows as it is."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def describe(value: Any) -> str:
    """A value as an error message shows it: scalars as YAML spells them, the rest by its kind."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return repr(value)
