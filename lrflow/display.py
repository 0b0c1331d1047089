"""Console, tables, colours and axes that terminal output and figures share."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrflow.files import write_whole
from lrflow.redaction import redact_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of curves in all pictures and pages, on white or on black; after Okabe and Ito (2008), for colour blindness too.
CURVES = ("#1683c4", "#d9641e", "#12a07a", "#c46fa3", "#7f783c", "#8477f3")
COLD_TO_HOT = ("#3b6fd4", "#22a9c4", "#a8ab55", "#e09a20", "#c83a1f")  # lowest LR to highest LR

INK, GREY, FAINT = "#222222", "#707070", "#e6e6e6"  # text, secondary text and grid lines on white
MUTED = "#8d949c"  # secondary text on white or on black

SPAN = 20  # an axis is logarithmic if the largest value is more than this many times the smallest


class QuietConsole(Console):
    """A console that stops printing when its output is closed or full, so that no pager or disk ends a run."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print with rich, unless the console is quiet: rich would render the objects anyway, which takes time."""
        if self.quiet:
            return
        try:
            super().print(*map(_redacted, objects), **options)
        except OSError as error:
            self.on_broken_pipe()
            print(f"lrflow: the output cannot be written, so it ends here: {error.strerror}", file=sys.stderr)

    def on_broken_pipe(self) -> None:
        """Stop printing, and continue; rich would end the process."""
        self.quiet = True
        discard_output(self.file)


_CONTROLS = {code: "?" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Characters by which a text from a file could command the terminal: set its title, write to the clipboard."""


def _redacted(shown: Any) -> Any:
    """Return what is printed without its secrets, which a line break or a table's column would hide from the stream.

    Control characters become question marks.
    """
    if isinstance(shown, str):
        return redact_text(shown).translate(_CONTROLS)
    if isinstance(shown, Text):
        plain = redact_text(shown.plain)
        if plain != shown.plain:
            shown = Text(plain, shown.style, justify=shown.justify, overflow=shown.overflow)
        if (harmless := plain.translate(_CONTROLS)) != plain:
            shown.plain = harmless  # of the same length, so that it keeps its colours
    if isinstance(shown, Table):
        for column in shown.columns:
            column._cells[:] = map(_redacted, column._cells)
    return shown


def discard_output(stream: IO[str]) -> None:
    """Redirect a stream to the null device after its pipe was closed; otherwise Python reports the pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Grid(Table):
    """A table of plain text without a frame; brackets in names are not read as rich markup.

    Args:
        columns: headings; a heading that begins with `<` aligns its column left, the others align right. If all are
            empty, the table has no heading.
    """

    def __init__(self, *columns: str) -> None:
        headings = [column.removeprefix("<") for column in columns]
        super().__init__(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(headings), header_style="bold")
        for column, heading in zip(columns, headings, strict=True):
            self.add_column(Text(heading), justify="left" if column.startswith("<") else "right", overflow="fold")

    def row(self, *cells: str | Text, style: str | None = None) -> None:
        """Add a row; omitted cells at its end are empty."""
        self.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def grid_width(columns: Mapping[str, Sequence[str]]) -> int:
    """Return the width of a `Grid` in characters, by the cells under each heading."""
    return sum(2 + max(map(len, [heading, *cells])) for heading, cells in columns.items())


def scale_of(values: Iterable[float]) -> str:
    """Return the scale of an axis for these values: `log` or `linear`."""
    known = [value for value in values if math.isfinite(value)]
    return "log" if known and min(known) > 0 and max(known) / min(known) > SPAN else "linear"


def plain_axes(axes: Axes) -> None:
    """Style axes: faint horizontal grid lines, no top and right frame."""
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b0b0b0")
    axes.tick_params(colors=INK, length=3)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure atomically to `path` in the format of its suffix and return the path; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(path, lambda file: render(figure, file, path.suffix[1:] or "png"))


def render(figure: Figure, file: IO[bytes], kind: str) -> None:
    """Write a figure to an open file in a format of matplotlib's, without secrets in its texts."""
    from matplotlib.text import Text as Label

    for label in figure.findobj(Label):
        if (text := redact_text(label.get_text())) != label.get_text():
            label.set_text(text)
    figure.savefig(file, format=kind, dpi=100)
