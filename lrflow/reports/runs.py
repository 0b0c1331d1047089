"""The runs below a folder: selected and sorted for `lrflow list`, and compared for `lrflow compare`."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lrflow.config.composition.options import changes_training
from lrflow.config.composition.overrides import values_of
from lrflow.config.origins import READ_ERRORS, read_yaml
from lrflow.errors import ConfigError, Problem, did_you_mean, nearest
from lrflow.finding import Finding, kinds_of, read_findings
from lrflow.metric import Metric
from lrflow.outcome import STATUSES, Outcome
from lrflow.plan import Plan
from lrflow.runs import PAGE, RunFolder, read_json

UNFINISHED = ("running", "unfinished")
"""Statuses of a run that has not ended: a process is running it, or its process was killed."""

_FACTS = ("status", "started", "steps", "seconds", "findings")

_OF_A_RUN = {"environment.json", "plan.json", "metrics.csv", "summary.json"}
"""Files of which a run folder has one beside config.yaml."""

_COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

_CONDITION = re.compile(r"([\w./@-]+)(<=|>=|!=|=|<|>)(.*)")


@dataclass(frozen=True)
class Run:
    """A run, as its folder records it.

    Args:
        folder: its run folder.
    """

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What it recorded at its end; empty: it has not ended."""
        return RunFolder(self.folder).read_summary()

    @cached_property
    def outcome(self) -> Outcome | None:
        """How it ended; None: it has not."""
        return Outcome.from_summary(self.summary, self.folder)

    @cached_property
    def status(self) -> str:
        """One of `lrflow.outcome.STATUSES` or of `UNFINISHED`."""
        if self.outcome is not None:
            return self.outcome.status
        return UNFINISHED[RunFolder(self.folder).holder() is None]

    @property
    def is_training(self) -> bool:
        """Whether it trains, or trained; task=find records its config, too."""
        return bool(self.config.get("task", "train") == "train")

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Its last metrics by name."""
        return dict(self.outcome.metrics) if self.outcome else {}

    @cached_property
    def findings(self) -> list[Finding]:
        """What its monitors found."""
        return read_findings(self.folder)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Command, start time, machine and versions."""
        return read_json(self.folder / "environment.json", dict)

    @property
    def versions(self) -> dict[str, Any]:
        """Versions of the packages with which it started, by name."""
        found = self.environment.get("versions")
        return found if isinstance(found, dict) else {}

    @property
    def started(self) -> str:
        """Its start time, to the minute; empty if unknown."""
        return str(self.environment.get("started", ""))[:16].replace("T", " ")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config by dotted key, with the option of each group under the group's name; empty if unreadable."""
        try:
            content = read_yaml(RunFolder(self.folder).config)
        except (*READ_ERRORS, ValueError):
            return {}
        content = content if isinstance(content, dict) else {}
        record = content.get("lrflow")
        choices = record.get("choices") if isinstance(record, dict) else None
        return {**dict(leaves(content)), **(choices if isinstance(choices, dict) else {})}

    def below(self, key: str) -> dict[str, Any]:
        """Return the values below a key of its config, by the rest of their keys."""
        start = f"{key}."
        return {name.removeprefix(start): value for name, value in self.config.items() if name.startswith(start)}

    @property
    def overrides(self) -> list[str]:
        """The overrides of its command line, as Hydra received them."""
        given = self.config.get("lrflow.overrides")
        return [*map(str, given)] if isinstance(given, list) else []

    @property
    def typed(self) -> dict[str, str]:
        """The overrides of its command line, by key."""
        return values_of(self.overrides)

    @property
    def settings(self) -> dict[str, str]:
        """The overrides of its command line that change the training, by key."""
        given = {key: value for key, value in self.typed.items() if changes_training(key)}
        return {key: value for key, value in given.items() if key.partition(".")[0] not in ("task", "sweep")}

    def now(self) -> Run:
        """Return the run as its folder is now; its config stays the same, and is not read again."""
        found = Run(self.folder)
        if config := vars(self).get("config"):  # it was read
            vars(found)["config"] = config
        return found

    @cached_property
    def plan(self) -> Plan | None:
        """The plan that it executes; None: it cannot be read."""
        try:
            return Plan.from_dict(read_json(RunFolder(self.folder).plan, dict))
        except (ConfigError, KeyError, TypeError, ValueError):
            return None

    def value(self, key: str) -> Any:
        """Return a metric, a value of the config, the option of a group or a fact such as `status`; None: it has none.

        Args:
            key: name of the metric, key of the config, group, or `status`, `started`, `steps`, `seconds`, `findings`.
        """
        if key in self.metrics:
            return self.metrics[key]
        if key in ("status", "started"):
            return getattr(self, key)
        if key in ("steps", "seconds"):
            return getattr(self.outcome, key, None)
        if key == "findings":
            return ", ".join(kinds_of(self.findings)) or None
        return self.config.get(key)

    @property
    def names(self) -> set[str]:
        """The keys that `value` knows."""
        return {*self.metrics, *_FACTS, *(key for key in self.config if not key.startswith("lrflow."))}

    def metric(self, name: str) -> Metric:
        """Return one of its metrics with the mode that the run recorded, or that the name suggests."""
        mode = self.config.get(f"lrflow.metrics.{name}")
        return Metric.parse(name, mode if mode in ("min", "max") else None)


