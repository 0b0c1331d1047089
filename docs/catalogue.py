"""Writes docs/catalogue.md, docs/parity.md and their pictures from conf/, the docstrings and docs/parity.yaml.

python docs/catalogue.py            # write outdated pages and pictures
python docs/catalogue.py --redraw   # and every picture, as after a change of how they are drawn
python docs/catalogue.py --check    # list what is outdated; exit 1 if anything is
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import parity
import yaml
from option_files import Page, about, formula, intro
from pictures import IMAGES, Picture, groups_table, layers_picture, overview, parts, resumed, schedule_picture

from lrflow.config.composition.options import Catalogue

DOCS = Path(__file__).parent
ARXIV = "https://arxiv.org/abs/"
SOURCES: dict[str, str] = yaml.safe_load((DOCS / "sources.yaml").read_text(encoding="utf-8"))
BLANK, WHITE = re.escape(" "), r"\s+"  # of a citation, which may be broken over lines
SCHEDULE = "lrflow.schedules.Schedule"
WORDS = {
    "schedule": "Schedules",
    "feedback": "Feedback",
    "optimizer": "Optimizers",
    "layers": "Layers",
    "scaling": "Scaling",
    "find": "Finders",
}
"""The groups that the page tells of, as far as there are any, in order."""

EXAMPLES = {"scaling.reference": "256", "scaling.from": "outputs/RUN"}
"""Values for what an option leaves open."""

ALONGSIDE = {
    "feedback=kl": ["recipe=rl_ppo"],  # whose module logs the KL divergence
    "optimizer=airbench": ["model=cnn"],  # whose filters it is for
    "optimizer=nanogpt": ["layers.head=head.*"],  # as the default model calls its output layer
}
"""What an option cannot do without in a run of the defaults."""

INTRO = """\
# Catalogue

This page lists every option that sets a learning rate. Options of different groups combine:

    python -m lrflow {example}

`make catalogue` generates this page from the option files in [conf/](../conf) and from the docstrings; do not edit it.
[Parity](parity.md) lists what other libraries have.

<!-- interactive: filter -->

{contents}
"""

ABOUT = {
    "schedule": """\
