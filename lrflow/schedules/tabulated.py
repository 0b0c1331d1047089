"""A shape that is read off a table: points of the run, and the multiplier at each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrflow.errors import Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Fields, length
from lrflow.schedules.base import Shape
from lrflow.schedules.time import Duration, DurationLike, Floats, Horizon, Phase

Point = tuple[Duration, float]

TOLD = 10  # wrong rows of a file that are told; of thousands, nobody reads the others


@dataclass(frozen=True, init=False)
class Tabulated(Shape):
    """Points on the run's clock and the multiplier at each, from a CSV file or given here.

    Before the first point its multiplier holds, after the last one that one's. The points are part of a plan, which so
    outlives the file.

    Args:
        points: [step, multiplier] each; the step is a duration from the start of the run, rising from point to point,
            the multiplier a fraction of the peak from 0 to 1.
        file: a CSV file of such rows (`step,multiplier`), in place of the points. A first line of headings, empty
            lines and those that start with # are passed over.
        between: `linear`: straight lines from point to point; `hold`: each multiplier until the next point.
    """

    points: tuple[Point, ...]
    between: str

    def __init__(
        self,
        points: Sequence[tuple[DurationLike, float]] | None = None,
        file: str | None = None,
        between: str = "linear",
    ) -> None:
        fields = Fields(self.key)
        object.__setattr__(self, "points", _points(fields, points) if file is None else _rows(fields, file))
        object.__setattr__(self, "between", fields.choice("between", between, ("linear", "hold")))
        fields.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """The multiplier of the last point, or on the line from there to the next one."""
        at, values = self._at(phase.horizon), np.array([value for _, value in self.points])
        # Held to the end: what the table says of the phase's end itself comes after its last step.
        stop = np.nextafter(phase.stop, phase.start) if self.between == "hold" else phase.stop
        step = np.clip(step, phase.start, stop)
        last = np.maximum(np.searchsorted(at, step, side="right") - 1, 0)
        if self.between == "hold":
            return values[last]
        following = np.minimum(last + 1, len(at) - 1)
        way = np.clip((step - at[last]) / np.maximum(at[following] - at[last], 1.0), 0.0, 1.0)
        return values[last] + (values[following] - values[last]) * way

    def _at(self, horizon: Horizon) -> Floats:
        """The steps of the points."""
        return np.array([point.steps(horizon) for point, _ in self.points], dtype=np.float64)

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """The points at which a held multiplier changes."""
        if self.between == "linear":
            return ()
        values = [value for _, value in self.points]
        changed = np.flatnonzero(np.diff(values)) + 1
        steps = {int(step) for step in self._at(phase.horizon)[changed]}
        return tuple(sorted(step for step in steps if phase.start < step < phase.stop))

    def check(self, phase: Phase) -> list[Problem]:
        """The points must rise, inside the run, and come to the peak inside the phase."""
        problems: list[Problem] = []
        previous = -1
        for i, (point, _) in enumerate(self.points):
            step = length(point, phase.horizon, f"points[{i}]", problems)
            if step is None:
                return problems  # the others cannot be told either, or are in order
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
        if (highest := self(steps, phase).max()) < 1.0:
            message = f"come to {highest:g} of the peak at most, from step {phase.start} to step {phase.stop}"
            problems.append(Problem("points", message, hint="the peak LR would never be reached"))
        return problems


def _points(fields: Fields, given: Sequence[tuple[DurationLike, float]] | None) -> tuple[Point, ...]:
    """The points as they are given, and their problems noted."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        fields.wrong(
            "points", given, "expected a list of [step, multiplier], or a file", "like [[0, 1.0], [100%, 0.0]]"
        )
        return ()
    points = []
    for i, point in enumerate(given):
        if isinstance(point, str) or not isinstance(point, Sequence) or len(point) != 2:
            fields.wrong(f"points[{i}]", point, "expected [step, multiplier]")
            continue
        at = fields.duration(f"points[{i}][0]", point[0])
        points.append((at, fields.number(f"points[{i}][1]", point[1], 0.0, 1.0)))
    return tuple(points)


def _rows(fields: Fields, file: str) -> tuple[Point, ...]:
    """The points of a CSV file, and their problems noted with the line they stand on."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fields.wrong("file", file, f"cannot be read: {reason}")
        return ()
    points: list[Point] = []
    wrong: list[tuple[int, object, str]] = []
    headings = True  # may still come
    for line, cells in enumerate(csv.reader(text.splitlines(), skipinitialspace=True), start=1):
        if not any(cells) or cells[0].startswith("#"):
            continue
        try:
            point = _point(cells)
            if points and point[0].unit == points[-1][0].unit and point[0].value <= points[-1][0].value:
                raise ValueError(f"is not after the row before it, {points[-1][0]}")
            points.append(point)
        except ValueError as error:
            if not (headings and len(cells) == 2 and not any(char.isdigit() for char in "".join(cells))):
                wrong.append((line, ",".join(cells), str(error)))
        headings = False
    for line, row, message in wrong[:TOLD]:
        fields.wrong("file", row, message, where=f"{file}:{line}")
    if len(wrong) > TOLD:
        fields.wrong("file", file, f"{len(wrong) - TOLD} more of its rows are wrong")
    if not points and not wrong:
        fields.wrong("file", file, "has no rows of step, multiplier")
    return tuple(points)


def _point(cells: Sequence[str]) -> Point:
    """A row of a CSV file.

    Raises:
        ValueError: it is no point; the message says why.
    """
    if len(cells) != 2:
        raise ValueError(f"expected two cells, step and multiplier, not {len(cells)}")
    at = Duration.parse(cells[0])
    try:
        value = float(cells[1])
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:  # said so that NaN fails
        raise ValueError(f"the multiplier {cells[1]} is not a number from 0 to 1")
    return at, value
