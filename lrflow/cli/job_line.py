"""The line that a job of a grid prints if it trains; the rest of its output is in its folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrflow.display import QuietConsole
from lrflow.outcome import Outcome
from lrflow.output import redacted_stream

SHOWN = 2
"""Number of metrics in a line."""


class JobLine:
    """Prints one line for a job: its number and overrides when it starts, how it went when it ends.

    Args:
        number: of the job.
        label: its overrides.
        monitor: the metric that the job watches, which comes first.
        alone: no other job prints at the same time; otherwise the whole line is printed at the end.
    """

    def __init__(self, number: int, label: str, monitor: str | None, alone: bool) -> None:
        self._head, self._monitor, self._alone = f"job {number}  {label}", monitor, alone
        self._out = QuietConsole(file=sys.stdout, highlight=False, markup=False)  # jobs redirect `sys.stdout`
        self._is_open = False

    @contextlib.contextmanager
    def output_to(self, path: Path) -> Iterator[None]:
        """Print the start of the line, and redirect stdout to a file within the block; stderr goes there too."""
        if self._alone:
            self._print(self._head, end="")
            self._is_open = True
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            stream = redacted_stream(file)
            errors: Any = _Errors(sys.stderr, stream, self)
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(errors):
                yield

    def end(self, outcome: Outcome, remark: str = "") -> None:
        """Print the rest of the line: the metrics, the time and the status of a job, and why it did not finish."""
        from lrflow.cli.sweep_summary import ordered_metrics

        names = ordered_metrics([outcome], [self._monitor] if self._monitor else [])[:SHOWN]
        reason = outcome.short_reason if outcome.status == "ended_early" else ""  # other reasons are on stderr
        parts = [*(f"{name} {outcome.metrics[name]:.4g}" for name in names), f"{outcome.seconds:.1f} s"]
        rest = "".join(f"  {part}" for part in (*parts, outcome.status, reason, remark) if part)
        self._print(rest if self._is_open else self._head + rest)
        self._is_open = False

    def interrupt(self) -> None:
        """Leave the line on the terminal as it is, since errors follow; it is printed anew at the end."""
        if self._is_open and self._out.is_terminal:
            self._print("")
            self._is_open = False

    def _print(self, text: str, end: str = "\n") -> None:
        self._out.print(text, end=end, soft_wrap=True)
        with contextlib.suppress(OSError, ValueError):
            self._out.file.flush()


class _Errors:
    """A stream of errors that start on a line of their own; a copy goes to a file."""

    def __init__(self, stream: Any, file: Any, line: JobLine) -> None:
        self._stream, self._file, self._line = stream, file, line

    def write(self, text: str) -> int:
        self._line.interrupt()
        self._file.write(text)
        written: int = self._stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
