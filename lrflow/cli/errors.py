"""Error screens of the command line: problems of a config or a sweep, and failures of a run."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from lrflow.config.failures import place_in_model, users_frames
from lrflow.display import QuietConsole
from lrflow.errors import ConfigError, LrflowError, Problem, written
from lrflow.redaction import MASK, is_secret_name, redact, redact_text
from lrflow.wording import counted

_LONGEST = 60


class SweepError(ConfigError):
    """Raised when jobs of a sweep have invalid configs.

    Args:
        found: problems by the numbers of the jobs that have them.
        jobs: overrides of each job as typed.
    """

    def __init__(self, found: Mapping[tuple[int, ...], Sequence[Problem]], jobs: Sequence[str]) -> None:
        super().__init__(problem for problems in found.values() for problem in problems)
        self.found = found
        self.jobs = jobs


def console(stderr: bool = False) -> Console:
    """Return a console that prints with colours on a terminal and plain text elsewhere."""
    return QuietConsole(stderr=stderr, highlight=False, markup=False)


def debugging() -> bool:
    """Return whether the user has set LRFLOW_DEBUG=1 to see tracebacks."""
    return os.environ.get("LRFLOW_DEBUG", "") not in ("", "0")


def show_problems(error: ConfigError, undone: str = "Nothing was run.") -> None:
    """Print the problems of a config or a sweep on stderr, followed by `undone`."""
    out = console(stderr=True)
    count = counted(len(error.problems), "problem")
    if isinstance(error, SweepError):
        out.print(_title(f"{count} in this sweep of {counted(len(error.jobs), 'job')}"))
        for numbers, problems in error.found.items():
            out.print(_jobs(numbers, error.jobs))
            out.print(*(_format(problem, out.width) for problem in problems), sep="\n", soft_wrap=True)
        out.print(Text("\nNo job was started.", "dim"))
        return
    out.print(_title(count))
    out.print(*(_format(problem, out.width) for problem in error.problems), sep="\n", soft_wrap=True)
    out.print(Text(f"\n{undone} See --help for the options and --cfg job for the whole config.", "dim"))


def show_failure(error: BaseException, undone: str = "Nothing was run.") -> None:
    """Print on stderr why a run failed: lrflow's message, or any other exception with the user's lines of code."""
    out = console(stderr=True)
    if debugging():
        print(redact_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    elif isinstance(error, ConfigError):
        show_problems(error, undone)
    elif isinstance(error, LrflowError):
        out.print(_title(redact_text(str(error))), soft_wrap=True)
    else:
        last = "".join(traceback.format_exception_only(error)).strip()
        out.print(_title(redact_text(last)))
        frames = users_frames(error)
        for frame in frames:
            out.print(Text.assemble("  ", (f"{_short(frame.filename)}:{frame.lineno}", "bold"), f" in {frame.name}"))
            if line := linecache.getline(frame.filename, frame.lineno or 0).strip():
                out.print(Text(f"      {line}", "cyan"))
        if where := place_in_model(error):
            out.print(Text(f"  {redact_text(where)}"))
        out.print(Text(_IN_USERS_CODE if frames else _nowhere(error), "dim"))


_IN_USERS_CODE = "This is a bug or a problem in your code: LRFLOW_DEBUG=1 shows the traceback."


def _nowhere(error: BaseException) -> str:
    """Return the advice on an exception that passed through no code of the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f", raised at {_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return (
        f"No code of yours is involved{place}. If no setting explains it, it is a bug of lrflow: please report it with "
        "the traceback, which LRFLOW_DEBUG=1 shows."
    )


def _title(text: str) -> Text:
    return Text.assemble(("lrflow", "bold red"), ": ", (_writable(text), "bold"))


def _writable(text: str) -> str:
    """Return a text with bytes that are no text, such as those of a file's name, written as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _jobs(numbers: Iterable[int], jobs: Sequence[str]) -> Text:
    """Return a heading with the jobs that have the following problems."""
    numbers = list(numbers)
    if len(numbers) == len(jobs):
        return Text("\nin every job", "bold")
    lines = [Text.assemble((f"job {number}", "bold"), f"  {redact_text(jobs[number])}") for number in numbers[:4]]
    if len(numbers) > 4:
        lines.append(Text(f"and {len(numbers) - 4} more: jobs {', '.join(map(str, numbers[4:]))}"))
    return Text("\n").append(Text("\n").join(lines))


def _format(problem: Problem, width: int) -> Text:
    """Return a problem on a few lines: key and value, message, hint, file and line."""
    text = Text.assemble("\n  ", (_writable(redact_text(problem.key)), "bold"))
    if problem.value is not ...:
        text.append(f" = {_writable(_value(problem))}")
    for line, style in ((problem.message, ""), (problem.hint, "green"), (problem.where, "dim")):
        for paragraph in _writable(redact_text(line)).splitlines() if line else ():
            for part in _wrapped(paragraph, max(20, width - 6)):
                text.append("\n      ").append(part, style)
    return text


def _wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a paragraph, in which no command and no quoted value is broken, so that it can be copied."""
    if len(text) <= width:
        return [text]
    lines = []
    for piece in _COMMAND.split(text):
        if _COMMAND.fullmatch(piece):
            lines.append(piece)
            continue
        whole = _QUOTED.sub(lambda found: found[0].replace(" ", "\0"), piece.strip(" ,;"))
        lines += [
            line.replace("\0", " ") for line in wrap(whole, width, break_long_words=False, break_on_hyphens=False)
        ]
    return lines


_COMMAND = re.compile(r"\b((?:python -m |pip install )(?:'[^']*'|[^';,]|[;,](?! ))+)")
"""A command, up to the end of the sentence or of its part."""

_QUOTED = re.compile(r"(?:(?<![\w'])[\w.+~/@]*=|(?<![\w=']))'[^']*'(?!\w)")
"""A value in quotes, with its key."""


def _value(problem: Problem) -> str:
    """Return a value as it is typed on a command line, shortened to one line."""
    if is_secret_name(problem.key, problem.value):
        return MASK
    text = " ".join(redact_text(written(problem.value, lambda value: _as_typed(redact(value)))).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _as_typed(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_as_typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_as_typed, value)) + "]"
    return str(value) if str(value).strip() else repr(value)


def _short(path: str) -> str:
    found = Path(path)
    return str(found.relative_to(Path.cwd())) if found.is_relative_to(Path.cwd()) else path
