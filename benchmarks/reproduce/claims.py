"""What a reproduction is: a published claim (`Claim`), what was measured of it (`Result`), and its file (`Record`).

Each module `benchmarks/reproduce/NAME.py` has a `CLAIM` and `reproduce(fast)`, which returns a `Result`. `fast` asks
for a miniature of the same code that ends within half a minute; its numbers mean nothing.
"""

from __future__ import annotations

import importlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
FRAME = ("__main__", "claims", "data", "grids", "measure")
"""Modules of this folder that are no reproduction."""

Held = bool | Literal["partly"]
VERDICTS: dict[Held, str] = {True: "held", False: "did not hold", "partly": "held partly"}


def verdict(parts: Sequence[bool], partly: int = 1) -> Held:
    """Return whether a claim holds, by whether each of its parts does; `partly` is how many make it hold partly."""
    return all(parts) or (sum(parts) >= partly and "partly")


@dataclass(frozen=True)
class Claim:
    """A published claim, and the rule by which it holds here.

    Both are written before anything is measured; `limits` says so where they were not.

    Args:
        title: of the result, a few words.
        paper: its source as Markdown: authors, year, link.
        claim: what the paper says, as a sentence that can be checked.
        rule: when it holds here, when partly: a condition on `number` and the other values that are measured.
        number: what the one number of the result is.
        method: what is trained and how the number follows from it.
        seconds: about how long it takes on one CPU core.
        limits: what the measurement cannot say, such as that the model is small.
    """

    title: str
    paper: str
    claim: str
    rule: str
    number: str
    method: str
    seconds: int
    limits: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a picture.

    Args:
        name: in the legend.
        x: its places.
        y: its values; `None` leaves a gap.
        low, high: the edges of the band around it; empty: it has none.
        style: `line`, `points` (without a line), or `reference` (grey and dashed: what the paper predicts).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: Literal["line", "points", "reference"] = "line"


@dataclass(frozen=True)
class Picture:
    """A picture of a result: at most six lines. An axis is logarithmic if its values are LRs or span a factor above 20.

    Args:
        alt: what it shows, in a sentence.
        x, y: what the axes are.
        lines: what is drawn.
    """

    alt: str
    x: str
    y: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Result:
    """What was measured.

    Args:
        number: the one number of the result, as `Claim.number` says.
        low, high: its interval of 95%, or the range over seeds; the text of the section says which.
        held: whether the claim holds here, by `Claim.rule`.
        seeds: how often each random measurement was repeated; 0: nothing is random.
        told: the outcome in one to three sentences, with its numbers.
        table: rows with equal keys, the columns; numbers are printed with three digits.
        picture: of the measurement.
    """

    number: float
    low: float
    high: float
    held: Held
    seeds: int
    told: str
    table: Sequence[dict[str, str | float | None]] = ()
    picture: Picture | None = None


@dataclass(frozen=True)
class Record:
    """A result as its file has it.

    Args:
        result: what was measured.
        seconds: of CPU time.
        versions: of Python and of the packages that the numbers depend on.
    """

    result: Result
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, folder: Path = RESULTS) -> Path:
        """Write the file of a result and return its path."""
        result = asdict(self.result)
        content = {**result, "seconds": self.seconds, "versions": self.versions}
        path = folder / f"{name}.json"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_rounded(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, name: str, folder: Path = RESULTS) -> Record | None:
        """Read the file of a result; None: it has not been measured."""
        path = folder / f"{name}.json"
        if not path.is_file():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        seconds, versions = content.pop("seconds"), content.pop("versions")
        if picture := content["picture"]:
            content["picture"] = Picture(**{**picture, "lines": [Line(**line) for line in picture["lines"]]})
        return cls(Result(**content), seconds, versions)


def _rounded(value: Any) -> Any:
    """Six digits of each number: more would be those of this machine."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def names() -> list[str]:
    """The names of all reproductions, which are those of their modules."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in FRAME)


def module(name: str) -> ModuleType:
    """The module of a reproduction, with its `CLAIM` and `reproduce`."""
    return importlib.import_module(f"benchmarks.reproduce.{name}")


def claim(name: str) -> Claim:
    """The claim of a reproduction."""
    found = module(name).CLAIM
    assert isinstance(found, Claim)
    return found


def run(name: str, fast: bool = False) -> Record:
    """Measure a reproduction, in one thread."""
    import numpy
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    result = module(name).reproduce(fast)
    assert isinstance(result, Result)
    versions = {"python": platform.python_version(), "numpy": numpy.__version__, "torch": torch.__version__}
    return Record(result, round(time.process_time() - started, 1), versions)