def find_runs(folder: Path) -> list[Run]:
    """Return the runs in a folder and its subfolders, the newest first."""
    found = [run for path in run_folders(folder) if (run := Run(path)).is_training]
    return sorted(found, key=start_of, reverse=True)


def run_folders(folder: Path, known: Container[str] = ()) -> Iterator[Path]:
    """Yield the run folders in a folder and its subfolders, without following links to folders.

    Args:
        folder: where to look.
        known: paths of run folders, as they are below `folder`, into which it need not look.
    """
    for path, folders, names in os.walk(folder):
        if "config.yaml" in names and _OF_A_RUN & {*names}:
            yield Path(path)
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
        if known:
            again = {name for name in folders if os.path.join(path, name) in known}
            yield from (Path(path, name) for name in again)
            folders[:] = [name for name in folders if name not in again]


def start_of(run: Run) -> tuple[str, int, str]:
    """Return the key that orders runs by their start, and the trials of one second by their numbers."""
    return str(run.environment.get("started", "")), len(run.folder.name), run.folder.name


def page_of(folder: Path, start: Path) -> str:
    """Return the link from a page to the page of a run, or to the run's folder if it has none.

    Args:
        folder: of the run.
        start: the folder of the page with the link.
    """
    path = f"{os.path.relpath(folder, start)}/{PAGE if (folder / PAGE).exists() else ''}"
    return quote(os.fsencode(path))  # of bytes: a name may be no valid Unicode


