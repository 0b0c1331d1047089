"""Shapes made of others, in sequence or multiplied, and a user's function as a shape."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

from lrflow.errors import ConfigError, Problem
from lrflow.imports import np
from lrflow.schedules._arguments import Arguments, count_steps, prefix_keys
from lrflow.schedules.curve import Curve, Shape
from lrflow.schedules.time import LATER, Duration, DurationLike, Floats, Phase


@dataclass(frozen=True, init=False)
class Piece:
    """A shape over a part of the run, between two fractions of the peak.

    Args:
        shape: any shape.
        duration: the length of the piece; None: to the end of the phase.
        start: fraction of the peak at which the shape is 1, from 0 to 1 or in percent.
        end: fraction of the peak at which the shape is 0, if it ends at 0; above `start`, the piece rises. Any other
            shape is clipped at `end`, as at a schedule's floor.
        clock: what `step`, `multistep` and `tabulated` inside it count from: `run`: the start of the run; `piece`: the
            start of the piece, of which a percentage is then a share.

    Raises:
        ConfigError: lists every argument that is wrong.
    """

    key: ClassVar[str] = "piece"

    shape: Shape
    duration: Duration | None
    start: float
    end: float
    clock: str = field(default="run", metadata=LATER)

    def __init__(
        self,
        shape: Shape,
        duration: DurationLike | None = None,
        start: float | str = 1.0,
        end: float | str = 0.0,
        clock: str = "run",
    ) -> None:
        args = Arguments(self.key)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "duration", None if duration is None else args.duration("duration", duration))
        object.__setattr__(self, "start", args.share("start", start))
        object.__setattr__(self, "end", args.share("end", end))
        object.__setattr__(self, "clock", args.choice("clock", clock, ("run", "piece")))
        if not isinstance(shape, Shape):
            args.wrong("shape", shape, "expected a shape", "like lrflow.schedules.Cosine")
        elif not shape.lands and self.end > self.start:
            args.wrong("end", end, f"is above start: only a shape that ends at 0 rises, not {type(shape).__name__}")
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return the multipliers at these steps; the piece fills `phase`."""
        values = self.shape(step - self._offset(phase), self._own(phase))
        if self.shape.lands:
            return self.end + (self.start - self.end) * values
        return np.maximum(self.start * values, self.end)

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the steps at which the shape jumps inside `phase`."""
        return tuple(step + self._offset(phase) for step in self.shape.jumps(self._own(phase)))

    def check(self, phase: Phase) -> list[Problem]:
        """Return the problems that the shape has with `phase`."""
        return prefix_keys("shape", self.shape.check(self._own(phase)))

    def _offset(self, phase: Phase) -> int:
        return phase.start if self.clock == "piece" else 0

    def _own(self, phase: Phase) -> Phase:
        """Return the phase as the shape counts it: with a clock of its own it is a run of the piece's length."""
        if self.clock == "run":
            return phase
        return Phase(0, phase.steps, phase.horizon.part(phase.start, max(phase.steps, 1)))


MOST_PIECES = 1000


