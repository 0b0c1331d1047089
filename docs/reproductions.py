"""Writes docs/reproductions.md and its pictures from what `python -m benchmarks.reproduce` measured.

python docs/reproductions.py           # write the page and the pictures
python docs/reproductions.py --check   # list what is outdated; exit 1 if anything is
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from benchmarks.reproduce.claims import VERDICTS, Claim, Picture, Record, Result, claim, names
from lrflow.display import CURVES, GREY, INK, plain_axes, scale_of
from lrflow.wording import counted, number

DOCS = Path(__file__).parent
PAGE, IMAGES = DOCS / "reproductions.md", DOCS / "images" / "reproductions"

INTRO = """\
# Reproductions

{count} published results on learning rates, each measured again on one CPU core in at most a few minutes. {verdicts}.
The models are small, so a result that does not hold here is not refuted; it does not hold here. The rule by which a
result counts as held stands beside it. Rules were written down before the numbers were computed, unless a section says
otherwise; where a section reads an earlier benchmark, the benchmark is older than the rule.

    python -m benchmarks.reproduce            # list them
    python -m benchmarks.reproduce catapult   # measure one again, and write its result
    python docs/reproductions.py              # write this page from the results

Seconds are CPU seconds of one core. The numbers, with versions, are in
[benchmarks/reproduce/results](../benchmarks/reproduce/results). `python docs/reproductions.py` generates this page; do
not edit it.
"""


def measured() -> dict[str, tuple[Claim, Record]]:
    """The reproductions that have been measured, by name."""
    found = {name: (claim(name), Record.read(name)) for name in names()}
    return {name: (of, record) for name, (of, record) in found.items() if record}


def page(found: dict[str, tuple[Claim, Record]]) -> str:
    """The text of the page."""
    held = [record.result.held for _, record in found.values()]
    verdicts = [f"{held.count(verdict)} {text}" for verdict, text in VERDICTS.items() if verdict in held]
    lines = [INTRO.format(count=len(found), verdicts=", ".join(verdicts))]
    lines += ["| result | paper | our number | spread | | seconds |", "| --- " * 6 + "|"]
    for of, record in found.values():
        result = record.result
        spread = f"{number(result.low)} to {number(result.high)}"
        cells = (f"[{of.title}](#{anchor(of.title)})", of.paper, f"{number(result.number)}: {of.number}", spread)
        lines.append(f"| {' | '.join(cells)} | **{VERDICTS[result.held]}** | {record.seconds:.0f} |")
    lines.append("")
    for name, (of, record) in found.items():
        lines += _section(name, of, record)
    return "\n".join(lines)


def anchor(title: str) -> str:
    """The anchor of a heading: words of letters and digits, joined by hyphens."""
    kept = "".join(sign for sign in title.lower() if sign.isalnum() or sign in " -_")
    return kept.replace(" ", "-")


def _section(name: str, of: Claim, record: Record) -> Iterator[str]:
    result = record.result
    yield f"## {of.title}\n"
    yield f"**Claim** ({of.paper}): {of.claim}\n"
    yield f"    python -m benchmarks.reproduce {name}\n"
    repeated = f" {counted(result.seeds, 'seed')}." if result.seeds else ""
    yield f"**Measured:** {of.method}{repeated}\n"
    yield f"**Rule:** {of.rule}\n"
    spread = f"{number(result.number)} ({number(result.low)} to {number(result.high)})"
    yield f"**{VERDICTS[result.held].capitalize()}.** {of.number[0].upper()}{of.number[1:]}: {spread}. {result.told}\n"
    if of.limits:
        yield f"{of.limits}\n"
    if result.picture:
        yield f"![{result.picture.alt}](images/reproductions/{name}.png)\n"
    yield from _table(result)


def _table(result: Result) -> Iterator[str]:
    if result.table:
        yield f"| {' | '.join(result.table[0])} |"
        yield "| --- " * len(result.table[0]) + "|"
        for row in result.table:
            cells = ("" if cell is None else cell if isinstance(cell, str) else number(cell) for cell in row.values())
            yield f"| {' | '.join(cells)} |"
        yield ""


def content(picture: Picture) -> str:
    """What tells whether the file of a picture is current: what is drawn, and the colours."""
    return sha256(json.dumps([asdict(picture), CURVES]).encode()).hexdigest()[:16]


def draw(picture: Picture) -> Figure:
    """A picture in the house's colours."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    colours = iter(CURVES)
    for line in picture.lines:
        y = [float("nan") if value is None else value for value in line.y]
        if line.style == "reference":
            axes.plot(line.x, y, color=GREY, linestyle="--", linewidth=1.2, label=line.name)
            continue
        colour = next(colours)
        kind = {"marker": "o", "markersize": 4, "linestyle": ""} if line.style == "points" else {"linewidth": 1.6}
        axes.plot(line.x, y, color=colour, label=line.name, **kind)
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    of_rates = picture.x.endswith("LR")
    axes.set_xscale("log" if of_rates else scale_of(value for line in picture.lines for value in line.x))
    axes.set_yscale(scale_of(value for line in picture.lines for value in line.y if value is not None))
    axes.set_xlabel(picture.x, color=INK)
    axes.set_ylabel(picture.y, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    plain_axes(axes)
    return figure


def is_current(path: Path, picture: Picture) -> bool:
    """Whether the file of a picture shows what it would show now."""
    if not path.is_file():
        return False
    with Image.open(path) as image:
        return image.info.get("lrflow") == content(picture)


def stale(found: dict[str, tuple[Claim, Record]]) -> list[str]:
    """What is not as it would be written now, and results and pictures of what is no more."""
    pictures = {IMAGES / f"{name}.png": record.result.picture for name, (_, record) in found.items()}
    wanted = {path: picture for path, picture in pictures.items() if picture}
    outdated = [] if PAGE.is_file() and PAGE.read_text("utf-8") == page(found) else [PAGE]
    outdated += [path for path, picture in wanted.items() if not is_current(path, picture)]
    return [str(path.relative_to(DOCS)) for path in [*outdated, *sorted(set(IMAGES.glob("*.png")) - wanted.keys())]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is outdated, or list it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="list what is outdated")
    check = parser.parse_args(arguments).check
    found = measured()
    outdated = stale(found)
    print("\n".join(outdated))
    if check:
        return int(bool(outdated))
    IMAGES.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(found), "utf-8")
    for name, (_, record) in found.items():
        path, picture = IMAGES / f"{name}.png", record.result.picture
        if picture and not is_current(path, picture):
            draw(picture).savefig(path, dpi=100, metadata={"Software": None, "lrflow": content(picture)})
    for left in set(IMAGES.glob("*.png")) - {
        IMAGES / f"{name}.png" for name, (_, record) in found.items() if record.result.picture
    }:
        left.unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
