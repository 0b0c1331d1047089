"""Checks of which the field types are made: each with the sentence shown when it fails, and its JSON schema."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Discriminator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function

from lrflow import limits


class BeforeValidator:
    """Check of a value as the config gives it, before pydantic reads it.

    Pydantic's own class of this name does the same, but reads the signature of each function, which takes longer than
    the rest of a schema.

    Args:
        check: returns the value or raises PydanticCustomError.
        json: JSON schema of the values that pass it, or of more; None: that of the type.
    """

    __slots__ = ("check", "json")

    def __init__(self, check: Callable[[Any], Any], json: Mapping[str, Any] | None = None) -> None:
        self.check, self.json = check, json

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self.check, handler(source))


class Json:
    """The JSON schema of a value whose check says none.

    Args:
        json: the schema.
        beside: it is that of a further form of the value, which is read before the schemas.
    """

    __slots__ = ("beside", "json")

    def __init__(self, json: Mapping[str, Any], beside: bool = False) -> None:
        self.json, self.beside = json, beside


def pattern(regex: str, any_case: bool = False) -> dict[str, Any]:
    """Return the JSON schema of texts that a regular expression matches as a whole.

    Args:
        regex: without flags.
        any_case: small letters in it stand for capital ones too.
    """
    if any_case:
        regex = re.sub(r"(?<!\\)[a-z]", lambda match: f"[{match[0]}{match[0].upper()}]", regex)
    return {"type": "string", "pattern": f"^(?:{regex})$"}


def any_of(*forms: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of values that one of several schemas allows."""
    return {"anyOf": [*forms]}


def array(items: Mapping[str, Any], least: int = 0, most: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of lists."""
    return {"type": "array", "items": items, "minItems": least} | ({} if most is None else {"maxItems": most})


def expects(sentence: str, holds: Callable[[Any], bool], json: Mapping[str, Any] | None = None) -> BeforeValidator:
    """Return a check of a value as written in the config; `sentence` is shown when it fails.

    Args:
        sentence: what is expected.
        holds: returns whether a value is valid.
        json: JSON schema of the valid values, or of more; None: that of the type.
    """

    def check(value: Any) -> Any:
        if holds(value):
            return value
        # The sentence is passed as data, since pydantic would read braces in it as placeholders.
        raise PydanticCustomError("expected", "expected {sentence}", {"sentence": sentence})

    return BeforeValidator(check, json)


def parsed_by(parse: Callable[[Any], Any], json: Mapping[str, Any] | None = None) -> BeforeValidator:
    """Return a check that a function reads a value, which stays as written; its ValueError says what was expected."""

    def check(value: Any) -> Any:
        try:
            parse(value)
        except ValueError as error:
            raise PydanticCustomError("expected", "{sentence}", {"sentence": str(error)}) from None
        return value

    return BeforeValidator(check, json)


def one_of(*words: str, also: tuple[str | int, ...] = ()) -> BeforeValidator:
    """Return a check that a value is one of a few words, with a suggestion; `also` are valid but not listed."""

    def check(value: Any) -> Any:
        if any(value == word and type(value) is type(word) for word in (*words, *also)):
            return value
        raise _unknown_word(value, words)

    return BeforeValidator(check, {"enum": [*words, *also]})


def some_of(*words: str) -> BeforeValidator:
    """Return a check that a value is one of a few words or a list of them, with a suggestion."""

    def check(value: Any) -> Any:
        for entry in value if isinstance(value, list) and value else [value]:
            if entry not in words:
                raise _unknown_word(entry, words)
        return value

    return BeforeValidator(check, any_of({"enum": [*words]}, array({"enum": [*words]}, 1)))


def by(name: str, default: str | None = None) -> Discriminator:
    """Return what tells the kinds of a section apart by the word under a key; the tag of each is `<word>`.

    Args:
        name: of the key.
        default: the word if the key is left out.
    """

    def tag(value: Any) -> str:
        word = value.get(name, default) if isinstance(value, Mapping) else getattr(value, name, default)
        return f"<{word}>"

    return Discriminator(tag)


def _unknown_word(word: Any, words: tuple[str, ...]) -> PydanticCustomError:
    context = {"shown": ", ".join(words), "options": words, "word": word}
    return PydanticCustomError("option", "expected one of {shown}", context)


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> BeforeValidator:
    """Return a check for a finite number; see `lrflow.limits.number`."""
    return _limited(limits.number(low, high, above=above, below=below))


def whole(low: int, high: int | None = None) -> BeforeValidator:
    """Return a check for a whole number of at least `low`, and at most `high` if it is given."""
    return _limited(limits.whole(low, high))


def _limited(limit: limits.Limit) -> BeforeValidator:
    return expects(limit.expected, limit.holds, limit.json)