A schedule multiplies the peak LR over the run. Each shape can have a warmup, a cooldown and a floor
([defaults](#around-every-shape)). All pictures show 20 epochs of 50 steps, each option with its defaults; `task=plan`
draws the same for your run.

| you want | choose |
| --- | --- |
| a safe default | {cosine} |
| to fine-tune, or to train a language model on a fixed budget | {linear}, to 0 |
| to choose the length of the run later, or to continue from its middle | {wsd}, {constant}, {inverse_sqrt} |
| a short run at a high LR | {one_cycle}, {flat_cosine} |
| several good models from one run | {warm_restarts}, {cyclical} |
| to follow a paper's table of milestones | {multistep}, {step} |
| a curve of your own | {piecewise}, {tabulated}, or [a class](schedules.md#a-shape-of-your-own) |
""",
    "feedback": """\
Feedback reacts to the run: it is a factor on top of the schedule. The planned and the actual LR are both logged.
""",
    "optimizer": """\
`optimizer.lr` is the peak LR, which the schedule multiplies. If an option needs a package, `pip install
'lrflow[optimizers]'` installs it.
""",
    "layers": """\
Layer options decide which parameters form a group, and the LR, weight decay, optimizer or initial value of each group.
Each option shows a command, and what `task=plan` prints and draws for it.
""",
    "scaling": """\
These options rescale the peak LR with the batch size, or take it from a tuned run. None acts by default.
""",
    "find": """\
These options set how `task=find` finds a peak LR.
""",
}


def catalogue(pages: dict[str, list[Page]], layers: dict[str, Picture]) -> str:
    """The text of docs/catalogue.md."""
    contents = " · ".join(f"[{WORDS[group]}](#{WORDS[group].lower()}) ({len(pages[group])})" for group in pages)
    lines = [INTRO.format(contents=contents, example="schedule=rex optimizer=adamw layers=layer_decay")]
    for group, options in pages.items():
        links = {page.option.name: f"[`{page.option.name}`](#{_anchor(page.name)})" for page in options}
        lines += [f"## {WORDS[group]}\n", ABOUT[group].format_map(links)]
        if more := next((name for name in (f"{group}s.md", f"{group}.md") if (DOCS / name).is_file()), None):
            lines.append(f"More: [{more.removesuffix('.md')}]({more}).\n")
        if group == "schedule":
            lines += [*_gallery(options), *_around(options)]
        else:
            lines += _index(options)
        for page in options:
            lines += _entry(page, layers)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _families(options: Iterable[Page]) -> Iterator[tuple[list[str], list[Page]]]:
    """Schedules by kind, the commonest first: what the docstring of their shape's module says; small kinds together."""
    found: dict[str, list[Page]] = {}
    for page in options:
        found.setdefault(intro(page.classes(SCHEDULE)[0]), []).append(page)
    kinds = sorted(found, key=lambda kind: -len(found[kind]))
    few = [kind for kind in kinds if len(found[kind]) < 3]
    for together in [*([kind] for kind in kinds if kind not in few), few]:
        yield together, [page for kind in together for page in found[kind]]


def _gallery(options: Iterable[Page], columns: int = 4) -> Iterator[str]:
    """Thumbnails that lead to the entries."""
    for kinds, family in _families(options):
        yield " ".join(re.sub(r"^([^:]+):", r"**\1**:", kind) for kind in kinds) + "\n\n<table>"
        for start in range(0, len(family), columns):
            yield "<tr>"
            for page in family[start : start + columns]:
                image = f'<img src="images/{_picture(page)}" width="200" alt="{page.option.name}">'
                name = f"<code>{page.option.name}</code>"
                yield f'<td align="center"><a href="#{_anchor(page.name)}">{image}<br>{name}</a></td>'
            yield "</tr>"
        yield "</table>\n"


def _around(options: Iterable[Page]) -> Iterator[str]:
    """What every schedule has around its shape."""
    yield "### Around every shape\n"
    yield "![the curves of warmups and cooldowns, and floors](images/parts.png)\n"
    yield "These are the defaults of `schedule=constant`; the entry of an option lists those that differ."
    yield "`schedule.also` moves other settings of the optimizer, such as momentum"
    yield "([more](schedules.md#other-settings-that-move)).\n"
    yield from _keys(page for page in options if page.option.name == "constant")


def _command(page: Page) -> list[str]:
    """What chooses an option, with a value for everything that it leaves open."""
    names = [f"{page.option.group}.{key.name}" for key in page.keys if key.default == "???"]
    task = ["task=find"] if page.option.group == "find" else []
    return [*task, page.name, *(f"{name}={EXAMPLES[name]}" for name in names), *ALONGSIDE.get(page.name, ())]


def _multiplier(page: Page) -> str:
    """The formula of a schedule's shape, and its cooldown where it has one by default."""
    values = {key.name: key.default for key in page.keys}
    told = formula(page.classes(SCHEDULE)[0])
    told = told if "`" in told else f"`{told}`"
    if values["cooldown"] != "0%":
        told += f", and a cooldown of {values['cooldown']} by `{values['cooldown_shape']}`"
    return told


def _index(options: Iterable[Page]) -> Iterator[str]:
    """A row an option."""
    yield "| option | what it is |\n| --- | --- |"
    for page in options:
        yield f"| [`{page.option.name}`](#{_anchor(page.name)}) | {_prose(page.option.summary)} |"
    yield ""


def _entry(page: Page, layers: dict[str, Picture]) -> Iterator[str]:
    """All about an option."""
    yield f"### {page.name}\n"
    yield f"{_prose(' '.join(page.head))}\n"
    picture = layers.get(page.option.name) if page.option.group == "layers" else None
    if page.option.group == "schedule":
        yield f'<img src="images/{_picture(page)}" alt="the LR under {page.name}">\n'
        yield f"Multiplier: {_multiplier(page)}\n"
    for cls in page.classes(SCHEDULE):
        yield f"[`{cls.__name__}`]({_module(cls)}): {_prose(about(cls))}\n"
    yield f"```sh\npython -m lrflow {shlex.join(picture.command if picture else _command(page))}\n```\n"
    if picture:
        yield f"```text\n{groups_table(picture.plans[0])}\n```\n"
        if picture.lines > 1:
            yield f"![the LR of every group under {page.name}](images/{picture.name})\n"
    if page.overrides:
        taken = ", ".join(f"`{group}={option}`" for group, option in page.overrides.items())
        yield f"Selects {taken}, unless the command line chooses another.\n"
    if page.needs:
        yield f"Needs {', '.join(f'`{package}`' for package in page.needs)}.\n"
    if page.rules:
        yield f"```yaml\n{page.rules}\n```\n"
    if page.keys and page.name != "schedule=constant":
        yield from _keys([page])


def _keys(options: Iterable[Page]) -> Iterator[str]:
    """The values of options; of a schedule those that differ from the ones around every shape."""
    for page in options:
        usual = _usual(page)
        rows = [key for key in page.keys if (key.name, key.default) not in usual]
        if rows:
            yield "| key | default | meaning |\n| --- | --- | --- |"
            for key in rows:
                comment = _prose(key.comment).replace("|", "\\|")
                yield f"| `{page.option.group}.{key.name}` | `{key.default}` | {comment} |"
            yield ""


def _usual(page: Page) -> set[tuple[str, str]]:
    """The keys of a schedule with the defaults that they have in most."""
    if page.option.group != "schedule" or page.option.name == "constant":
        return set()
    return {(key.name, key.default) for key in Page(Catalogue().options("schedule")["constant"]).keys}


def _module(cls: type) -> str:
    return f"../{cls.__module__.replace('.', '/')}.py"


def _picture(page: Page) -> str:
    return f"catalogue/{page.option.group}-{page.option.name}.png"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _prose(text: str) -> str:
    """Text of a docstring or a comment as Markdown: papers are linked, signs are not taken for markup."""
    pieces = re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.MULTILINE)  # code stays as it is
    pieces[::2] = [_linked(re.sub(r"([<*])", r"\\\1", plain)) for plain in pieces[::2]]
    return "".join(pieces)


def _linked(text: str) -> str:
    """The text with links on the works that it cites, by their arXiv numbers or as sources.yaml knows them."""
    number = r"(?:arXiv[:\s]\s*)?\b([012]\d(?:0[1-9]|1[0-2])\.\d{4,5})\b"
    text = re.sub(number, rf"[arXiv:\1]({ARXIV}\1)", text, flags=re.IGNORECASE)
    for cited, where in SOURCES.items():
        url = where if where.startswith("http") else ARXIV + where
        pattern = rf"(?<!\[)\b({re.escape(cited).replace(BLANK, WHITE)})(?!,\s+\[?arXiv)"
        text = re.sub(pattern, rf"[\1]({url})", text)
    return text


def build() -> tuple[dict[Path, str], list[Picture]]:
    """What there should be: texts by their file, and pictures."""
    found = Catalogue()
    # `module` has no LRs of its own: they are those of the user's LightningModule.
    own = {group: [one for one in found.options(group).values() if one.name != "module"] for group in WORDS}
    pages = {group: [Page(option) for option in options] for group, options in own.items()}
    pages = {group: options for group, options in pages.items() if options}
    schedules = [schedule_picture(page.option.name) for page in pages["schedule"]]
    layers = {page.option.name: layers_picture(page.option.name) for page in pages["layers"]}
    texts = {DOCS / "catalogue.md": catalogue(pages, layers), DOCS / "parity.md": parity.page()}
    several = [picture for picture in layers.values() if picture.lines > 1]
    return texts, [*schedules, overview(schedules), parts(), resumed(), *several]


def stale(texts: dict[Path, str], pictures: Iterable[Picture], images: Path = IMAGES) -> list[str]:
    """Return a line for each outdated page and picture, with the reason."""
    told = [
        f"{path.name}: its text is not what conf/ and the docstrings say"
        for path, text in texts.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    pictures = list(pictures)
    told += [f"images/{picture.name}: not drawn of this plan" for picture in pictures if not picture.is_current(images)]
    wanted = {picture.name for picture in pictures}
    left = {path.relative_to(images).as_posix() for path in (images / "catalogue").glob("*")} - wanted
    return told + [f"images/{name}: of an option that is not there" for name in sorted(left)]


def main() -> int:
    """Writes, or checks."""
    parser = argparse.ArgumentParser(description="Makes the catalogue's pages and pictures.")
    parser.add_argument("--check", action="store_true", help="list what is outdated; exit 1 if anything is")
    parser.add_argument("--redraw", action="store_true", help="draw every picture anew")
    arguments = parser.parse_args()
    texts, pictures = build()
    old = stale(texts, pictures)
    if arguments.check:
        for line in old:
            print(line)
        if old:
            print("make catalogue makes them current")
        return 1 if old else 0
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    for picture in pictures:
        if arguments.redraw or not picture.is_current():
            picture.write()
            print(f"images/{picture.name}")
    for path in (IMAGES / "catalogue").glob("*"):
        if path.relative_to(IMAGES).as_posix() not in {picture.name for picture in pictures}:
            path.unlink()
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
