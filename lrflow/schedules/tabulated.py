"""A shape given by a table: multipliers at points of the run, listed in the config or read from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lrflow.errors import Problem, shortened
from lrflow.imports import np
from lrflow.redaction import redact_text
from lrflow.schedules._arguments import Arguments, count_steps
from lrflow.schedules.curve import Shape
from lrflow.schedules.time import Duration, DurationLike, Floats, Horizon, Phase

Point = tuple[Duration, float]

MOST_POINTS = 100_000  # of a table
MAX_REPORTED = 10  # lines of invalid rows that are listed; the others are only counted


@dataclass(frozen=True, init=False)
class Tabulated(Shape):
    """Multipliers at points of the run, from a CSV file or from a list.

    The first multiplier holds before the first point, the last one after the last point. The points are part of a plan,
    so a saved plan does not need the file.

    Args:
        points: a list of [step, multiplier]; the step is a duration from the start of the run and rises from point to
            point, the multiplier is a fraction of the peak from 0 to 1.
        file: a CSV file with rows `step,multiplier`, in place of the points. A header line, empty lines and lines that
            start with # are skipped.
        between: `linear`: straight lines between the points; `hold`: each multiplier until the next point.
    """

    may_stay_below: ClassVar[bool] = True

    points: tuple[Point, ...]
    between: str

    def __init__(
        self,
        points: Sequence[tuple[DurationLike, float]] | None = None,
        file: str | None = None,
        between: str = "linear",
    ) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "points", _points(args, points) if file is None else _rows(args, file))
        object.__setattr__(self, "between", args.choice("between", between, ("linear", "hold")))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return the multiplier of the last point before each step, or interpolate linearly to the next one."""
        at, values = self._at(phase.horizon), np.array([value for _, value in self.points])
        # With `hold`, a point at the end of the phase has no effect: it comes after the last step.
        stop = np.nextafter(phase.stop, phase.start) if self.between == "hold" else phase.stop
        step = np.clip(step, phase.start, stop)
        last = np.maximum(np.searchsorted(at, step, side="right") - 1, 0)
        if self.between == "hold":
            return values[last]
        following = np.minimum(last + 1, len(at) - 1)
        way = np.clip((step - at[last]) / np.maximum(at[following] - at[last], 1.0), 0.0, 1.0)
        return values[last] + (values[following] - values[last]) * way

    def _at(self, horizon: Horizon) -> Floats:
        """Return the steps of the points, which are counted once per horizon: a table may be long."""
        counted: tuple[Horizon, Floats] | None = self.__dict__.get("_counted")
        if counted is None or counted[0] != horizon:
            steps = np.array([point.steps(horizon) for point, _ in self.points], dtype=np.float64)
            object.__setattr__(self, "_counted", counted := (horizon, steps))
        return counted[1]

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the points at which a held multiplier changes."""
        if self.between == "linear":
            return ()
        values = [value for _, value in self.points]
        changed = np.flatnonzero(np.diff(values)) + 1
        steps = {int(step) for step in self._at(phase.horizon)[changed]}
        return tuple(sorted(step for step in steps if phase.start < step < phase.stop))

    def check(self, phase: Phase) -> list[Problem]:
        """Check that the points are in order, lie inside the run, and are above 0 inside the phase."""
        problems: list[Problem] = []
        previous = -1
        for i, (point, _) in enumerate(self.points):
            step = count_steps(point, phase.horizon, f"points[{i}]", problems)
            if step is None:
                return problems  # the other points have the same problem, or are in order
            if step > phase.horizon.steps:
                message = f"is step {step}, but the run has {phase.horizon.steps}"
                problems.append(Problem(f"points[{i}]", message, str(point)))
                return problems
            if step <= previous:
                message = f"is step {step}, not after the point before it"
                problems.append(Problem(f"points[{i}]", message, str(point)))
                return problems
            previous = step
        steps = np.clip(self._at(phase.horizon), phase.start, max(phase.stop - 1, phase.start))
        if self(steps, phase).max() == 0.0:
            message = f"are 0 from step {phase.start} to step {phase.stop}"
            problems.append(Problem("points", message, hint="the LR would never be above 0"))
        return problems


def _points(args: Arguments, given: Sequence[tuple[DurationLike, float]] | None) -> tuple[Point, ...]:
    """Return the given points; their problems are added to `args`."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        args.wrong("points", given, "expected a list of [step, multiplier], or a file", "like [[0, 1.0], [100%, 0.0]]")
        return ()
    if len(given) > MOST_POINTS:
        args.wrong("points", ..., _too_many(len(given)))
        return ()
    points = []
    for i, point in enumerate(given):
        if isinstance(point, str) or not isinstance(point, Sequence) or len(point) != 2:
            args.wrong(f"points[{i}]", point, "expected [step, multiplier]")
            continue
        at = args.duration(f"points[{i}][0]", point[0])
        points.append((at, args.number(f"points[{i}][1]", point[1], 0.0, 1.0)))
    return tuple(points)


