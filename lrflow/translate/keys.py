"""The keys of another tool's config: read with their types, and accounted for to the last."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lrflow.errors import ConfigError, Problem, did_you_mean
from lrflow.translate.translation import Translation

NOTHING: tuple[object, ...] = (None, False, "", "none", "None", [], {}, ())
"""Values by which a key has no effect in the tools that are read here."""

MOST = 1e30
"""Largest number that is read, of either sign: products of a few are numbers too."""


def names(text: str) -> frozenset[str]:
    """Return the words of a text, such as the keys of a tool."""
    return frozenset(text.split())


class Keys:
    """The keys of a mapping; whoever reads one names its type and the default of the tool.

    Args:
        given: the mapping.
        prefix: of its keys in messages, such as `optimizer.init_args.`.
    """

    def __init__(self, given: Mapping[str, Any], prefix: str = "") -> None:
        self.given, self.prefix, self.read = given, prefix, set[str]()

    def __contains__(self, key: str) -> bool:
        return self.given.get(key) is not None

    def raw(self, key: str, default: Any = None) -> Any:
        """Return a value as it is; the default if it is missing or null."""
        self.read.add(key)
        value = self.given.get(key)
        return default if value is None else value

    def number(self, key: str, default: float | None = None, low: float = 0.0) -> Any:
        """Return a number of at least `low` and at most `MOST`, also one that YAML reads as a text (1e-3)."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | float) or not max(low, -MOST) <= value <= MOST:
            self.wrong(key, "expected a number" + (f" of at least {low:g}" if low > -math.inf else ""))
        return value

    def whole(self, key: str, default: int | None = None, low: int = 0) -> Any:
        """Return a whole number of at least `low`."""
        value = self.number(key, default, low)
        if value is not None and value != int(value):
            self.wrong(key, "expected a whole number")
        return None if value is None else int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.raw(key, default)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if not isinstance(value, bool):
            self.wrong(key, "expected true or false")
        return bool(value)

    def word(self, key: str, default: str | None = None, choices: Iterable[str] | None = None) -> Any:
        """Return a text, perhaps one of some."""
        value = self.raw(key, default)
        if value is not None and not isinstance(value, str):
            self.wrong(key, "expected a text")
        names = None if choices is None else list(choices)
        if value is not None and names is not None and value not in names:
            self.wrong(key, f"expected one of {', '.join(names)}", did_you_mean(value, names))
        return value

    def numbers(self, key: str, default: Collection[float] = ()) -> list[float]:
        """Return a list of numbers; a number alone is a list of one."""
        value = self.raw(key)
        if value is None:
            return list(default)
        items = value if isinstance(value, list | tuple) else [value]
        inner = Keys({str(i): item for i, item in enumerate(items)}, f"{self.prefix}{key}.")
        return [inner.number(str(i), 0.0) for i in range(len(items))]

    def inside(self, key: str) -> Keys:
        """Return the keys of a mapping below a key; empty without one."""
        value = self.raw(key, {})
        if not isinstance(value, Mapping):
            self.wrong(key, "expected keys with values")
        return Keys(value, f"{self.prefix}{key}.")

    def wrong(self, key: str, message: str, hint: str | None = None) -> None:
        """Refuse the value of a key."""
        raise ConfigError([Problem(f"{self.prefix}{key}", message, self.given.get(key), hint)])

    def rest(self, into: Translation, known: Collection[str], reasons: Mapping[str, str], tool: str) -> None:
        """Name every key that was not read, unless its value is nothing.

        Args:
            into: the translation that names them.
            known: names of the tool's keys; another one is named with the nearest of these.
            reasons: by key, what to use instead.
            tool: its name.
        """
        for key, value in self.given.items():
            if key in self.read or (key in known and value in NOTHING):
                continue
            if key in known:
                into.leave(
                    f"{self.prefix}{key}", value, reasons.get(key, "no counterpart, or without effect on the LR")
                )
            else:
                near = did_you_mean(key, known)
                into.leave(f"{self.prefix}{key}", value, f"not a key of {tool}" + (f"; {near}" if near else ""))