@dataclass(frozen=True, init=False)
class Piecewise(Shape):
    """Shapes one after the other, each over its own part of the phase.

    Args:
        pieces: at least one `Piece`, or its arguments as a mapping. Only the last may omit its duration; after the end
            of the last one its last value stays.
    """

    may_stay_below: ClassVar[bool] = True

    pieces: tuple[Piece, ...]

    def __init__(self, pieces: Sequence[Piece | Mapping[str, Any]]) -> None:
        args = Arguments(self.key)
        if isinstance(pieces, str | Mapping) or not isinstance(pieces, Sequence) or not pieces:
            args.wrong("pieces", pieces, "expected a list with at least one piece", "like {duration: 10%, shape: ...}")
            args.finish()
        if len(pieces) > MOST_PIECES:
            args.wrong("pieces", ..., f"are {len(pieces):,}, of which {MOST_PIECES:,} are possible")
            args.finish()
        read = [_piece(args, f"pieces[{i}]", piece) for i, piece in enumerate(pieces)]
        known = [piece for piece in read if piece is not None]
        for i, piece in enumerate(read[:-1]):
            if piece is not None and piece.duration is None:
                args.wrong(f"pieces[{i}].duration", None, "only the last piece may last to the end")
        if not args.problems and max(max(piece.start, piece.end) for piece in known) == 0.0:
            args.wrong("pieces", ..., "no piece starts or ends above 0")
        object.__setattr__(self, "pieces", tuple(known))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return the multipliers, each piece's from its first step on."""
        (first, stretch), *rest = self._stretches(phase)
        values = first(step, stretch)
        for piece, stretch in rest:
            values = np.where(step >= stretch.start, piece(step, stretch), values)
        return values

    def _stretches(self, phase: Phase) -> list[tuple[Piece, Phase]]:
        """Return the pieces that have a step inside the phase, each with the phase that it fills."""
        found = []
        start = phase.start
        for piece in self.pieces:
            steps = phase.steps if piece.duration is None else piece.duration.steps(phase.horizon, start)
            stop = min(start + steps, phase.stop)
            if stop > start:
                found.append((piece, Phase(start, stop, phase.horizon)))
            start = stop
        return found or [(self.pieces[0], replace(phase, stop=phase.start))]

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the jumps of the pieces, and the starts of pieces that do not continue the one before."""
        stretches = self._stretches(phase)
        found = {step for piece, stretch in stretches for step in piece.jumps(stretch)}
        for (before, old), (after, new) in pairwise(stretches):
            seam = np.array([new.start], dtype=np.float64)
            if not np.isclose(before(seam, old), after(seam, new), rtol=1e-9, atol=1e-12)[0]:
                found.add(new.start)
        return tuple(sorted(found))

    def check(self, phase: Phase) -> list[Problem]:
        """Check that each piece has a step and ends inside the phase, and that its shape fits into it."""
        problems: list[Problem] = []
        start = phase.start
        for i, piece in enumerate(self.pieces):
            name, text = f"pieces[{i}]", str(piece.duration)
            steps: int | None = phase.stop - start
            if piece.duration is not None:
                steps = count_steps(piece.duration, phase.horizon, f"{name}.duration", problems)
            if steps is None:  # the starts of the next pieces are then unknown too
                break
            if start >= phase.stop:
                problems.append(Problem(name, f"would start at step {start}, but the shape ends at {phase.stop}"))
                break
            if steps == 0:
                problems.append(Problem(f"{name}.duration", "is shorter than one step", text))
            elif start + steps > phase.stop:
                message = f"ends at step {start + steps}, but the shape ends at {phase.stop}"
                hint = "omit the last duration: the piece then fills the rest" if piece is self.pieces[-1] else None
                problems.append(Problem(f"{name}.duration", message, text, hint))
            else:
                stretch = Phase(start, start + steps, phase.horizon)
                problems += prefix_keys(name, piece.check(stretch))
            start += steps
        return problems


def _piece(problems: Arguments, name: str, given: Any) -> Piece | None:
    """Return the given piece, or None after adding its problems under its name."""
    if isinstance(given, Piece):
        return given
    known = list(inspect.signature(Piece).parameters)
    if not isinstance(given, Mapping):
        problems.wrong(name, given, f"expected a mapping of {', '.join(known)}")
        return None
    unknown = [key for key in given if key not in known]
    for key in unknown:
        problems.unknown(f"{name}.{key}", given[key], "a piece takes no such argument", known)
    try:
        return Piece(**{"shape": None, **{key: value for key, value in given.items() if key in known}})
    except ConfigError as error:
        for problem in error.problems:
            problems.wrong(name + problem.key.removeprefix(Piece.key), problem.value, problem.message, problem.hint)
        return None


@dataclass(frozen=True, init=False)
class Product(Shape):
    """The product of several curves, each over the whole phase.

    Args:
        of: at least two shapes, or schedules, which count from the start of the run and have a warmup and a cooldown of
            their own.
    """

    may_stay_below: ClassVar[bool] = True

    of: tuple[Shape | Curve, ...]
    lands: bool = field(init=False, repr=False, compare=False)  # type: ignore[misc]  # of the class elsewhere

    def __init__(self, of: Sequence[Shape | Curve]) -> None:
        args = Arguments(self.key)
        if isinstance(of, str | Mapping) or not isinstance(of, Sequence) or not 2 <= len(of) <= MOST_PIECES:
            args.wrong("of", of, "expected a list of at least two shapes", "like [{_target_: lrflow.schedules.Cosine}]")
            args.finish()
        for i, factor in enumerate(of):
            if isinstance(factor, Curve) and (factor.split_settings()[1] or factor.of_peak(1.0) != factor):
                args.wrong(f"of[{i}]", ..., "a factor has no `also` and no levels given as an LR")
            elif isinstance(factor, Curve) and factor.highest > 1:
                args.wrong(f"of[{i}].warmup_start", ..., "expected a number from 0 to 1: no factor is above 1")
            elif not isinstance(factor, Shape | Curve):
                args.wrong(f"of[{i}]", factor, "expected a shape or a schedule", "like lrflow.schedules.Cosine")
        object.__setattr__(self, "of", tuple(of))
        object.__setattr__(self, "lands", any(isinstance(one, Shape) and one.lands for one in of))
        args.finish()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return the product of the multipliers of all factors."""
        values = np.ones_like(step)
        for one in self.of:
            values = values * (one(step, phase) if isinstance(one, Shape) else one(step, phase.horizon))
        return values

    def jumps(self, phase: Phase) -> tuple[int, ...]:
        """Return the jumps of all factors inside the phase."""
        found: set[int] = set()
        for one in self.of:
            found.update(one.jumps(phase) if isinstance(one, Shape) else one.jumps(phase.horizon))
        return tuple(sorted(step for step in found if phase.start < step < phase.stop))

    def check(self, phase: Phase) -> list[Problem]:
        """Return the problems of all factors."""
        problems = []
        for i, one in enumerate(self.of):
            if isinstance(one, Shape):
                problems += prefix_keys(f"of[{i}]", one.check(phase))
            else:
                problems += one.check(phase.horizon, f"of[{i}]")
        return problems


