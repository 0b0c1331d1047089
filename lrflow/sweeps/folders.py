"""Finds sweep folders, and reads a sweep's trials from their run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lrflow.config.origins import read_yaml as read_yaml
from lrflow.config.overrides import Override, values_of
from lrflow.config.validation import AUTO
from lrflow.errors import ConfigError, Problem
from lrflow.metric import Directions, Metric
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.results import SweepResults, TrialResult, Value, number_or_none

RECORD = "sweep.yaml"  # in the folder of a search: what it was asked for; a grid of Hydra's own leaves none
NOT_SWEPT = ("hydra", "trial", "resume", "output", "name", "task", "against")  # keys that say where, not what


def read_sweep(
    folder: Path,
    metric: str | Sequence[str] | None = None,
    mode: str | Sequence[str] | None = None,
    rank_ended_early: bool | None = None,
) -> SweepResults:
    """Read a folder of run folders: a sweep's, or any other.

    Args:
        folder: whose folders are runs.
        metric: that trials are judged by, or several; None: the sweep's own, or that of the best checkpoints.
        mode: `min` or `max` of each, or one for all; None: the sweep's own, or as the metric's name suggests.
        rank_ended_early: whether trials that ended early are judged as those that finished; None: the sweep's own.
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
    record = _mapping(folder / RECORD)
    own = record.get("settings", {})
    varied = _varied(folder, record)
    if varied & {*swept}:  # else the record is not of these runs
        notes += [f"{key} is not the same in all trials, though it was not swept" for key in swept if key not in varied]
        swept = [key for key in swept if key in varied]
    ranks = bool(own.get("rank_ended_early")) if rank_ended_early is None else rank_ended_early
    asked = _directions(records[0][1] if records else {}, own)
    ranked = [each.name for each in asked.objectives] if own else []  # by the study, for which such a run diverged
    trials = [
        _trial(place, path, {key: given[key] for key in swept}, summary, ranks, ranked)
        for place, ((path, _, summary), given) in enumerate(zip(records, values, strict=True))
    ]
    names = _listed(metric) or [each.name for each in asked.objectives]
    modes = _paired(names, _listed(mode))
    objectives = tuple(Metric.parse(name, modes[name]) if name in modes else asked(name) for name in names)
    return SweepResults(folder, tuple(trials), tuple(swept), objectives, tuple(notes))


def find_sweep(wanted: str, output: Path, key: str, searched: bool = False) -> Path:
    """The folder that `last` or a path stands for.

    Args:
        wanted: `last`: the sweep under `output` that began last, or went on last; or a folder of run folders.
        output: where sweep folders are made, under its `sweeps/`.
        key: of the configuration that asks, for the message.
        searched: only those of `hydra/sweeper=lrflow` are looked for, which leave a record.

    Raises:
        ConfigError: there is no such folder, or no run is in it.
    """
    if wanted == "last":
        begun: dict[Path, float] = {}
        for path in output.glob(f"sweeps/*/{RECORD}" if searched else "sweeps/*/*/config.yaml"):
            sweep = path.parent if searched else path.parent.parent
            begun[sweep] = max(path.stat().st_mtime, begun.get(sweep, 0.0))
        if not begun:
            kind = "a sweep of hydra/sweeper=lrflow" if searched else "a sweep"
            message = f"expected {kind} under {output}/sweeps/, and there is none"
            raise ConfigError([Problem(key, message, wanted, "sweep first (-m), or give a folder of run folders")])
        return max(begun, key=lambda folder: (begun[folder], folder.name))
    folder = Path(wanted)
    if not searched and not any(folder.glob("*/config.yaml")):
        message = "expected `last` or a folder that holds run folders"
        hint = "give the folder above it" if (folder / "config.yaml").is_file() else None
        raise ConfigError([Problem(key, message, wanted, hint)])
    return folder


def _trial(
    place: int, path: Path, given: Mapping[str, Value], summary: Mapping[str, Any], ranks: bool, ranked: Sequence[str]
) -> TrialResult:
    number = int(_job(path)) if _job(path) < math.inf else place
    ended = Outcome.from_summary(summary, path)
    if ended is None:
        return TrialResult(number, path, "unfinished", given, {})
    ended = ended.checked_finite(ranked)
    return TrialResult(
        number, path, ended.status, given, ended.metrics, ended.steps, summary.get("seconds"), ended.reason, ranks
    )


def _typed(config: Mapping[str, Any]) -> dict[str, str]:
    """The overrides of a run by key."""
    return values_of(config.get("lrflow", {}).get("overrides", ()))


def _varied(folder: Path, record: Mapping[str, Any]) -> set[str]:
    """The keys that a sweep varied, by its own record or by Hydra's; empty: neither tells."""
    if space := record.get("space"):
        return {str(text).partition(":")[0].partition(" ")[0] for text in space}
    texts = _mapping(folder / "multirun.yaml").get("hydra", {}).get("overrides", {}).get("task", ())
    given = [Override.read(str(text)) for text in texts]
    return {override.key for override in given if override.is_swept}


def _given(key: str, typed: Mapping[str, str], config: Mapping[str, Any]) -> Value:
    """The value of a key in a run: as it was typed, or as its options have it."""
    found: Any = config.get("lrflow", {}).get("choices", {}).get(key)
    if key in typed and typed[key] != AUTO:  # in whose place the config has the number that was found
        found = typed[key].strip("'\"")
    elif found is None:
        found = config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    value = number_or_none(found)
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


def _directions(config: Mapping[str, Any], own: Mapping[str, Any]) -> Directions:
    """What a run of a sweep says about its metrics, and the record of the sweep.

    Runs that note no modes are older, and have `min` where nobody had given one: there it holds where it was typed.
    """
    noted = config.get("lrflow", {}).get("metrics")
    said = Directions.of({**config, "sweep": own}, noted)
    if noted is not None:
        return said
    typed = {*_typed(config), "sweep.mode", "trial.mode"}
    return replace(said, given=tuple(each for each in said.given if each[2] != "min" or each[0] in typed))


def _listed(value: Any) -> list[str]:
    """One text or several as a list; none as an empty one."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _paired(metrics: Sequence[str], modes: list[str]) -> dict[str, str]:
    """The mode of each metric, of which one may stand for all."""
    return dict(zip(metrics, modes * len(metrics) if len(modes) == 1 else modes, strict=False))
