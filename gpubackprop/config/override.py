"""`--set optimizer.lr=0.01`: single values of a config from the command line or from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gpubackprop.config.document import UNKNOWN, Mark, Node, Problems, describe, parse
from gpubackprop.config.merge import REPLACES
from gpubackprop.registry import did_you_mean

FirstOption = Callable[[str], str | None]  #: a component's name -> the option that its short form gives

Override = tuple[str, Node]  #: dotted path, value


def read_overrides(overrides: Mapping[str, Any] | Iterable[str], problems: Problems) -> list[Override]:
    """Overrides as `key=value` texts, or as a mapping from dotted keys to Python values."""
    if isinstance(overrides, Mapping):
        return [(key, Node.of(value, Mark("overrides"))) for key, value in overrides.items()]
    result = []
    mark = Mark("--set")
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.add(mark, text, "must be key=value, such as optimizer.lr=0.01")
            continue
        found = Problems()
        if (node := parse(value, "--set", found, mark)) is not None:
            result.append((key.strip(), node))
        for problem in found:
            problems.add(mark, key.strip(), problem.message)
    return result


class WrongPathError(Exception):
    """An override's path that leads nowhere; the message says what stands there instead."""


def override(document: Node, path: str, value: Node, first_option: FirstOption) -> Node:
    """`document` with `value` at the dotted `path`; short forms on the way are written out.

    Raises WrongPathError. A key that a mapping lacks is put there: whether it may be is checked later.
    """
    return _set(document, path.split("."), value, "", first_option)


def _set(node: Node, parts: list[str], value: Node, at: str, first_option: FirstOption) -> Node:
    if not parts:
        return value
    here = at or "the config"
    part, rest = parts[0], parts[1:]
    below = f"{at}.{part}" if at else part
    if isinstance(node.value, list):
        if not part.isdecimal() or int(part) >= len(node.value):
            count = len(node.value)
            allowed = f"its entries are 0 to {count - 1}" if count else "it is empty"
            raise WrongPathError(f"{here} is a list, {part!r} is not one of its entries; {allowed}")
        items = list(node.value)
        items[int(part)] = _set_entry(items[int(part)], rest, value, below, first_option)
        return Node(items, node.mark)
    if isinstance(node.value, str) and part != "type":  # a component by its name gets an option
        node = Node({"type": node}, node.mark, {"type": node.mark})
    if node.value in (None, UNKNOWN) or isinstance(node.value, str):
        node = Node({}, value.mark)
    if not isinstance(node.value, dict):
        raise WrongPathError(f"{here} is {describe(node.value)}, nothing lies below it; set {here} itself")
    if part == "type" and not rest and (old := node.value.get("type")) and old.value != value.value:
        # another component takes none of the old one's options, but for those that were set here too
        node = node.without(*(key for key, item in node.value.items() if item.mark != value.mark))
    other = REPLACES.get(part, "")
    if other in node.value and value.value is not None and node.value[other].mark != value.mark:
        node = node.without(other)
    new = _set(node.value.get(part, Node(None, value.mark)), rest, value, below, first_option)
    return node.with_key(part, new, value.mark)


def _set_entry(entry: Node, parts: list[str], value: Node, at: str, first_option: FirstOption) -> Node:
    """As `_set`, for an entry of a list: `NAME`, `NAME: value`, `NAME: {…}` or `{type: NAME, …}`."""
    if not parts:
        return value
    name = parts[0]
    if isinstance(entry.value, str):
        entry = Node({entry.value: Node(None, entry.mark)}, entry.mark)
    if not isinstance(entry.value, dict):
        return _set(entry, parts, value, at, first_option)
    if "type" in entry.value:
        is_name = entry.value["type"].value == name and name not in entry.value and len(parts) > 1
        return _set(entry, parts[1:] if is_name else parts, value, at, first_option)
    if name not in entry.value:
        known = list(entry.value)
        raise WrongPathError(f"{at} is {', '.join(map(repr, known))}, not {name!r}{did_you_mean(name, known)}")
    options, below = entry.value[name], f"{at}.{name}"
    short = options.value is not None and not isinstance(options.value, dict)
    if len(parts) > 1 and short and not (isinstance(options.value, list) and parts[1].isdecimal()):
        option = first_option(name)
        if option is None:
            raise WrongPathError(f"{below} is not known, or has no options")
        options = Node({option: options}, options.mark)
    return entry.with_key(name, _set(options, parts[1:], value, below, first_option), entry.key(name))
