"""The pictures of points that descend, drawn from the runs of the commands that stand above them.

python docs/descents.py             # all, a minute
python docs/descents.py crawl       # one, by the name of its file
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrflow.cli import main as lrflow
from lrflow.recipes.stability.picture import Run, draw_runs, read_sweep  # type: ignore[import-not-found]

DOCS = Path(__file__).parent
PAGES = (DOCS / "theory.md", DOCS.parent / "recipes" / "stability" / "README.md")
PICTURE = re.compile(r"^    python -m lrflow (-m recipe=stability.*)\n\n!\[[^\]]*\]\((\S+\.png)\)", re.MULTILINE)


@dataclass(frozen=True)
class Picture:
    """A picture on a page.

    Args:
        path: its file.
        words: arguments of the command above it, a sweep of the recipe `stability`.
        text: what the page says below it, until the next heading.
    """

    path: Path
    words: Sequence[str]
    text: str

    def runs(self, folder: Path) -> list[Run]:
        """Train the runs into an empty folder and return them."""
        if lrflow([*self.words, "trainer.progress=false", "report=false", f"hydra.sweep.dir={folder}"]):
            raise SystemExit(f"failed: {shlex.join(self.words)}")
        return read_sweep(folder)


def pictures(page: Path) -> list[Picture]:
    """Return the pictures of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Picture(page.parent / found[2], shlex.split(found[1]), re.split(r"(?m)^#", text[found.end() :])[0])
        for found in PICTURE.finditer(text)
    ]


def main(names: Sequence[str]) -> None:
    """Draw the pictures with these names; none: all."""
    for picture in [picture for page in PAGES for picture in pictures(page)]:
        if not names or picture.path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                runs = picture.runs(Path(folder))
            picture.path.parent.mkdir(parents=True, exist_ok=True)
            draw_runs(runs, picture.path)
            ends = ", ".join(f"{run.title}: {run.heights[-1]:.2g}" for run in runs)
            print(f"{picture.path.name}: {ends}; {picture.path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
