"""The results of a sweep, read back from its run folders."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lrflow.config.files import read as read_yaml
from lrflow.errors import ConfigError, Problem
from lrflow.runs import RunFolder

Value = str | float | bool | None

METRIC = "val/loss"  # where neither the sweep nor its trials say another
NOT_SWEPT = ("hydra", "trial", "resume", "output", "name", "task", "against")  # keys that say where, not what
_LARGER_IS_BETTER = ("accuracy", "return", "reward", "r2", "f1", "auroc", "precision", "recall")


@dataclass(frozen=True)
class Trial:
    """A job of a sweep, as its run folder tells of it.

    Args:
        number: its job number, or its place among folders without one.
        folder: of the run.
        status: `done`, `failed`, `stopped`, `pruned`, or `unfinished`: it is running, or was killed.
        given: the swept keys and their values; None: the trial has no such key.
        metrics: the last of each, by name.
        steps, seconds: that it took; None: it did not end.
        error: why it did not end well.
    """

    number: int
    folder: Path
    status: str
    given: Mapping[str, Value]
    metrics: Mapping[str, float]
    steps: int | None = None
    seconds: float | None = None
    error: str = ""

    @property
    def diverged(self) -> bool:
        """Whether it failed because its numbers were no longer finite."""
        return self.status == "failed" and re.search(r"\b(nan|inf)\b|not finite", self.error) is not None

    def value(self, metric: str) -> float | None:
        """The metric that it ended with: not finite where it diverged, None where it did not get so far."""
        if self.diverged:
            return math.nan
        return self.metrics.get(metric) if self.status == "done" else None

    def first_loss(self) -> float | None:
        """The training loss before the first step; None: it is not known, or not finite."""
        try:
            with RunFolder(self.folder).metrics.open(newline="") as file:
                first = next(csv.DictReader(file), {})
        except OSError:
            return None
        loss = number(first.get("train/loss")) if first.get("step") == "0" else None
        return loss if loss is not None and math.isfinite(loss) else None

    def history(self, *columns: str) -> list[tuple[list[int], list[float]]]:
        """Steps and values of columns of `metrics.csv`; empty where there is nothing to read."""
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in columns]
        try:
            with RunFolder(self.folder).metrics.open(newline="") as file:
                rows = csv.reader(file)
                header = next(rows, [])
                places = [
                    (header.index(name), into) for name, into in zip(columns, found, strict=True) if name in header
                ]
                for row in rows:
                    for place, (steps, values) in places:
                        if len(row) > place and row[place]:
                            values.append(float(row[place]))
                            steps.append(int(row[0]))
        except (OSError, ValueError):
            pass  # the last row of a run that was killed may be half a row
        return found


@dataclass(frozen=True)
class Sweep:
    """What a sweep folder holds.

    Args:
        folder: of the sweep.
        trials: by number.
        keys: that were swept, in the order in which they were typed.
        metric: that trials are judged by.
        mode: `min` or `max` of it is the best.
        notes: what could not be read, each a sentence.
    """

    folder: Path
    trials: tuple[Trial, ...]
    keys: tuple[str, ...]
    metric: str
    mode: str
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Trial | None:
        """The trial with the best metric; None: none ended well."""
        ended = [trial for trial in self.trials if math.isfinite(self.cost(trial))]
        return min(ended, key=self.cost, default=None)

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics: the one that trials are judged by, then the others."""
        names = sorted({name for trial in self.trials for name in trial.metrics})
        return sorted(names, key=lambda name: name != self.metric)

    @property
    def lr_key(self) -> str | None:
        """The learning rate that was swept; None: none was."""
        rates = [key for key in self.keys if key.rpartition(".")[2] == "lr" and len(self._numbers(key)) > 1]
        return next((key for key in rates if key == "optimizer.lr"), rates[0] if rates else None)

    def cost(self, trial: Trial) -> float:
        """The metric of a trial, turned so that less is better; infinite: it diverged, nan: it is not known."""
        value = trial.value(self.metric)
        if value is None:
            return math.nan
        return (value if self.mode == "min" else -value) if math.isfinite(value) else math.inf

    def _numbers(self, key: str) -> set[float]:
        found = (number(trial.given.get(key)) for trial in self.trials)
        return {value for value in found if value is not None and value > 0}

    def write_csv(self, path: Path) -> Path:
        """Write one row a trial: number, status, swept keys, metrics, steps, seconds, folder, error."""
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["trial", "status", *self.keys, *self.metrics, "steps", "seconds", "folder", "error"])
            for trial in self.trials:
                given = [trial.given.get(key) for key in self.keys]
                metrics = [trial.metrics.get(name) for name in self.metrics]
                ending = [trial.steps, trial.seconds, trial.folder.relative_to(self.folder), trial.error]
                rows.writerow([trial.number, trial.status, *given, *metrics, *ending])
        return path


