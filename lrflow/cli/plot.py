"""`lrflow plot`: pictures of the figures of a run or a sweep, for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrflow.cli.errors import console
from lrflow.cli.report import folder_of
from lrflow.display import Grid
from lrflow.errors import ConfigError, LrflowError, Problem, did_you_mean
from lrflow.files import expanded
from lrflow.remote import is_url
from lrflow.reports.chart_parts import Figure
from lrflow.reports.pictures import COLUMNS, FORMATS, Style, draw, figures_of, fonts, has_font
from lrflow.runs import OUTPUT

FOLDER = "pictures"
"""Where pictures are written without `out=`: in the folder of the run or sweep, or here if that is elsewhere."""

_SETTINGS = ("figure", "out", "width", "height", "font", "size", "output")
_USAGE = "such as lrflow plot last figure=lr width=single out=lr.pdf"
_INCHES = (1.0, 40.0)
_POINTS = (4.0, 40.0)


def plot(words: Sequence[str]) -> None:
    """Draw figures of a run or a sweep, or list them if none is named.

    Args:
        words: the run or sweep, and settings as `key=value`.

    Raises:
        ConfigError: an unknown setting, figure, font, format or size; there is no such run.
        LrflowError: a picture cannot be written.
    """
    given = dict(word.split("=", 1) for word in words if "=" in word and not Path(word).is_dir())
    runs = [word for word in words if word.partition("=")[0] not in given]
    problems = [_unknown(key, given[key]) for key in given if key not in _SETTINGS]
    if len(runs) != 1:
        message = "needs a run or a sweep" if not runs else "takes one run or sweep"
        problems.append(Problem(" ".join(["lrflow plot", *runs]), message, hint=_USAGE))
    style = Style(
        width=_inches(given["width"], "width", problems) if "width" in given else COLUMNS["single"],
        height=_inches(given["height"], "height", problems) if "height" in given else None,
        font=_font(given["font"], problems) if "font" in given else Style.font,
        size=_number(given["size"], "size", _POINTS, "points", problems) if "size" in given else Style.size,
    )
    out = expanded(given["out"]) if "out" in given else None
    if out and out.suffix[1:] not in FORMATS:
        expected = f"expected a file that ends with {' or '.join(f'.{kind}' for kind in FORMATS)}"
        problems.append(Problem("out", expected, given["out"]))
    if problems:
        raise ConfigError(problems)
    folder = folder_of(runs[0], Path(given.get("output", OUTPUT)))
    names = given["figure"].split(",") if given.get("figure", "all") != "all" else None
    found = {figure.name: figure for figure in figures_of(folder, names)}
    if names and not found.keys() >= {*names}:
        found = {figure.name: figure for figure in figures_of(folder)}  # a message names them all
    if not found:
        raise LrflowError(f"{folder}: it has no values to draw")
    if "figure" not in given:
        _list(found)
        return
    chosen = _chosen(given["figure"], found, out)
    pictures = Path(FOLDER) if is_url(runs[0]) else folder / FOLDER
    try:
        for figure in chosen:
            print(draw(figure, out or pictures / f"{figure.name.replace('/', '-')}.pdf", style))
    except OSError as error:
        raise LrflowError(f"{error.filename}: cannot be written: {error.strerror or error}") from error


def _list(found: dict[str, Figure]) -> None:
    table = Grid("<figure", "<shows")
    for figure in found.values():
        table.row(figure.name, figure.heading)
    console().print(table)
    print("\ndraw some by figure=NAME,NAME, or all by figure=all")


def _chosen(text: str, found: dict[str, Figure], out: Path | None) -> list[Figure]:
    names = list(found) if text == "all" else text.split(",")
    problems = [
        Problem("figure", f"expected all or one of {', '.join(found)}", name, did_you_mean(name, found))
        for name in names
        if name not in found
    ]
    if out and len(names) > 1 and not problems:
        problems.append(Problem("out", f"is one file, and {len(names)} figures are named", str(out)))
    if problems:
        raise ConfigError(problems)
    return [found[name] for name in names]


def _unknown(key: str, value: str) -> Problem:
    hint = did_you_mean(key, _SETTINGS)
    return Problem(key, f"expected one of {', '.join(_SETTINGS)}", value, hint)


def _inches(text: str, key: str, problems: list[Problem]) -> float:
    if key == "width" and text in COLUMNS:
        return COLUMNS[text]
    return _number(text, key, _INCHES, "inches", problems, ", ".join(COLUMNS) if key == "width" else "")


def _number(
    text: str, key: str, ends: tuple[float, float], unit: str, problems: list[Problem], words: str = ""
) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if ends[0] <= number <= ends[1]:
        return number
    expected = f"{words} or " * bool(words) + f"a number of {unit} from {ends[0]:g} to {ends[1]:g}"
    hint = did_you_mean(text, COLUMNS) if words else None
    problems.append(Problem(key, f"expected {expected}", text, hint))
    return 1.0


def _font(name: str, problems: list[Problem]) -> str:
    if not has_font(name):
        message = "there is no such font here; expected one that is installed, sans-serif, serif or monospace"
        problems.append(Problem("font", message, name, did_you_mean(name, fonts())))
    return name
