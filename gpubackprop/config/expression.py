"""`$channels * 2`: arithmetic on the parameters of a defined block. Nothing else of Python is understood."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from gpubackprop.config.document import describe
from gpubackprop.registry import did_you_mean

PARAMETER = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")

ALLOWED = "numbers, $parameters, + - * / // and parentheses"

_LONGEST = 200  # characters; what is parsed and walked stays shallow
_MARK = "P"  # stands for the $, which Python's grammar lacks; no other letter but e is let through to the parser
_REST = re.compile(r"[0-9.eE+*/() -]*")

_Number = Callable[[Any, Any], Any]
_BINARY: dict[type, _Number] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


class ExpressionError(Exception):
    """An expression that has no value; the message says why."""


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The number that `text` comes to. `values` are the parameters' by name. Raises ExpressionError.

    Integers stay integers: what `/` gives must be whole then, and `//` rounds down.
    """
    for name in PARAMETER.findall(text):
        known(name, values)
    if len(text) > _LONGEST or not _REST.fullmatch(PARAMETER.sub("", text)):
        raise ExpressionError(f"{text!r} is no arithmetic; allowed: {ALLOWED}")
    try:
        tree = ast.parse(PARAMETER.sub(rf" {_MARK}\1 ", text).strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise ExpressionError(f"{text!r} cannot be read; allowed: {ALLOWED}") from error
    try:
        return _value(tree.body, text, values)
    except ZeroDivisionError as error:
        raise ExpressionError(f"{text!r} divides by zero") from error
    except OverflowError as error:
        raise ExpressionError(f"{text!r} is too large") from error


def known(name: str, values: Mapping[str, Any]) -> None:
    """Raises ExpressionError where no parameter has that name."""
    if name not in values:
        these = ", ".join(values) or "none"
        raise ExpressionError(f"unknown parameter ${name}; parameters: {these}{did_you_mean(name, values)}")


def _value(node: ast.expr, text: str, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Name) and node.id.startswith(_MARK):
        value = values[node.id.removeprefix(_MARK)]
        if type(value) not in (int, float):
            raise ExpressionError(f"${node.id.removeprefix(_MARK)} in {text!r} is no number, but {describe(value)}")
        return value
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand, text, values))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left, text, values), _value(node.right, text, values)
        if isinstance(node.op, ast.Div) and isinstance(left, int) and isinstance(right, int):
            if left % right:
                raise ExpressionError(f"{left} / {right} in {text!r} is not whole; // rounds down")
            return left // right
        return _BINARY[type(node.op)](left, right)
    raise ExpressionError(f"{text!r} is no arithmetic; allowed: {ALLOWED}")
