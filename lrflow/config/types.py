"""Field types of the schemas, each with the sentence shown when a value does not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, PlainValidator
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function

from lrflow import limits
from lrflow.data.splits import share_of
from lrflow.limits import between, is_whole
from lrflow.schedules.time import MOST_STEPS, Duration


class BeforeValidator:
    """Check of a value as the config gives it, before pydantic reads it.

    Pydantic's own class of this name does the same, but reads the signature of each function, which takes longer than
    the rest of a schema.
    """

    __slots__ = ("check",)

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self.check, handler(source))


def expects(sentence: str, holds: Callable[[Any], bool]) -> BeforeValidator:
    """Return a check of a value as written in the config; `sentence` is shown when it fails."""

    def check(value: Any) -> Any:
        if holds(value):
            return value
        # The sentence is passed as data, since pydantic would read braces in it as placeholders.
        raise PydanticCustomError("expected", "expected {sentence}", {"sentence": sentence})

    return BeforeValidator(check)


def parsed_by(parse: Callable[[Any], Any]) -> BeforeValidator:
    """Return a check that a function reads a value, which stays as written; its ValueError says what was expected."""

    def check(value: Any) -> Any:
        try:
            parse(value)
        except ValueError as error:
            raise PydanticCustomError("expected", "{sentence}", {"sentence": str(error)}) from None
        return value

    return BeforeValidator(check)


def one_of(*words: str, also: tuple[str | int, ...] = ()) -> BeforeValidator:
    """Return a check that a value is one of a few words, with a suggestion; `also` are valid but not listed."""

    def check(value: Any) -> Any:
        if any(value == word and type(value) is type(word) for word in (*words, *also)):
            return value
        raise _unknown_word(value, words)

    return BeforeValidator(check)


def some_of(*words: str) -> BeforeValidator:
    """Return a check that a value is one of a few words or a list of them, with a suggestion."""

    def check(value: Any) -> Any:
        for entry in value if isinstance(value, list) and value else [value]:
            if entry not in words:
                raise _unknown_word(entry, words)
        return value

    return BeforeValidator(check)


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
    return expects(limit.expected, limit.holds)


def _duration(value: Any) -> Duration:
    try:
        return Duration.parse(value)
    except ValueError as error:
        # The problem already shows the value.
        message = str(error).removeprefix(f"{value!r} is ")
        raise PydanticCustomError("expected", "{sentence}", {"sentence": message}) from None


def _interval(value: Any) -> Duration:
    if (duration := _duration(value)).value == 0:
        raise PydanticCustomError("expected", "expected {sentence}", {"sentence": "a duration above 0"})
    return duration


def as_written(duration: Duration) -> int | float | str:
    """Return a duration as the config gives it."""
    return str(duration) if duration.written is None else duration.written


def _part_size(value: Any) -> None:
    if share_of(value) is not None:  # `fill_facts` counts shares where the number of examples is known
        raise ValueError("a share of the examples needs data.facts.examples, their number")


def _patterns(value: Any) -> Any:
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, str) and entry.startswith("re:"):
            try:
                re.compile(entry.removeprefix("re:"))
            except (re.error, OverflowError) as error:
                message = f"a valid regular expression after re:, got {entry}: {error}"
                raise PydanticCustomError("expected", "expected {sentence}", {"sentence": message}) from None
    return value


_CLOCK_UNITS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "day": 86400,
    "d": 86400,
}
_CLOCK = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-z]+)", re.IGNORECASE)


def seconds_of(text: str) -> float:
    """Return the seconds of a time on the clock, such as `2 hours`, `30 min` or `1 h 30 min`.

    Raises:
        ValueError: it is none.
    """
    parts = _CLOCK.findall(text)
    units = [_CLOCK_UNITS.get(unit.lower()) or _CLOCK_UNITS.get(unit.lower().removesuffix("s")) for _, unit in parts]
    if not parts or None in units or _CLOCK.sub("", text).strip(" ,"):
        raise ValueError(f"{text!r} is not a time")
    return sum(float(number) * (unit or 0) for (number, _), unit in zip(parts, units, strict=True))


def _is_clock_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and 0 < seconds_of(value) < math.inf
    except ValueError:
        return False


def _is_betas(value: Any) -> bool:
    several = isinstance(value, list | tuple) and len(value) in (2, 3)
    return several and all(between(beta, 0, 1, False, True) for beta in value)


def _is_eps(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and all(entry is None or between(entry, 0, math.inf, False, False) for entry in value)
    return between(value, 0, math.inf, True, False)


PEAK_SHARE = "a fraction of the peak LR: a number from 0 to 1, or a share such as 1%"


def _share_of_peak(value: Any) -> Any:
    share = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*", value) if isinstance(value, str) else None
    number = float(Decimal(share.group(1)) / 100) if share else value
    if between(number, 0, 1, False, False):
        return number
    raise PydanticCustomError("expected", "expected {sentence}", {"sentence": PEAK_SHARE})


def _is_folder_name(value: Any) -> bool:
    if not isinstance(value, str) or value in (".", "..") or len(value.encode(errors="replace")) > _LONGEST_NAME:
        return False
    return bool(re.fullmatch(r"[\w.+=,@ -]+", value))


_LONGEST_NAME = 200  # bytes, of the 255 that most disks allow: the time and a number are added to it


def _stays_inside(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value and ".." not in PurePath(value).parts


def is_relative_lr(value: Any) -> bool:
    """Return whether a value is a multiple of the peak LR, such as `10x`."""
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)\s*x\s*", str(value), re.IGNORECASE)
    return isinstance(value, str) and match is not None and 0 < float(match.group(1)) < math.inf


def _one_or_more(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check that a value is one entry or a non-empty list of entries."""
    return lambda value: (
        kind(value) or (isinstance(value, list) and bool(value) and all(kind(entry) for entry in value))
    )


