"""The grammar of Hydra's overrides: its parser, calls of functions that it does not have, and the size of a grid."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import HydraException

from lrflow.errors import ConfigError, Problem, nearest

MOST_JOBS = 10_000
"""Most jobs of a grid, and most values of a swept key: each is composed and checked before the first one starts."""


@cache
def parser() -> OverridesParser:
    """Return the parser; creating it takes longer than parsing an override."""
    return OverridesParser.create()


def quoted(value: object) -> str:
    """Return a number, a text or a list of them in Hydra's grammar, quoted where needed."""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(quoted, value))}]"
    # A backslash is an ordinary character, except before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), str(value))
    return f"'{escaped}'"


def call_problem(text: str, key: str, value: str) -> Problem | None:
    """Return the problem of a value that calls a function which Hydra lacks, such as `logrange(1,2)`; None for others.

    Args:
        text: the override.
        key: its key.
        value: text of its value.
    """
    try:
        parser().parse_override(text)
    except HydraException as error:
        complaint = str(error)
    else:
        return None
    found = re.search(r"while evaluating '(\w+)\((.*)\)': (.*)", complaint, re.DOTALL)
    if not found:
        return None
    name, arguments, reason = found.groups()
    known = sorted(parser().functions.definitions)
    if name in known:
        reason = reason.partition("\n")[0]
        return Problem(key, f"{name}({arguments}) cannot be evaluated: {reason}", value)
    hint = f"the functions are {', '.join(known)}"
    if close := nearest(name, known, count=1):
        hint = f"did you mean {close[0]}(...)? {hint}"
    numbers = re.findall(r"(?<![\w.])[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?![\w.])", arguments, re.IGNORECASE)
    if len(numbers) >= 2:
        hint = f"list the values, or draw them with -m: {key}=interval({numbers[0]},{numbers[1]}), which is "
        hint += "logarithmic for an LR and for a weight decay; tag(log, interval(...)) is for any key"
    elif not numbers:
        hint += f""";\n    a text needs quotes: '{key}="{value}"'"""
    return Problem(key, f"there is no function {name}", value, hint)


def axis_problem(key: str, given: str, value: Any) -> Problem | None:
    """Return the problem of a key with too many values, or of a range that never ends; None for any other override.

    Args:
        key: the swept key.
        given: text of its values.
        value: the values, parsed.
    """
    if isinstance(value, ChoiceSweep):
        count: float = len(value.list)
    elif isinstance(value, RangeSweep):
        ends = [float(end) for end in (value.start, value.stop, value.step) if end is not None]
        if not all(map(math.isfinite, ends)) or not ends[-1]:
            return Problem(key, "expected finite ends and a step other than 0", given)
        count = math.ceil((ends[1] - ends[0]) / ends[2])
    else:
        return None
    if count <= MOST_JOBS:
        return None
    message = f"has {count:,} values, of which {MOST_JOBS:,} are possible"
    hint = f"draw from it, with sweep.sampler=tpe or random: {key}=interval(LOW,HIGH)"
    return Problem(key, message, given, hint)


def repeated(key: str, value: Any) -> list[str]:
    """Return a warning for each value that a key has more than once in a sweep, however it is written.

    Args:
        key: the swept key.
        value: its values, parsed.
    """
    if not isinstance(value, ChoiceSweep):
        return []
    texts = [getattr(entry, "text", entry) for entry in value.list]

    def of(entry: object) -> float | str:
        return float(entry) if isinstance(entry, int | float) and not isinstance(entry, bool) else str(entry)

    counts = Counter(map(of, texts))
    return [f"{key} has the value {entry} {count} times: equal jobs" for entry, count in counts.items() if count > 1]


def check_count(lengths: Mapping[str, int]) -> None:
    """Check that a grid has at most `MOST_JOBS` points.

    Args:
        lengths: number of values of each key.

    Raises:
        ConfigError: it has more.
    """
    if (count := math.prod(lengths.values())) > MOST_JOBS:
        axes = " x ".join(f"{length:,} ({key})" for key, length in lengths.items() if length > 1)
        message = f"has {count:,} jobs, {axes}; at most {MOST_JOBS:,} are possible"
        hint = "draw some of them: sweep.sampler=random sweep.n_trials=100, with interval(LOW,HIGH) in place of ranges"
        raise ConfigError([Problem("sweep", message, ..., hint)])
