"""What a YAML scalar means: the core schema of YAML 1.2, and `${VAR}` references to the environment.

`no` and `on` are strings, `1e-3` is a number, `0o17` is fifteen. `${VAR}` and `${VAR:default}` read
the environment; `$${VAR}` is the text `${VAR}` itself.
"""

from __future__ import annotations

import os
import re
from typing import Any

_REFERENCE = re.compile(r"\$+\{[A-Za-z_][A-Za-z0-9_]*(?::[^}\n]*)?\}")

# YAML's own indicators inside a reference would end a scalar of `{lr: ${LR:1e-3}}`. They are moved to
# a private plane while the parser runs: as many characters as before, so every column stays right.
_PLANE = 0xF0000
_HIDDEN = re.compile(
    f"(?P<dollars>\\$+){chr(_PLANE + ord('{'))}(?P<name>\\w+)"
    f"(?P<default>{chr(_PLANE + ord(':'))}[^{chr(_PLANE + ord('}'))}]*)?{chr(_PLANE + ord('}'))}"
)
_HIDE = {code: _PLANE + code for code in range(32, 127) if not (chr(code).isalnum() or chr(code) in "_$")}
_REVEAL = {hidden: code for code, hidden in _HIDE.items()}

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,999}|0o[0-7]{1,999}|0x[0-9a-fA-F]{1,999}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def hide(text: str) -> str:
    """The document `text` with its references made opaque to a YAML parser, at equal length."""
    return _REFERENCE.sub(lambda found: found[0].translate(_HIDE), text)


def reveal(text: str) -> str:
    """A hidden key (or a parser's message) as it is meant, without reading the environment."""
    return _HIDDEN.sub(lambda found: found[0][len(found["dollars"]) > 1 :].translate(_REVEAL), text)


def expand(text: str) -> tuple[str, bool, list[str]]:
    """A hidden scalar -> (its text, whether all of it was one reference, variables that are not set)."""
    unset: list[str] = []

    def value(found: re.Match[str]) -> str:
        if len(found["dollars"]) > 1:
            return reveal(found[0])
        default = found["default"]
        value = os.environ.get(found["name"], default and default[1:].translate(_REVEAL))
        if value is None:
            unset.append(found["name"])
        return value or ""

    whole = _HIDDEN.fullmatch(text)
    return _HIDDEN.sub(value, text), bool(whole and len(whole["dollars"]) == 1), unset


def escape(text: str) -> str:
    """`text` as it has to be written in a config so that nothing in it is taken for a reference."""
    return _REFERENCE.sub(lambda found: "$" + found[0], text)


def resolve(text: str) -> Any:
    """The value of a plain scalar by YAML 1.2's core schema."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
