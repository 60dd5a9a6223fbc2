"""`define:` blocks of layers with parameters: each use is a `sequential` of the block's layers.

define:
  block:
    parameters: {channels: null, hidden: $channels * 4}   # null: has to be given
    layers: [linear: $hidden, relu, linear: $channels]
model:
  - block: 64
  - block: {channels: 32, hidden: 48, name: last}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gpubackprop.config.document import UNKNOWN, Mark, Node, Problems, describe
from gpubackprop.config.expression import PARAMETER, ExpressionError, evaluate, known
from gpubackprop.config.signature import options_of
from gpubackprop.registry import Registry, did_you_mean

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RULE = "must be a name of letters, digits and _, not starting with a digit"
CHAIN = "sequential"  #: the layer that a use becomes

_KEYS = ("parameters", "layers")
_MAX_DEPTH = 25  # of blocks in each other, where a parameter's value names the block itself
_MAX_NODES = 20_000  # blocks of blocks grow exponentially


class Block(NamedTuple):
    """One definition. A parameter whose default is null has to be given."""

    parameters: Mapping[str, Node]
    layers: Node


class Blocks:
    """The definitions of a config. Those with a mistake, which was reported, are None."""

    def __init__(self, found: Mapping[str, Block | None] | None = None, kind: type | None = None) -> None:
        self.found = dict(found or {})
        self.kind = kind  #: the base class of layers
        self.unused = set(self.found)
        self.left = _MAX_NODES

    def names(self, registry: Registry[Any]) -> set[str]:
        """What a component of `registry` may be called beside its own names."""
        return set(self.found) if registry.base is self.kind else set()

    def expand(
        self, name: str, mark: Mark, given: Node, first: Node | None, path: str, problems: Problems
    ) -> Node | None:
        """Options of the sequential that a use of the block `name` at `mark`, `path` becomes; None after a mistake.

        `given` are the parameters (and what the sequential takes beside its layers), `first` the value of the short
        form. What comes from the definition keeps the places it has there.
        """
        self.unused.discard(name)
        if (block := self.found[name]) is None or self.left < 0:
            return None
        if first is not None:
            if not block.parameters:
                problems.add(first.mark, path, f"{name!r} has no parameters, got {describe(first.value)}")
                return None
            given = Node({next(iter(block.parameters)): first}, first.mark)
        if path.count(".layers.") > _MAX_DEPTH:
            problems.add(mark, path, f"blocks are nested deeper than {_MAX_DEPTH} levels; does {name!r} hold itself?")
            return None
        beside = _beside(Registry.by_base[self.kind]) if self.kind else []
        if (values := self.parameters(name, block, mark, given, beside, path, problems)) is None:
            return None
        before = len(problems)
        layers = self.filled(block.layers, values, f"{path}.layers", problems)
        if self.left < 0:
            problems.add(mark, path, f"the blocks come to more than {_MAX_NODES:,} values")
        if len(problems) > before and layers.value is UNKNOWN:
            return None
        kept = {key: node for key, node in given.value.items() if key in beside}
        return Node({"layers": layers, **kept}, mark, given.keys)

    def parameters(
        self, name: str, block: Block, mark: Mark, given: Node, beside: list[str], path: str, problems: Problems
    ) -> dict[str, Node] | None:
        """The value of each parameter, given or by default; None where one is missing."""
        allowed = [*block.parameters, *beside]
        for key in given.value:
            if key not in allowed:
                message = f"unknown parameter of {name}; allowed: {', '.join(allowed)}{did_you_mean(key, allowed)}"
                problems.add(given.key(key), f"{path}.{key}", message)
        values: dict[str, Node] = {}
        missing = False
        for key, default in block.parameters.items():
            value = given.value.get(key)
            if value is None or value.value is None:
                value = self.filled(default, values, f"{path}.{key}", problems)
            if value.value is None:
                problems.add(mark, f"{path}.{key}", f"missing; {name} needs it, as its default is null")
                missing = True
            values[key] = value
        return None if missing else values

    def filled(self, node: Node, values: Mapping[str, Node], path: str, problems: Problems) -> Node:
        """`node` with the values of all parameters in it."""
        self.left -= 1
        if self.left < 0:
            return Node(UNKNOWN, node.mark)
        if isinstance(node.value, list):
            items = [self.filled(item, values, f"{path}.{index}", problems) for index, item in enumerate(node.value)]
            return Node(items, node.mark)
        if isinstance(node.value, dict):
            below = {key: self.filled(item, values, f"{path}.{key}", problems) for key, item in node.value.items()}
            return Node(below, node.mark, node.keys)
        if not isinstance(node.value, str) or not PARAMETER.search(node.value):
            return node
        try:
            if whole := PARAMETER.fullmatch(node.value.strip()):
                known(whole[1], values)
                return values[whole[1]]
            if any(values[key].value is UNKNOWN for key in PARAMETER.findall(node.value) if key in values):
                return Node(UNKNOWN, node.mark)
            return Node(evaluate(node.value, {key: value.value for key, value in values.items()}), node.mark)
        except ExpressionError as error:
            problems.add(node.mark, path, str(error))
            return Node(UNKNOWN, node.mark)


def read_blocks(node: Node | None, registry: Registry[Any], problems: Problems) -> Blocks:
    """The definitions of a `define` section. Their form is checked here, their layers wherever they are used."""
    if node is None or node.value is UNKNOWN:
        return Blocks()
    if not isinstance(node.value, dict):
        problems.add(node.mark, "define", f"must be a mapping NAME: {{parameters, layers}}, got {describe(node.value)}")
        return Blocks()
    found: dict[str, Block | None] = {}
    for name, below in node.value.items():
        key, mark = f"define.{name}", node.key(name)
        if not NAME.fullmatch(name) or name == "type":
            problems.add(mark, key, f"{RULE}, got {name!r}" if name != "type" else "'type' cannot be a block's name")
        elif name in registry:
            problems.add(mark, key, f"{name!r} is a layer already; choose another name")
        else:
            found[name] = _block(below, mark, key, _beside(registry), problems)
    for name in _circular(found, problems):
        found[name] = None
    return Blocks(found, registry.base)


def first_parameter(document: Node, name: str) -> str | None:
    """The first parameter of the block `name`, in a document that nobody has checked yet."""
    node: Node | None = document
    for key in ("define", name, "parameters"):
        node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
    return next(iter(node.value), None) if node is not None and isinstance(node.value, dict) else None


def _beside(registry: Registry[Any]) -> list[str]:
    """What a use takes beside the block's parameters: a name, and the options of a sequential."""
    return ["name", *list(options_of(registry[CHAIN]))[1:]]