@dataclass(frozen=True)
class Function(Shape):
    """A function from the elapsed share of the phase to the multiplier, `def decay(progress: float) -> float`.

    It is called with one number at a time, from 0 at the phase's start to 1 at its end.

    Args:
        function: a function that its dotted name imports; a saved plan holds this name.
        arguments: its further arguments, by name.
    """

    function: Callable[..., float]
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, step: Floats, phase: Phase) -> Floats:
        """Return the function's value at each share."""
        arguments = dict(self.arguments)
        shares = phase.progress(step)
        return np.array([self.function(share, **arguments) for share in shares.tolist()], dtype=np.float64)

    def check(self, phase: Phase) -> list[Problem]:
        """Check that the function returns a multiplier at the start, the middle and the end."""
        for share in (0.0, 0.5, 1.0):
            try:
                value = float(self.function(share, **dict(self.arguments)))
            except Exception as error:  # user code may raise anything
                message = f"{self.function.__name__}({share:g}) fails: {type(error).__name__}: {error}"
                return [Problem("", message)]
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                return [Problem("", f"{self.function.__name__}({share:g}) is {value:g}, not a multiplier from 0 to 1")]
        return []

    def spec(self) -> dict[str, Any]:
        """Return the spec of the function, as in a config."""
        return {"_target_": f"{self.function.__module__}.{self.function.__qualname__}", **dict(self.arguments)}


def shape_factory(function: Callable[..., float]) -> Callable[..., Function]:
    """Return a callable that makes a shape from the function's arguments without the first one, the share."""

    def make(**arguments: Any) -> Function:
        held = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
        return Function(function, tuple(held.items()))

    signature = inspect.signature(function)
    make.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    make.__name__ = function.__name__
    return make
