"""The assignments of a Python file as data: numbers, texts, lists, dicts and arithmetic of them, by `ast` alone."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_MOST = 1e18  # of a number that takes part in arithmetic
_MOST_EXPONENT = 64


class _NotPlainError(ValueError):
    """Raised for an expression that is no plain data; the message says what it is."""


def read_assignments(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the assignments of a Python file, without executing it.

    Args:
        text: of the file. Names stand for what was assigned to them before; `dict(a=1)` is a mapping.

    Returns:
        The values by name; and by name, why a value could not be read.

    Raises:
        SyntaxError, RecursionError: it is no Python, or nested too deeply.
    """
    found: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        for target in targets:
            if not isinstance(target, ast.Name):
                continue
            try:
                found[target.id] = _value(value, found)
                unreadable.pop(target.id, None)
            except (_NotPlainError, ArithmeticError) as error:
                found.pop(target.id, None)
                unreadable[target.id] = f"line {value.lineno}: {error}"
    return found, unreadable


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as constant):
            return constant
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_value(item, names) for item in items]
        case ast.Dict(keys=keys, values=values):
            if any(key is None for key in keys):
                raise _NotPlainError("a mapping that is unpacked")
            return {str(_value(key, names)): _value(item, names) for key, item in zip(keys, values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(each.arg for each in keywords):
            return {str(each.arg): _value(each.value, names) for each in keywords}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return -_number(operand, names) if isinstance(sign, ast.USub) else _number(operand, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            first, second = _number(left, names), _number(right, names)
            if isinstance(op, ast.Pow) and abs(second) > _MOST_EXPONENT:
                raise _NotPlainError("a power that is too large")
            result = _OPERATORS[type(op)](first, second)
            if isinstance(result, complex) or not abs(result) <= _MOST:
                raise _NotPlainError("a number that is too large")
            return result
    raise _NotPlainError("is not plain data, and nothing is executed")


def _number(node: ast.expr, names: dict[str, Any]) -> Any:
    value = _value(node, names)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
        raise _NotPlainError("arithmetic of something else than numbers")
    return value