def _block(node: Node, mark: Mark, key: str, reserved: list[str], problems: Problems) -> Block | None:
    if node.value is UNKNOWN:
        return None
    before = len(problems)
    if not isinstance(node.value, dict):
        problems.add(node.mark, key, f"must be a mapping (parameters, layers), got {describe(node.value)}")
        return None
    for other in node.value:
        if other not in _KEYS:
            message = f"unknown key; allowed: {', '.join(_KEYS)}{did_you_mean(other, _KEYS)}"
            problems.add(node.key(other), f"{key}.{other}", message)
    layers = node.value.get("layers")
    if layers is None:
        if len(problems) == before:
            problems.add(mark, f"{key}.layers", "missing; a block needs a list of layers")
    elif not isinstance(layers.value, list) and not PARAMETER.fullmatch(str(layers.value)):
        if layers.value is not UNKNOWN:
            problems.add(layers.mark, f"{key}.layers", f"must be a list of layers, got {describe(layers.value)}")
        return None
    parameters = node.value.get("parameters", Node({}, mark))
    if parameters.value is None:
        parameters = Node({}, mark)
    if not isinstance(parameters.value, dict):
        rule = "must be a mapping of names and defaults (null: has to be given)"
        problems.add(parameters.mark, f"{key}.parameters", f"{rule}, got {describe(parameters.value)}")
        return None
    for name in parameters.value:
        if not NAME.fullmatch(name):
            problems.add(parameters.key(name), f"{key}.parameters.{name}", f"{RULE}, got {name!r}")
        elif name in (*reserved, "type"):
            message = f"every layer has a {name}; choose another name" if name in ("name", "type") else "is taken"
            problems.add(parameters.key(name), f"{key}.parameters.{name}", message)
    return None if len(problems) > before or layers is None else Block(parameters.value, layers)


def _circular(found: Mapping[str, Block | None], problems: Problems) -> set[str]:
    """The blocks that contain themselves, and those that contain one of them; each circle is reported once."""
    done: dict[str, bool] = {}

    def visit(name: str, above: tuple[str, ...]) -> bool:
        if name in done:
            return done[name]
        block, bad = found[name], False
        for node in [*block.parameters.values(), block.layers] if block else []:
            for below, mark in _entries(node):
                if below in (*above, name):
                    circle = [*above, name, below]
                    way = " → ".join(circle[circle.index(below) :])
                    problems.add(mark, f"define.{name}", f"{below!r} contains itself: {way}")
                    bad = True
                elif below in found:
                    bad |= visit(below, (*above, name))
        done[name] = bad
        return bad

    return {name for name in found if visit(name, ())}


def _entries(node: Node) -> Iterator[tuple[str, Mark]]:
    """Names that stand where a layer in a list has its name, with their places."""
    if isinstance(node.value, dict):
        for below in node.value.values():
            yield from _entries(below)
    elif isinstance(node.value, list):
        for item in node.value:
            if isinstance(item.value, str):
                yield item.value, item.mark
            elif isinstance(item.value, dict) and len(item.value) == 1:
                yield from ((name, item.key(name)) for name in item.value)
            elif isinstance(item.value, dict) and "type" in item.value:
                yield str(item.value["type"].value), item.value["type"].mark
            yield from _entries(item)
