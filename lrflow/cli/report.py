"""How the command line says what is wrong: one screen, no traceback."""

from __future__ import annotations

import linecache
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from lrflow.config.secrets import is_secret_name, redact_text, MASK
from lrflow.errors import ConfigError, Problem

_LONGEST = 72


def console(stderr: bool = False) -> Console:
    """Where to print: with colours on a terminal, plain text elsewhere."""
    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=False)


def debugging() -> bool:
    """Whether the user asks for tracebacks, LRFLOW_DEBUG=1."""
    return os.environ.get("LRFLOW_DEBUG", "") not in ("", "0")


def show_problems(problems: Sequence[Problem], ending: str = "Nothing was run.") -> None:
    """Prints the problems of a config."""
    out = console(stderr=True)
    out.print(_title(f"{_count(problems)} in this config"))
    for problem in problems:
        out.print(_told(problem))
    out.print()
    out.print(Text(f"{ending} --help lists groups and options, --cfg job shows the whole config.", "dim"))


def show_sweep_problems(found: Mapping[tuple[int, ...], Sequence[Problem]], jobs: Sequence[str]) -> None:
    """Prints the problems of a sweep.

    Args:
        found: problems by the jobs that have them; one that all jobs have is listed under all of them.
        jobs: the overrides of each job.
    """
    out = console(stderr=True)
    total = [problem for problems in found.values() for problem in problems]
    out.print(_title(f"{_count(total)} in this sweep of {len(jobs)} jobs"))
    for numbers, problems in found.items():
        out.print()
        if len(numbers) == len(jobs):
            out.print(Text("in every job", "bold"))
        else:
            for number in numbers:
                out.print(Text.assemble((f"job {number}", "bold"), f"  {redact_text(jobs[number])}"))
        for problem in problems:
            out.print(_told(problem))
    out.print()
    out.print(Text("No job was started.", "dim"))


def show_failure(error: BaseException) -> None:
    """Prints why a run failed: a failure of lrflow's as its message, any other with the user's own lines of code."""
    out = console(stderr=True)
    if debugging():
        out.print(Text(redact_text("".join(traceback.format_exception(error)))), soft_wrap=True)
        return
    if isinstance(error, ConfigError):
        show_problems(error.problems, "The run has ended.")
        return
    from lrflow.errors import LrflowError

    if isinstance(error, LrflowError):
        out.print(_title(redact_text(str(error))))
        return
    last = "".join(traceback.format_exception_only(error)).strip()
    out.print(_title(f"the run failed: {redact_text(last)}"))
    for frame in users_frames(error):
        place = Text.assemble(("  in ", "dim"), f"{_short(Path(frame.filename))}:{frame.lineno}", ("  ", "dim"), (frame.name, "dim"))
        out.print(place)
        if line := linecache.getline(frame.filename, frame.lineno or 0).strip():
            out.print(Padding(Text(line, "cyan"), (0, 0, 0, 6)))
    out.print(Text("This is a bug or a problem in your code: LRFLOW_DEBUG=1 shows the traceback.", "dim"))


def users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of a traceback that are neither Python's, nor an installed package's, nor lrflow's own."""
    import lrflow

    others = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sys.prefix, *site.getsitepackages()}
    places = [Path(place).resolve() for place in others if place] + [Path(lrflow.__file__).resolve().parent]

    def is_users(frame: traceback.FrameSummary) -> bool:
        path = Path(frame.filename)
        return path.is_file() and not any(path.resolve().is_relative_to(place) for place in places)

    return [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame)]


def _title(text: str) -> Text:
    return Text.assemble(("lrflow", "bold red"), ": ", (text, "bold"))


def _count(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"


def _told(problem: Problem) -> RenderableType:
    head = Text("\n")
    head.append(problem.key, "bold yellow")
    if problem.value is not ...:
        head.append(f" = {_value(problem)}", "yellow")
    body = [Text(redact_text(problem.message))]
    if problem.hint:
        body.append(Text(redact_text(problem.hint), "green"))
    if problem.where:
        body.append(Text(problem.where, "dim"))
    return Group(Padding(head, (0, 0, 0, 2)), Padding(Group(*body), (0, 0, 0, 6)))


def _value(problem: Problem) -> str:
    """A value as YAML would have it, on one line."""
    if is_secret_name(problem.key):
        return MASK
    text = redact_text(_yaml(problem.value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value) if str(value).strip() else repr(value)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