def read_sweep(folder: Path, metric: str | None = None, mode: str | None = None) -> Sweep:
    """Read a folder of run folders: a sweep's, or any other.

    Args:
        folder: whose folders are runs.
        metric: that trials are judged by; None: the sweep's own, or what their best checkpoint is chosen by.
        mode: `min` or `max`; None: as the metric's name suggests.
    """
    records: list[tuple[Path, dict[str, Any], dict[str, Any]]] = []
    notes = []
    for path in sorted(folder.iterdir(), key=lambda path: (_job(path), path.name)):
        config = _mapping(path / "config.yaml")
        if config:
            records.append((path, config, RunFolder(path).read_summary()))
        elif _job(path) < math.inf:
            notes.append(f"trial {path.name} left nothing that can be read")
    typed = [_typed(config) for _, config, _ in records]
    keys = [key for key in dict.fromkeys(key for given in typed for key in given) if not key.startswith(NOT_SWEPT)]
    values = [
        {key: _given(key, given, config) for key in keys} for given, (_, config, _) in zip(typed, records, strict=True)
    ]
    swept = [key for key in keys if len({repr(given[key]) for given in values}) > 1]
    trials = [
        _trial(place, path, {key: given[key] for key in swept}, summary)
        for place, ((path, _, summary), given) in enumerate(zip(records, values, strict=True))
    ]
    own = _mapping(folder / "sweep.yaml").get("settings", {})
    saving = [config.get("trainer", {}).get("checkpoint", {}) for _, config, _ in records]
    wanted = (
        metric or _first(own.get("metric")) or next((each["monitor"] for each in saving if each.get("monitor")), METRIC)
    )
    known = {name for trial in trials for name in trial.metrics}
    if known and wanted not in known and metric is None:
        wanted = min(known, key=lambda name: ("loss" not in name, name))
    mode = mode or (_first(own.get("mode")) if wanted == _first(own.get("metric")) else None)
    return Sweep(folder, tuple(trials), tuple(swept), wanted, mode or mode_of(wanted), tuple(notes))


def find_sweep(wanted: str, output: Path, key: str) -> Path:
    """The folder that `last` or a path stands for.

    Args:
        wanted: `last`: the newest sweep under `output`; or a folder of run folders.
        output: where sweep folders are made, under its `sweeps/`.
        key: of the configuration that asks, for the message.

    Raises:
        ConfigError: there is no such folder, or no run is in it.
    """
    if wanted == "last":
        found = {path.parent.parent for path in output.glob("sweeps/*/*/config.yaml")}
        if not found:
            message = f"expected a sweep under {output}/sweeps/, and there is none"
            raise ConfigError([Problem(key, message, wanted, "sweep first (-m), or give a folder of run folders")])
        return max(found, key=lambda path: (path.stat().st_mtime, path.name))
    folder = Path(wanted)
    if not any(folder.glob("*/config.yaml")):
        message = "expected `last` or a folder that holds run folders"
        hint = "give the folder above it" if (folder / "config.yaml").is_file() else None
        raise ConfigError([Problem(key, message, wanted, hint)])
    return folder


def mode_of(metric: str) -> str:
    """Whether less (`min`) or more (`max`) of a metric is better, by its name."""
    return "max" if any(word in metric.lower() for word in _LARGER_IS_BETTER) else "min"


def number(value: object) -> float | None:
    """A value as a number; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _trial(place: int, path: Path, given: Mapping[str, Value], summary: Mapping[str, Any]) -> Trial:
    status = str(summary.get("status", "unfinished"))
    metrics = {
        name: value for name, found in summary.get("metrics", {}).items() if (value := number(found)) is not None
    }
    return Trial(
        int(_job(path)) if _job(path) < math.inf else place,
        path,
        "done" if status == "finished" else status,
        given,
        metrics,
        summary.get("steps"),
        summary.get("seconds"),
        str(summary.get("error", "")),
    )


def _typed(config: Mapping[str, Any]) -> dict[str, str]:
    """The overrides of a run by key."""
    pairs = (text.partition("=") for text in config.get("lrflow", {}).get("overrides", ()))
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _given(key: str, typed: Mapping[str, str], config: Mapping[str, Any]) -> Value:
    """The value of a key in a run: as it was typed, or as its options have it."""
    found: Any = config.get("lrflow", {}).get("choices", {}).get(key)
    if key in typed:
        found = typed[key].strip("'\"")
    elif found is None:
        found = config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    value = number(found)
    if value is None:
        return found if found is None or isinstance(found, str | bool) else json.dumps(found)
    return int(value) if value.is_integer() and "." not in str(found) and "e" not in str(found).lower() else value


def _job(path: Path) -> float:
    """The job number that a folder is called by; infinite: it is called otherwise."""
    return int(path.name) if path.name.isdecimal() else math.inf


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _first(value: object) -> Any:
    """The first objective, of a sweep that may have several."""
    return (value[0] if value else None) if isinstance(value, Sequence) and not isinstance(value, str) else value