@dataclass(frozen=True)
class Condition:
    """A condition on runs, such as `optimizer=adamw` or `val/loss<0.1`.

    Args:
        key: as `Run.value` takes it.
        sign: `=`, `!=`, `<`, `<=`, `>` or `>=`.
        value: as typed.
    """

    key: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition that a word of the command line states.

        Raises:
            ConfigError: it states none.
        """
        if not (found := _CONDITION.fullmatch(text)):
            hint = "such as optimizer=adamw, status=finished or 'val/loss<0.1'"
            raise ConfigError(
                [Problem(text, "expected a folder, KEY=VALUE, KEY!=VALUE or a comparison by <, <=, > or >=", hint=hint)]
            )
        key, sign, value = found.groups()
        condition = cls(key, sign, value.replace(" ", "_") if key == "findings" else value)  # also as it is shown
        if condition.key == "status" and condition.value not in (known := (*STATUSES, *UNFINISHED)):
            expected = f"expected one of {', '.join(known)}"
            raise ConfigError([Problem(text, expected, condition.value, did_you_mean(condition.value, known))])
        compared = condition.sign not in ("=", "!=") and condition.key != "started"
        if compared and _number(condition.value) is None:
            raise ConfigError([Problem(text, f"{condition.sign} compares numbers", condition.value)])
        return condition

    def holds(self, run: Run) -> bool:
        """Return whether a run meets it; a run without a value meets only `!=` and `=null`."""
        value = run.value(self.key)
        if self.key == "findings" and value is not None:  # of which a run may have several
            value = self.value if self.value in value.split(", ") else value
        if self.sign in ("=", "!="):
            return _is_same(value, self.value) == (self.sign == "=")
        found, limit = (value, self.value) if self.key == "started" else (_number(value), float(self.value))
        if found in (None, ""):
            return False
        return bool(_COMPARED[self.sign](found, limit))


def selected(runs: Sequence[Run], conditions: Sequence[Condition], sort: str | None = None) -> list[Run]:
    """Return the runs that meet all conditions, sorted.

    Args:
        runs: the newest first.
        conditions: each run has to meet all of them.
        sort: metric, whose best comes first, or another key, whose smallest comes first; None: keep the order. Runs
            without a value come last.

    Raises:
        ConfigError: no run has a value of this name.
    """
    names = {name for run in runs for name in run.names}
    problems = [
        Problem(
            key, "no run here has a metric, a key of the config or a group of this name", hint=did_you_mean(key, names)
        )
        for key in dict.fromkeys([*(each.key for each in conditions), *([sort] if sort else [])])
        if runs and key not in names
    ]
    if problems:
        raise ConfigError(problems)
    found = [run for run in runs if all(condition.holds(run) for condition in conditions)]
    return sorted(found, key=lambda run: _rank(run, sort)) if sort else found


def swept_keys(runs: Sequence[Run]) -> list[str]:
    """Return the typed keys whose values differ between runs, in the order in which they were typed."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({written(run.value(key)) for run in runs}) > 1]


def different_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys of the config whose values differ between runs, groups before their keys."""
    keys = dict.fromkeys(key for run in runs for key in run.config if changes_training(key))
    found = [key for key in keys if len({written(run.config.get(key)) for run in runs}) > 1]
    return sorted(found, key=lambda key: ("." in key, key.partition(".")[0]))


def find_run(wanted: str, output: Path) -> Run:
    """Return the run that `last`, a path or a part of a folder's name stands for.

    Raises:
        ConfigError: there is none, or several runs have this part in their names.
    """
    for folder in (Path(wanted), output / wanted):
        if (folder / "config.yaml").is_file():
            return Run(folder)
    runs = find_runs(output)
    if wanted == "last" and runs:
        return runs[0]
    found = [run for run in runs if wanted and wanted in run.folder.relative_to(output).as_posix()]
    if len(found) == 1:
        return found[0]
    names = [run.folder.relative_to(output).as_posix() for run in found or runs]
    if found:
        message = f"is in the names of {len(found)} runs"
        raise ConfigError([Problem("run", message, wanted, f"such as {', '.join(names[:3])}")])
    message = f"expected `last`, a run folder, or a part of the name of one run under {output}/"
    hint = f"did you mean {near[0]}?" if (near := nearest(wanted, names, 1)) else None
    raise ConfigError([Problem("run", message, wanted, hint)])


def written(value: Any) -> str:
    """Return a value as the command line takes it; `-`: the run has no such key."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def leaves(content: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their dotted keys."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_same(value: Any, text: str) -> bool:
    number, other = _number(value), _number(text)
    if number is not None and other is not None:
        return number == other
    return written(value) == text or (value is None and text == "null")


def _rank(run: Run, key: str) -> tuple[bool, float, str]:
    value = run.value(key)
    number = _number(value)
    if number is None or math.isnan(number):
        return value is None or number is not None, 0.0, written(value)
    return False, run.metric(key).cost(number) if key in run.metrics else number, ""