def _is_margin(value: Any) -> bool:
    share = re.fullmatch(r"(\d+\.?\d*|\.\d+)%", value) if isinstance(value, str) else None
    return between(float(share.group(1)) if share else value, 0, math.inf, True, False)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# Lightning's own names, with endings such as ddp_find_unused_parameters_true; only Lightning knows them all.
_STRATEGY = re.compile(r"(auto|ddp|fsdp|deepspeed|single_device|xla)(_\w+)?")


def _is_devices(value: Any) -> bool:
    listed = isinstance(value, list)
    count = len(value) if listed else value
    return value == "auto" or (_one_or_more(is_whole)(value) and 0 < count <= limits.MOST_PROCESSES)


Text = Annotated[str, expects("text", _is_text)]
PeakShare = Annotated[float, BeforeValidator(_share_of_peak)]
Mode = Annotated[Literal["min", "max"], one_of("min", "max")]
Margin = Annotated[
    Any, expects("a share of what training gains, such as 5%, or a difference of the metric", _is_margin)
]
Switch = Annotated[bool, expects("true or false", lambda value: isinstance(value, bool))]
Tested = Annotated[
    Any,
    expects("true, false, best or last", lambda value: isinstance(value, bool) or value in ("best", "last")),
]
AutoSwitch = Annotated[Any, expects("auto, true or false", lambda value: value == "auto" or isinstance(value, bool))]
Count = Annotated[int, whole(1)]
Steps = Annotated[
    int,
    expects(
        f"a whole number from 1 to {MOST_STEPS:,}, the most steps of a run",
        lambda v: is_whole(v) and 0 < v <= MOST_STEPS,
    ),
]
LogInterval = Annotated[
    int,
    expects(
        "a whole number from 1 to 100,000: so many rows are held in memory", lambda v: is_whole(v) and 0 < v <= 10**5
    ),
]
CountOrShare = Annotated[
    Any,
    expects(
        "a whole number above 0, or a share above 0.0 and up to 1.0",
        lambda v: (is_whole(v) and v > 0) or (isinstance(v, float) and 0 < v <= 1),
    ),
]
CountOrNone = Annotated[int, whole(0)]
PartSize = Annotated[int, parsed_by(_part_size)]
Workers = Annotated[int, whole(0, limits.MOST_PROCESSES)]
Fraction = Annotated[float, number(0, 1)]
BelowOne = Annotated[float, number(0, 1, below=True)]
Positive = Annotated[float, number(0, above=True)]
NotNegative = Annotated[float, number(0)]
PeakLR = Annotated[float, number(0, 1000, above=True)]
Betas = Annotated[
    tuple[float, ...],
    expects("two numbers (three where the optimizer has three), each at least 0 and below 1", _is_betas),
]
Eps = Annotated[Any, expects("a number above 0", _is_eps)]
Time = Annotated[Duration, PlainValidator(_duration)]
Interval = Annotated[Duration, PlainValidator(_interval)]
ClockTime = Annotated[str, expects("a time with its unit, such as 2 hours, 30 min or 90 s", _is_clock_time)]
Seed = Annotated[int, expects("a whole number from 0 to 4294967295", lambda v: is_whole(v) and 0 <= v < 2**32)]
Units = Annotated[
    tuple[float, float],
    expects(
        "a list of two numbers, a mean and a standard deviation above 0",
        lambda value: isinstance(value, list | tuple) and len(value) == 2 and limits.is_number(value[0])
        and between(value[1], 0, math.inf, True, False),
    ),
]  # fmt: skip
Shape = Annotated[
    list[int],
    expects("a list of whole numbers above 0", lambda v: isinstance(v, list) and all(is_whole(n) and n > 0 for n in v)),
]
Devices = Annotated[
    Any,
    expects(f"a whole number from 1 to {limits.MOST_PROCESSES}, a list of device numbers, or auto", _is_devices),
]
Strategy = Annotated[
    str,
    expects("auto, ddp, fsdp or another strategy of Lightning's", lambda value: bool(_STRATEGY.fullmatch(str(value)))),
]
FolderName = Annotated[
    str,
    expects("a name for a folder of at most 200 bytes: letters, digits, spaces and . , _ - + = @", _is_folder_name),
]
FolderPath = Annotated[str, expects("a folder without `..` in its path", _stays_inside)]
GroupLR = Annotated[
    Any,
    expects(
        "a number above 0 (1e-4) or a multiple of the peak (10x)",
        lambda value: is_relative_lr(value) or between(value, 0, 1000, True, False),
    ),
]
Texts = Annotated[Any, expects("text or a list of texts", _one_or_more(_is_text))]
Patterns = Annotated[Texts, BeforeValidator(_patterns)]
Numbers = Annotated[
    Any, expects("a whole number or a list of them", _one_or_more(lambda value: is_whole(value) and value >= 0))
]
