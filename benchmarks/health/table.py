"""The tables of README.md."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.health.judge import EITHER, Score, leave_one_out, score
from benchmarks.health.labels import KINDS, Label
from benchmarks.health.problems import PROBLEMS
from benchmarks.health.recorded import Recorded
from benchmarks.health.rules import PEERS

PAGE = Path(__file__).parent / "README.md"
FIRST, LAST = "<!-- measured by python -m benchmarks.health -->", "<!-- end of what was measured -->"
LRFLOW = "**lrflow**"
SHOWN = ("diverging", "too_high", EITHER, "too_low", "overfitting", "oscillating", "nonfinite")


@dataclass(frozen=True)
class Judged:
    """A run, what is wrong with it, and what was said about it.

    Args:
        label: the outcome of the run.
        peers: the step at which each rule of `PEERS` first spoke, by its name.
        findings: the step of lrflow's first finding of each kind; None: its detectors were not asked.
        settings: the same for its detectors with other settings, named as in `setting_nodes`.
    """

    label: Label
    peers: Mapping[str, int]
    findings: Mapping[str, int] | None = None
    settings: Mapping[str, int] = field(default_factory=dict)


def tables(judged: Sequence[Judged]) -> str:
    """Return all tables in Markdown."""
    asked = any(one.findings is not None for one in judged)
    return "\n\n".join([_runs(judged), _scores(judged), _alarms(judged), *([_problems(judged)] if asked else [])])


def _runs(judged: Sequence[Judged]) -> str:
    """The problems, and how many of their runs have each label."""
    kinds = [*KINDS, "healthy"]
    rows = [["problem", "used to", "best LR", "runs", *kinds, "near a border", "otherwise ill"]]
    rows.append(["---"] * len(rows[0]))
    for problem in sorted(PROBLEMS, key=lambda problem: problem.judged):
        labels = [one.label for one in judged if one.label.run.cell.problem == problem.name]
        if not labels:
            continue
        best = sorted({label.best_lr for label in labels})
        counts = [sum(bool(label.truth[kind]) for label in labels) for kind in kinds]
        ill = [label for label in labels if label.run.cell.illness != "none"]
        border = sum(not label.kinds for label in labels if label.run.cell.illness == "none")
        row = [
            problem.title,
            "judge" if problem.judged else "set",
            " to ".join(f"{lr:g}" for lr in best[:: len(best) - 1 or 1]),
        ]
        rows.append([*row, *map(str, [len(labels), *counts, border, len(ill)])])
    total = [sum(int(row[column]) for row in rows[2:]) for column in range(3, len(rows[0]))]
    rows.append(["all", "", "", *map(str, total)])
    return lines(rows)


def _scores(judged: Sequence[Judged]) -> str:
    """Scores on the problems on which thresholds are set, and on those that judge, per kind and detector."""
    halves = [[one for one in judged if one.label.judged == used] for used in (False, True)]
    heads = ["precision", "recall", "balanced accuracy", "lead"]
    rows = [["kind", "detector", *(f"{head}, set" for head in heads[:3]), *heads], ["---"] * 9]
    for kind in SHOWN:
        for name, found in _detectors(judged, kind):
            on_set, on_judged = (score((one.label for one in half), kind, found) for half in halves)
            numbers = [*_numbers(on_set)[:3], *_numbers(on_judged)]
            rows.append([f"`{kind}`", name, *numbers])
    return lines(rows)


def _problems(judged: Sequence[Judged]) -> str:
    """Hits, misses and alarms of lrflow's detectors on each problem, and with settings that others chose."""
    heads = [f"`{kind}`" for kind in SHOWN]
    rows = [["found, missed, wrong", *heads], ["---"] * (len(heads) + 1)]
    labels = [one.label for one in judged]
    detectors = {kind: dict(_detectors(judged, kind))[LRFLOW] for kind in SHOWN}
    for problem in PROBLEMS:
        own = [label for label in labels if label.run.cell.problem == problem.name]
        if own:
            rows.append([problem.title, *(_counts(score(own, kind, detectors[kind])) for kind in SHOWN)])
    rows.append(["**all**", *(_counts(score(labels, kind, detectors[kind])) for kind in SHOWN)])
    if any(one.settings for one in judged):
        rows.append(
            ["all, each with the setting that is best on the others", *(_left_out(judged, kind) for kind in SHOWN)]
        )
    return lines(rows)


def _left_out(judged: Sequence[Judged], kind: str) -> str:
    said = {one.label.run.cell: one.settings for one in judged}
    names = sorted({name for one in judged for name in one.settings if name.startswith(f"{kind} ")})
    if not names:
        return ""
    settings = {name: lambda run, name=name: said[run.cell].get(name) for name in names}
    return _counts(leave_one_out([one.label for one in judged], kind, settings))


def _counts(score: Score) -> str:
    return f"{score.hits}, {score.misses}, {score.alarms}"


def _alarms(judged: Sequence[Judged]) -> str:
    """In how many healthy runs each detector spoke."""
    rows = [["spoke in healthy runs", "set", "judge"], ["---"] * 3]
    names: list[tuple[str, Callable[[Judged], bool]]] = []
    if any(one.findings is not None for one in judged):
        names.append((f"{LRFLOW}, any kind", lambda one: bool(one.findings)))
        for kind in sorted({kind for one in judged for kind in one.findings or {}}):
            names.append((f"lrflow, `{kind}`", lambda one, kind=kind: kind in (one.findings or {})))  # type: ignore[misc]
    names += [(peer.name, lambda one, name=peer.name: name in one.peers) for peer in PEERS]  # type: ignore[misc]
    for name, spoke in names:
        counts = []
        for used in (False, True):
            healthy = [spoke(one) for one in judged if one.label.judged == used and one.label.truth["healthy"]]
            counts.append(f"{sum(healthy)} of {len(healthy)}")
        rows.append([name, *counts])
    return lines(rows)


def _detectors(judged: Sequence[Judged], kind: str) -> Iterable[tuple[str, Callable[[Recorded], int | None]]]:
    said = {one.label.run.cell: one for one in judged}
    kinds = kind.split(" or ")

    def of_lrflow(run: Recorded) -> int | None:
        found = said[run.cell].findings or {}
        return min((found[name] for name in kinds if name in found), default=None)

    if any(one.findings is not None for one in judged):
        yield LRFLOW, of_lrflow
    for peer in PEERS:
        if set(kinds) & set(peer.kinds):
            yield peer.name, lambda run, name=peer.name: said[run.cell].peers.get(name)  # type: ignore[misc]


def _numbers(score: Score) -> list[str]:
    counts = f" ({score.hits} of {score.hits + score.alarms})", f" ({score.hits} of {score.hits + score.misses})"
    lead = "" if math.isnan(score.lead) else f"{score.lead:+.0f}"
    return [
        *(_number(value) + count for value, count in zip((score.precision, score.recall), counts, strict=True)),
        _number(score.balanced_accuracy),
        lead,
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def lines(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows of a Markdown table as text."""
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def write(judged: Sequence[Judged], page: Path = PAGE) -> str:
    """Write the tables between the comments of the page and return them."""
    text, content = tables(judged), page.read_text()
    block = f"{FIRST}\n{text}\n{LAST}"
    page.write_text(re.sub(f"{re.escape(FIRST)}.*?{re.escape(LAST)}", lambda _: block, content, flags=re.DOTALL))
    return text
