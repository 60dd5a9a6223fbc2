"""`extends: base.yaml`: a config that says only how it differs from another."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from gpubackprop.config.document import UNKNOWN, Mark, Node, Problems, describe, parse

#: Of these keys a section holds one: giving it anew drops the other that stood there.
REPLACES = {"epochs": "steps", "steps": "epochs"}


def read(path: str, problems: Problems) -> Node | None:
    """The YAML file at `path` as a mapping, merged over the files that it extends.

    Marks name each file as the user did. None where a file cannot be read; `problems` says why.
    """
    text = read_text(path, Mark(path), "", problems)
    return None if text is None else from_text(text, path, problems)


def read_text(path: str, mark: Mark, key: str, problems: Problems) -> str | None:
    """The text of a config file; what keeps it from being read is a problem at `mark`, `key`."""
    named = "" if mark.file == path else f"{path}: "
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problems.add(mark, key, f"{named}no such file{_similar(path)}")
    except IsADirectoryError:
        problems.add(mark, key, f"{named}is a folder, not a config file{_similar(path)}")
    except UnicodeDecodeError as error:
        problems.add(mark, key, f"{named}not a text file (byte {error.start} is not UTF-8); a config is YAML text")
    except OSError as error:
        problems.add(mark, key, f"{named}cannot be read: {error.strerror}")
    return None


def from_text(text: str, file: str, problems: Problems, above: tuple[str, ...] = ()) -> Node | None:
    """As `read`, for a text that was read from `file`; `above` are the files that led here."""
    node = parse(text, file, problems)
    if node is None:
        return None
    if not isinstance(node.value, dict):
        what = f"got {describe(node.value)}" if node.value is not None else "the file is empty"
        problems.add(node.mark, "", f"{what}; a config is a mapping: lines of 'key: value' such as data, model, loss")
        return None
    return extend(node, problems, (*above, os.path.realpath(file)))


def extend(node: Node, problems: Problems, above: tuple[str, ...] = ()) -> Node | None:
    """The mapping `node` over the file that its `extends` names, which goes away."""
    if (base := node.value.get("extends")) is None:
        return node
    own = node.without("extends")
    if base.value is UNKNOWN:
        return None
    if not isinstance(base.value, str):
        problems.add(base.mark, "extends", f"must be the path of one config file, got {describe(base.value)}")
        return None
    path = os.path.normpath(os.path.join(os.path.dirname(base.mark.file), base.value))
    if os.path.realpath(path) in above:
        problems.add(base.mark, "extends", f"{path} extends itself in a circle; remove one of the extends")
        return None
    text = read_text(path, base.mark, "extends", problems)
    under = None if text is None else from_text(text, path, problems, above)
    return None if under is None else merged(under, own)


def merged(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings merge, everything else replaces.

    A component is one thing with its options: another `type` drops the options of the old one. So does `steps` with
    `epochs`, of which one is given.
    """
    if not isinstance(over.value, dict):
        return over
    if isinstance(base.value, str) and "type" not in over.value:  # a component by its name, given options here
        base = Node({"type": base}, base.mark, {"type": base.mark})
    if not isinstance(base.value, dict):
        return over
    if "type" in over.value and ("type" not in base.value or over.value["type"].value != base.value["type"].value):
        return over
    given = [key for key, node in over.value.items() if key in REPLACES and node.value is not None]
    base = base.without(*(REPLACES[key] for key in given if REPLACES[key] not in over.value))
    result = Node(base.value, over.mark, base.keys)
    for key, node in over.value.items():
        result = result.with_key(key, merged(base.value[key], node) if key in base.value else node, over.key(key))
    return result


def _similar(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        files = [f for f in os.listdir(folder or ".") if f.endswith((".yaml", ".yml"))]
    except OSError:
        return f"; the folder {folder} does not exist"
    if os.path.isdir(path):
        files = [os.path.join(name, f) for f in os.listdir(path) if f.endswith((".yaml", ".yml"))][:3]
        return f"; in it: {', '.join(sorted(os.path.join(folder, f) for f in files))}" if files else ""
    stems = {os.path.splitext(f)[0]: os.path.join(folder, f) for f in files}
    close = difflib.get_close_matches(os.path.splitext(name)[0], stems, n=3)
    return f"; similar: {', '.join(stems[stem] for stem in close)}" if close else ""