def _rows(args: Arguments, file: str) -> tuple[Point, ...]:
    """Return the points of a CSV file; problems are added to `args` with file and line."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        args.wrong("file", file, f"cannot be read: {reason}")
        return ()
    if (lines := text.count("\n")) > 2 * MOST_POINTS:
        args.wrong("file", file, _too_many(lines))
        return ()
    points: list[Point] = []
    wrong: list[tuple[int, str, str]] = []
    header = True  # the next row may be a header
    for line, cells in enumerate(csv.reader(text.splitlines(), skipinitialspace=True), start=1):
        if not any(cells) or cells[0].startswith("#"):
            continue
        try:
            point = _point(cells)
            if points and point[0].unit == points[-1][0].unit and point[0].value <= points[-1][0].value:
                raise _CellError(cells[0], f"is not after the row before it, {points[-1][0]}")
            points.append(point)
        except _CellError as error:
            if not (header and len(cells) == 2 and not any(char.isdigit() for char in "".join(cells))):
                wrong.append((line, error.cell, str(error)))
        header = False
    if wrong:
        # Only one cell is shown: the file may be another one than the user meant, and hold secrets.
        (line, cell, message), *others = wrong
        args.wrong("file", cell, message, where=f"{file}:{line}")
        if others:
            numbers = ", ".join(str(number) for number, _, _ in others[:MAX_REPORTED])
            more = f" and {len(others) - MAX_REPORTED} more" if len(others) > MAX_REPORTED else ""
            args.wrong(
                "file", file, f"more rows are wrong, in {'line' if len(others) == 1 else 'lines'} {numbers}{more}"
            )
    if not points and not wrong:
        args.wrong("file", file, "has no rows of step, multiplier")
    if len(points) > MOST_POINTS:
        args.wrong("file", file, _too_many(len(points)))
    return tuple(points)


class _CellError(ValueError):
    """Raised for a row that is no point.

    Args:
        cell: the wrong cell.
        message: what is wrong with it.
    """

    def __init__(self, cell: str, message: str) -> None:
        self.cell = shortened(redact_text(cell))
        super().__init__(message)


def _too_many(count: int) -> str:
    return f"a table has at most {MOST_POINTS:,} points, not {count:,}"


def _point(cells: Sequence[str]) -> Point:
    """Return the point of a CSV row.

    Raises:
        _CellError: the row is no point; the message says why.
    """
    if len(cells) != 2:
        raise _CellError(cells[0], f"expected two cells, step and multiplier, not {len(cells)}")
    try:
        at = Duration.parse(cells[0])
    except ValueError as error:
        raise _CellError(cells[0], str(error).removeprefix(f"{cells[0]!r} ")) from None
    try:
        value = float(cells[1])
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:  # written so that NaN fails
        raise _CellError(cells[1], "the multiplier is not a number from 0 to 1")
    return at, value
