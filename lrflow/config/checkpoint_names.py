"""Names of the best checkpoints: patterns with metrics in them, such as `{epoch:03d}-{val/accuracy:.3f}`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Formatter

from lrflow.errors import Problem
from lrflow.runs import BEST, SUFFIX, is_reserved
from lrflow.schedules import Duration

COUNTERS = ("epoch", "step")
"""Fields of a name that are no metrics: the epoch, from 0, and the number of optimizer steps."""

DEFAULT = "best-{step:07d}"
"""Name of the best checkpoints, if more than one is kept and the config names none."""

_EXAMPLE = "such as {epoch:03d}-{val/accuracy:.3f}"
_FORMATS = {True: re.compile(r"(0\d{1,2})?d?"), False: re.compile(r"(0\d{1,2})?(\.\d{1,2})?[efgEFG]?")}
_UNSAFE = re.compile(r"[^\w.+=,@-]")
_LONGEST = 200  # bytes, of the 255 that most disks allow


@dataclass(frozen=True)
class NamePattern:
    """A pattern of file names: text, and fields for the epoch, the step and metrics, with Python's formats of numbers.

    Args:
        parts: each piece of text, with the field after it and its format; None: no field follows.
    """

    parts: tuple[tuple[str, str | None, str], ...]

    @classmethod
    def parse(cls, text: object) -> NamePattern:
        """Return the pattern that a config gives.

        Raises:
            ValueError: it cannot be read, or its names would be no safe names for files; the message says what was
                expected.
        """
        if isinstance(text, Mapping):  # of the command line without quotes
            raise ValueError("expected text: put it in quotes, such as 'trainer.checkpoint.name=\"{epoch:03d}\"'")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"expected a file name with fields in braces, {_EXAMPLE}")
        try:
            parts = [(before, name, spec or "", how) for before, name, spec, how in Formatter().parse(text)]
        except ValueError as error:
            raise ValueError(f"expected fields in braces, {_EXAMPLE}: {error}") from None
        for before, name, spec, how in parts:
            if unsafe := _UNSAFE.search(before):
                found = f"{unsafe.group()!r} is not safe in the name of a file"
                raise ValueError(f"expected letters, digits and . , _ - + = @ around the fields: {found}")
            if name == "" or how:
                raise ValueError(f"expected the name of a metric, epoch or step in each pair of braces, {_EXAMPLE}")
            if name is not None and not _FORMATS[name in COUNTERS].fullmatch(spec):
                fits = "a width, such as 03d" if name in COUNTERS else "digits after the point, such as .3f"
                raise ValueError(f"expected as the format of {name} {fits}, got {spec}")
        pattern = cls(tuple((before, name, spec) for before, name, spec, _ in parts))
        name = pattern.format(dict.fromkeys(pattern.fields, 0))
        if name.endswith(SUFFIX):
            raise ValueError(f"expected a name without {SUFFIX}, which is added")
        if name.startswith(("-", ".")):
            raise ValueError(f"expected a name that does not begin with {name[0]}")
        if is_reserved(f"{name}{SUFFIX}"):
            raise ValueError(f"expected another name: {BEST}, step-* and merged-* are names of other checkpoints")
        if len(name.encode()) > _LONGEST:
            raise ValueError(f"expected a name of at most {_LONGEST} bytes")
        return pattern

    @property
    def fields(self) -> list[str]:
        """The names of the fields, in order."""
        return [name for _, name, _ in self.parts if name is not None]

    def format(self, values: Mapping[str, float]) -> str:
        """Return the name for the values of all fields, without the suffix."""
        return "".join(
            before + ("" if name is None else format(int(values[name]) if name in COUNTERS else values[name], spec))
            for before, name, spec in self.parts
        )


def check_names(monitor: str | None, best: int, name: str | None, val_every: Duration) -> Iterator[Problem]:
    """Yield a problem for settings of the best checkpoints that contradict each other.

    Args:
        monitor: `trainer.checkpoint.monitor`.
        best: `trainer.checkpoint.best`.
        name: `trainer.checkpoint.name`, a pattern that can be read.
        val_every: `trainer.val_every`.
    """
    if monitor is None:
        for key, value in (("best", best if best > 1 else None), ("name", name)):
            if value is not None:
                message = "trainer.checkpoint.monitor, which chooses the best, is null"
                yield Problem(f"trainer.checkpoint.{key}", message, value, "trainer.checkpoint.monitor=val/loss")
    if name is None or best == 1:
        return
    fields = NamePattern.parse(name).fields
    if "step" not in fields and not ("epoch" in fields and val_every.whole_epochs):
        why = "an epoch has several validations" if "epoch" in fields else "metrics may be equal"
        message = f"several of the {best} best could have the same name: {why}"
        yield Problem("trainer.checkpoint.name", message, name, f"such as {name}-{{step}}")
