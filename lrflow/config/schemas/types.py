"""Field types of the schemas, each with the sentence shown when a value does not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from lrflow import limits
from lrflow.config.schemas.field_checks import BeforeValidator
from lrflow.config.schemas.field_checks import Json as Json
from lrflow.config.schemas.field_checks import any_of as any_of
from lrflow.config.schemas.field_checks import array as array
from lrflow.config.schemas.field_checks import by as by
from lrflow.config.schemas.field_checks import expects as expects
from lrflow.config.schemas.field_checks import number as number
from lrflow.config.schemas.field_checks import one_of as one_of
from lrflow.config.schemas.field_checks import parsed_by as parsed_by
from lrflow.config.schemas.field_checks import pattern as pattern
from lrflow.config.schemas.field_checks import some_of as some_of
from lrflow.config.schemas.field_checks import whole as whole
from lrflow.data.splits import share_of
from lrflow.limits import between, is_whole
from lrflow.objectives import LOSSES, SCORES
from lrflow.schedules import levels, time
from lrflow.schedules.levels import AbsoluteLR
from lrflow.schedules.time import MOST_STEPS, Duration


def _duration(value: Any) -> Duration:
    try:
        return Duration.parse(value)
    except ValueError as error:
        # The problem already shows the value.
        message = str(error).removeprefix(f"{value!r} is ")
        raise PydanticCustomError("expected", "{sentence}", {"sentence": message}) from None


def _within(value: Any) -> Duration:
    duration = _duration(value)
    if duration.unit == "fraction" and duration.value > 1:
        raise PydanticCustomError("expected", "expected {sentence}", {"sentence": "at most 100%, the whole run"})
    return duration


def _interval(value: Any) -> Duration:
    if (duration := _within(value)).value == 0:
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
_AMOUNT = r"(\d+\.?\d*|\.\d+)"
_CLOCK = re.compile(rf"{_AMOUNT}\s*([a-z]+)", re.IGNORECASE)


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


LEVEL = f"{PEAK_SHARE}; or an LR, such as 1e-6 lr"


def _parse_share(value: Any, sentence: str, below: bool = False, above: bool = False) -> Any:
    share = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*", value) if isinstance(value, str) else None
    number = float(Decimal(share.group(1)) / 100) if share else value
    if between(number, 0, 1, above, below):
        return number
    raise PydanticCustomError("expected", "expected {sentence}", {"sentence": sentence})


def _share(sentence: str, below: bool = False, above: bool = False) -> BeforeValidator:
    """Return the validator of a share, `0.1` or `10%`, from 0 to 1; `above` excludes 0, `below` excludes 1."""

    def parse(value: Any) -> Any:
        return _parse_share(value, sentence, below, above)

    return BeforeValidator(parse, any_of(limits.number(0, 1, above=above, below=below).json, SHARE))


def level(value: Any) -> Any:
    """Return a level of a schedule: a share of the peak as a float, or an LR as its text."""
    if isinstance(value, str) and AbsoluteLR.parse(value) is not None:
        return value
    return _parse_share(value, LEVEL)


def _is_folder_name(value: Any) -> bool:
    if not isinstance(value, str) or value in (".", "..") or len(value.encode(errors="replace")) > _LONGEST_NAME:
        return False
    return bool(re.fullmatch(r"[\w.+=,@ -]+", value))


_LONGEST_NAME = 200  # bytes, of the 255 that most disks allow: the time and a number are added to it


def _stays_inside(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value and ".." not in PurePath(value).parts


_RELATIVE_LR = r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)\s*x\s*"


def is_relative_lr(value: Any) -> bool:
    """Return whether a value is a multiple of the peak LR, such as `10x`."""
    match = re.fullmatch(_RELATIVE_LR, str(value), re.IGNORECASE)
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


_TEXT = {"type": "string", "pattern": r"\S"}
_ABOVE_0 = limits.number(0, above=True).json
SHARE = pattern(rf"\s*{_AMOUNT}\s*%\s*")
_DURATION = pattern(time.TEXT, any_case=True)

Text = Annotated[str, expects("text", _is_text, _TEXT)]
Level = Annotated[
    float | str,
    BeforeValidator(level, any_of(limits.number(0, 1).json, SHARE, pattern(levels.TEXT, any_case=True))),
]
PeakShare = Annotated[float, _share(PEAK_SHARE)]
ShareAboveZero = Annotated[float, _share("a share above 0, such as 0.5 or 50%", above=True)]
ShareBelowOne = Annotated[float, _share("a share below 1, such as 0.1 or 10%", below=True)]
Mode = Annotated[Literal["min", "max"], one_of("min", "max")]
Margin = Annotated[
    Any,
    expects(
        "a share of what training gains, such as 5%, or a difference of the metric",
        _is_margin,
        any_of(_ABOVE_0, SHARE),
    ),
]
Switch = Annotated[bool, expects("true or false", lambda value: isinstance(value, bool), {"type": "boolean"})]
Tested = Annotated[
    Any,
    expects(
        "true, false, best or last",
        lambda value: isinstance(value, bool) or value in ("best", "last"),
        {"enum": [True, False, "best", "last"]},
    ),
]
AutoSwitch = Annotated[
    Any,
    expects(
        "auto, true or false",
        lambda value: value == "auto" or isinstance(value, bool),
        {"enum": ["auto", True, False]},
    ),
]
Count = Annotated[int, whole(1)]
Steps = Annotated[
    int,
    expects(
        f"a whole number from 1 to {MOST_STEPS:,}, the most steps of a run",
        limits.whole(1, MOST_STEPS).holds,
        limits.whole(1, MOST_STEPS).json,
    ),
]
LogInterval = Annotated[
    int,
    expects(
        "a whole number from 1 to 100,000: so many rows are held in memory",
        limits.whole(1, 10**5).holds,
        limits.whole(1, 10**5).json,
    ),
]
CountOrShare = Annotated[
    Any,
    expects(
        "a whole number above 0, or a share above 0.0 and up to 1.0",
        lambda v: (is_whole(v) and v > 0) or (isinstance(v, float) and 0 < v <= 1),
        any_of(limits.whole(1).json, limits.number(0, 1, above=True).json),
    ),
]
CountOrNone = Annotated[int, whole(0)]
PartSize = Annotated[
    int, parsed_by(_part_size, any_of(limits.whole(0).json, limits.number(0, 1, below=True).json, SHARE))
]
Workers = Annotated[int, whole(0, limits.MOST_PROCESSES)]
Fraction = Annotated[float, number(0, 1)]
BelowOne = Annotated[float, number(0, 1, below=True)]
Positive = Annotated[float, number(0, above=True)]
NotNegative = Annotated[float, number(0)]
PeakLR = Annotated[float, number(0, 1000, above=True)]
Betas = Annotated[
    tuple[float, ...],
    expects(
        "two numbers (three where the optimizer has three), each at least 0 and below 1",
        _is_betas,
        array(limits.number(0, 1, below=True).json, 2, 3),
    ),
]
Eps = Annotated[
    Any,
    expects(
        "a number above 0", _is_eps, any_of(_ABOVE_0, array(any_of(limits.number(0).json, {"type": "null"}), 2, 2))
    ),
]
Time = Annotated[Duration, PlainValidator(_duration), Json(any_of(limits.number(0).json, _DURATION))]
Within = Annotated[Duration, PlainValidator(_within), Json(any_of(limits.number(0).json, _DURATION))]
"""A duration that is a part of the run; whether a schedule's fits into it is checked with the schedule."""

