"""Arithmetic in a config, `${calc:0.4 / ${data.batch_size}}`: of numbers and durations; nothing runs as code."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lrflow.config.composition.grammar import quoted
from lrflow.schedules.time import Duration
from lrflow.wording import joined

LONGEST = 500
"""Most characters of an expression."""

_MOST_BITS = 4096  # of the numerator and the denominator of a number
_DEEPEST = 30  # levels of parentheses and signs

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?)\s*"
    r"(?P<unit>%|(?:steps?|epochs?|samples?)\b)?(?![\w.])|(?P<sign>\*\*|[-+*/()]))",
    re.IGNORECASE | re.ASCII,
)
_UNITS = {"step": "steps", "epoch": "epochs", "sample": "samples"}
_START = re.compile(r"\$\{\s*calc\s*:")
_QUOTED = re.compile(r"""\$\{\s*calc\s*:\s*(['"])([^'"]*)\1\s*\}""")
EXPECTED = "expected numbers, durations and + - * / ** ( )"


class CalcError(ValueError):
    """Raised for an expression that is no arithmetic, or has no result."""


@dataclass(frozen=True)
class _Amount:
    """A number, or a length of training.

    Args:
        value: the exact number; 10 for 10%.
        unit: `%`, `steps`, `epochs`, `samples`, or empty for a number.
        bare: whether it is a power without parentheses around it.
    """

    value: Fraction
    unit: str = ""
    bare: bool = False

    def __str__(self) -> str:
        number = _plain(self.value)
        return f"{number}{'' if self.unit in ('', '%') else ' '}{self.unit}"


def calculate(expression: str) -> int | float | str:
    """Return the value of an expression of numbers and durations, with + - * / **, signs and parentheses.

    Decimal numbers are exact, as they are written: 0.1 * 3 is 0.3. A whole result is a whole number. A duration is
    added to one of its own unit, multiplied by a number or divided by one: `3 epochs / 2`.

    Returns:
        A number, or the text of a duration: `1.5 epochs`.

    Raises:
        CalcError: it is no such expression, or has no finite result.
    """
    if len(expression) > LONGEST:
        raise CalcError(f"an expression has at most {LONGEST} characters, and this one {len(expression):,}")
    reader = _Reader(expression)
    result = reader.read()
    if not result.unit:
        return _plain(result.value)
    text = str(result)
    try:
        Duration.parse(text)
    except ValueError as error:
        raise CalcError(f"the result is no duration: {error}") from None
    return text


class _Reader:
    """Reads an expression from left to right, and computes while it reads."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = list(_tokens(expression))
        self._at = 0
        self._depth = 0

    def read(self) -> _Amount:
        found = self._sum()
        if (left := self._next) is not None:
            raise CalcError(f"expected an operator before {left}")
        return found

    @property
    def _next(self) -> str | _Amount | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *signs: str) -> str | None:
        """Return the next token and go on if it is one of these signs."""
        if isinstance(sign := self._next, str) and sign in signs:
            self._at += 1
            return sign
        return None

    def _sum(self) -> _Amount:
        left = self._product()
        while sign := self._take("+", "-"):
            right = self._product()
            if left.unit != right.unit:
                raise CalcError(f"cannot compute {left} {sign} {right}: they have different units")
            left = _bounded(left.value + right.value if sign == "+" else left.value - right.value, left.unit)
        return left

    def _product(self) -> _Amount:
        left = self._signed()
        while sign := self._take("*", "/"):
            left = _multiplied(left, sign, self._signed())
        return left

    def _signed(self) -> _Amount:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise CalcError(f"is nested more than {_DEEPEST} levels deep")
        if sign := self._take("-", "+"):
            found = self._signed()
            if found.bare and sign == "-":
                raise CalcError("a minus before a power is ambiguous: write (-2) ** 2 or -(2 ** 2)")
            found = _Amount(-found.value if sign == "-" else found.value, found.unit)
        else:
            found = self._atom()
            if self._take("**"):
                found = _power(found, self._signed())
        self._depth -= 1
        return found

    def _atom(self) -> _Amount:
        found = self._next
        self._at += 1
        if isinstance(found, _Amount):
            return found
        if found == "(":
            inner = self._sum()
            if not self._take(")"):
                raise CalcError("a parenthesis is not closed")
            return _Amount(inner.value, inner.unit)
        raise CalcError(f"expected a number, and {'it ends' if found is None else f'there is {found}'}")


def _tokens(expression: str) -> Iterator[str | _Amount]:
    at, end = 0, len(expression.rstrip())
    while at < end:
        found = _TOKEN.match(expression, at)
        if found is None:
            raise CalcError(f"{EXPECTED}, and there is {expression[at:end].split()[0]!r}")
        at = found.end()
        if found["sign"]:
            yield found["sign"]
        else:
            unit = (found["unit"] or "").lower()
            yield _bounded(Fraction(found["number"].replace("_", "")), _UNITS.get(unit, unit))


def _multiplied(left: _Amount, sign: str, right: _Amount) -> _Amount:
    if sign == "*":
        if left.unit and right.unit:
            raise CalcError(f"cannot compute {left} * {right}: one of them has to be a number")
        return _bounded(left.value * right.value, left.unit or right.unit)
    if right.unit not in ("", left.unit):
        raise CalcError(f"cannot compute {left} / {right}: they have different units")
    if right.value == 0:
        raise CalcError(f"cannot compute {left} / {right}: it is a division by 0")
    return _bounded(left.value / right.value, "" if right.unit else left.unit)


def _power(base: _Amount, exponent: _Amount) -> _Amount:
    if base.unit or exponent.unit:
        raise CalcError(f"cannot compute {base} ** {exponent}: both have to be numbers")
    number, power = base.value, exponent.value
    if number == 0 and power < 0:
        raise CalcError(f"cannot compute {base} ** {exponent}: it is a division by 0")
    if power.denominator == 1 and abs(power) * _bits(number) <= _MOST_BITS:
        return _Amount(number ** int(power), bare=True)
    if number < 0 and power.denominator != 1:
        raise CalcError(f"cannot compute {base} ** {exponent}: a negative number has no such power")
    try:
        return _Amount(Fraction(float(number) ** float(power)), bare=True)
    except (OverflowError, ValueError):
        raise CalcError(f"{base} ** {exponent} is too large") from None


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction, unit: str) -> _Amount:
    if _bits(value) > _MOST_BITS:
        raise CalcError("a number is too large or has too many digits")
    return _Amount(value, unit)


def _plain(value: Fraction) -> int | float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise CalcError("the result is too large")
    return int(value) if value.denominator == 1 else number


def resolve_calc(*arguments: Any) -> int | float | str:
    """Return the value of `${calc:EXPRESSION}`; OmegaConf calls this with the expression.

    Raises:
        CalcError: the expression has no result.
    """
    if len(arguments) != 1 or isinstance(arguments[0], bool) or not isinstance(arguments[0], str | int | float):
        given = joined([str(argument) for argument in arguments], 3) or "nothing"
        raise CalcError(f"{EXPECTED}, and there is {given}")
    expression = str(arguments[0])
    try:
        return calculate(expression)
    except CalcError as error:
        shown = expression if len(expression) <= 80 else f"{expression[:77]}..."
        raise CalcError(f"{shown!r}: {error}") from None


def _pieces(text: str, quotes: str = "") -> Iterator[tuple[int, int, int]]:
    """Yield for each outermost `${calc:...}` where it starts, its expression starts, and it ends.

    Args:
        text: the text.
        quotes: the signs between which there is none.
    """
    at, quote = 0, ""
    while at < len(text):
        sign = text[at]
        if sign == "\\" and quotes:
            at += 1
        elif quote or sign in quotes:
            quote = "" if sign == quote else quote or sign
        elif found := _START.match(text, at):
            depth, end = 1, found.end()
            while end < len(text) and depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            if depth:
                return
            yield at, found.end(), end
            at = end
            continue
        at += 1


def with_quotes(text: str) -> str:
    """Return the text of a config value with the expressions of `${calc:...}` in quotes.

    OmegaConf's grammar (2.3) has no parentheses outside quotes.
    """
    parts, done = [], 0
    for start, inner, end in _pieces(text):
        expression = text[inner : end - 1].strip()
        if expression and not _is_quoted(expression):
            parts += [text[done:start], f"${{calc:'{_escaped(with_quotes(expression))}'}}"]
            done = end
    return "".join([*parts, text[done:]])


def _is_quoted(expression: str) -> bool:
    return len(expression) > 1 and expression[0] in "'\"" and expression[-1] == expression[0]


def _escaped(expression: str) -> str:
    """Return an expression with its quotes escaped, but for those within an interpolation."""
    depth, signs = 0, []
    for sign in expression:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        signs.append("\\'" if sign == "'" and depth == 0 else sign)
    return "".join(signs)


def with_quotes_for_hydra(value: str) -> str:
    """Return the value of an override in which each part that holds `${calc:...}` is in quotes.

    Hydra's grammar (1.3) has no interpolation within an interpolation outside quotes.
    """
    parts, done = [], 0
    for start, _, end in _pieces(value, "'\""):
        if start < done:
            continue
        left = max((value.rfind(sign, done, start) for sign in ",[{(:"), default=-1)
        left = max(left + 1, done)
        right = min((at for sign in ",]})" if (at := value.find(sign, end)) >= 0), default=len(value))
        part = _QUOTED.sub(r"${calc:\2}", value[left:right])  # quotes within quotes would be escaped
        parts += [value[done:left], part[: len(part) - len(part.lstrip())], quoted(part.strip())]
        done = right
    return "".join([*parts, value[done:]])
