"""Numbers, counts, names and durations as text for people; imported by what must start fast."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence


def number(value: float) -> str:
    """Return a learning rate as text of at most eight characters: 0.003, 2.85e-05, 0."""
    return f"{value:.3g}"


def counted(count: int | str, noun: str) -> str:
    """Return a count with its noun: `1 group`, `1,200 steps`, `2 batches`; a count as text stays: `2.5 epochs`."""
    shown = count if isinstance(count, str) else f"{count:,}"
    ending = "es" if noun.endswith(("tch", "sh", "s", "x")) else "s"
    return f"{shown} {noun}{'' if shown == '1' else ending}"


def duration(seconds: float) -> str:
    """Return a duration as text: `4.2 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    units = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
    unit, size, smaller, length = next(one for one in units if whole >= one[1])
    rest = whole % size // length
    return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")


def joined(names: Sequence[str], count: int = 4) -> str:
    """Return the names joined by commas; of more than `count`, the first ones and the number of the others."""
    if len(names) <= count:
        return ", ".join(names)
    return f"{', '.join(names[: count - 1])} and {len(names) - count + 1} more"


def short_names(keys: Sequence[str], others: Iterable[str] = ()) -> list[str]:
    """Return the shortest endings of dotted keys that differ from each other and from `others`."""
    ends = [[".".join(key.split(".")[-count:]) for count in range(1, key.count(".") + 2)] for key in keys]
    taken = Counter(end for each in ends for end in each) + Counter(others)
    return [next((end for end in each if taken[end] == 1), each[-1]) for each in ends]


def shape_text(shape: Iterable[int]) -> str:
    """Return the shape of a tensor as text: `3x3x64`, or `scalar`."""
    return "x".join(map(str, shape)) or "scalar"


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """Return values from 0 to their largest as a line of bars, one character each; 0 and NaN are the lowest."""
    top = max((value for value in values if math.isfinite(value)), default=0.0)
    shares = [value / top if top > 0 and 0 < value <= top else 0.0 for value in values]
    return "".join(_BARS[min(int(share * len(_BARS)), len(_BARS) - 1)] for share in shares)