INTERVAL = any_of(_ABOVE_0, _DURATION)
"""JSON schema of a duration above 0."""

Interval = Annotated[Duration, PlainValidator(_interval), Json(INTERVAL)]
ClockTime = Annotated[
    str,
    expects(
        "a time with its unit, such as 2 hours, 30 min or 90 s",
        _is_clock_time,
        pattern(rf"[ ,]*(?:{_AMOUNT}\s*(?:{'|'.join(_CLOCK_UNITS)})s?[ ,]*)+", any_case=True),
    ),
]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Units = Annotated[
    tuple[float, float],
    expects(
        "a list of two numbers, a mean and a standard deviation above 0",
        lambda value: isinstance(value, list | tuple) and len(value) == 2 and limits.is_number(value[0])
        and between(value[1], 0, math.inf, True, False),
        array({"type": "number"}, 2, 2),
    ),
]  # fmt: skip
Shape = Annotated[
    list[int],
    expects(
        "a list of whole numbers above 0",
        lambda v: isinstance(v, list) and all(is_whole(n) and n > 0 for n in v),
        array(limits.whole(1).json),
    ),
]
Devices = Annotated[
    Any,
    expects(
        f"a whole number from 1 to {limits.MOST_PROCESSES}, a list of device numbers, or auto",
        _is_devices,
        any_of(limits.whole(1, limits.MOST_PROCESSES).json, array({"type": "integer"}, 1), {"const": "auto"}),
    ),
]
Strategy = Annotated[
    str,
    expects(
        "auto, ddp, fsdp or another strategy of Lightning's",
        lambda value: bool(_STRATEGY.fullmatch(str(value))),
        pattern(_STRATEGY.pattern),
    ),
]
FolderName = Annotated[
    str,
    expects(
        "a name for a folder of at most 200 bytes: letters, digits, spaces and . , _ - + = @",
        _is_folder_name,
        {**pattern(r"[^/\\:*?\"<>|]+"), "maxLength": _LONGEST_NAME},
    ),
]
FolderPath = Annotated[str, expects("a folder without `..` in its path", _stays_inside, _TEXT)]
GroupLR = Annotated[
    Any,
    expects(
        "a number above 0 (1e-4) or a multiple of the peak (10x)",
        lambda value: is_relative_lr(value) or between(value, 0, 1000, True, False),
        any_of(limits.number(0, 1000, above=True).json, pattern(_RELATIVE_LR, any_case=True)),
    ),
]
Texts = Annotated[Any, expects("text or a list of texts", _one_or_more(_is_text), any_of(_TEXT, array(_TEXT, 1)))]
Patterns = Annotated[Texts, BeforeValidator(_patterns)]
Numbers = Annotated[
    Any,
    expects(
        "a whole number or a list of them",
        _one_or_more(lambda value: is_whole(value) and value >= 0),
        any_of(limits.whole(0).json, array(limits.whole(0).json, 1)),
    ),
]


def _is_loss(value: Any) -> bool:
    return isinstance(value, str | Mapping)


def _is_metrics(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(given is None or isinstance(given, Mapping) for given in value.values())
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


Loss = Annotated[
    Any,
    expects(
        "the name of a loss, or a mapping of its name or _target_ and arguments",
        _is_loss,
        any_of({"enum": [*LOSSES]}, {"type": ["string", "object"]}),
    ),
]

_METRIC = any_of({"enum": [*SCORES]}, {"type": "string"})

Metrics = Annotated[
    Any,
    expects(
        "the name of a metric, a list of names, or a mapping of names to their arguments",
        _is_metrics,
        any_of(_METRIC, array(_METRIC), {"type": "object", "additionalProperties": {"type": ["object", "null"]}}),
    ),
]
