"""Finds sweep folders, and reads a sweep's trials from their run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrflow.config.composition.options import changes_training
from lrflow.config.composition.overrides import Override, values_of
from lrflow.config.origins import READ_ERRORS, read_yaml
from lrflow.config.secrets import MASK
from lrflow.config.validation import AUTO, META, record_problems
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import is_file, is_folder
from lrflow.limits import FROM
from lrflow.metric import Directions, Metric, as_list
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder, read_json
from lrflow.sweeps.repeats import combined, repeats
from lrflow.sweeps.results import SweepResults, TrialResult, Value, number_or_none

RECORD = "sweep.yaml"  # settings and space of a sweep of hydra/sweeper=lrflow; Hydra's own sweeper writes none
TRIAL_RECORD = "trial.json"  # how a trial of several runs ended, in the folder of its first run
GRID_RECORD = "multirun.yaml"  # the config of a sweep of Hydra's own sweeper


def read_sweep(
    folder: Path,
    metric: str | Sequence[str] | None = None,
    mode: str | Sequence[str] | None = None,
    rank_ended_early: bool | None = None,
) -> SweepResults:
    """Read a folder of run folders, of a sweep or of any other origin.

    Args:
        folder: whose subfolders are runs.
        metric: one or several that rank the trials; None: those of the sweep, or that of the best checkpoints.
        mode: `min` or `max`, per metric or for all; None: that of the sweep, or as the name of the metric suggests.
        rank_ended_early: whether trials that ended early are ranked like finished ones; None: as in the sweep.
    """
    records: list[tuple[Path, dict[str, Any], dict[str, Any]]] = []
    warnings = []
    for path in sorted(folder.iterdir(), key=lambda path: (_job(path), path.name)):
        config = _mapping(path / "config.yaml")
        if config and not record_problems(config, path):
            records.append((path, config, RunFolder(path).read_summary()))
        elif _job(path) < math.inf:
            warnings.append(f"trial {path.name} cannot be read")
    typed = [_typed(config) for _, config, _ in records]
    given_keys = dict.fromkeys(key for given in typed for key in given)
    keys = [key for key in given_keys if changes_training(key) and key.partition(".")[0] != "task"]
    values = [
        {key: _given(key, given, config) for key in keys} for given, (_, config, _) in zip(typed, records, strict=True)
    ]
    swept = [key for key in keys if len({repr(given[key]) for given in values}) > 1]
    record = _mapping(folder / RECORD)
    own = record.get("settings", {})
    varied = swept_keys(folder)
    if varied & {*swept}:  # else the record is of other runs
        warnings += [f"{key} differs between trials, though it was not swept" for key in swept if key not in varied]
        swept = [key for key in swept if key in varied]
    ranks = bool(own.get("rank_ended_early")) if rank_ended_early is None else rank_ended_early
    directions = _directions(records[0][1] if records else {}, own)
    ranked = [each.name for each in directions.objectives] if own else []  # the study counts NaN there as divergence
    trials = [
        _trial(index, path, {key: given[key] for key in swept}, summary, ranks, ranked)
        for index, ((path, _, summary), given) in enumerate(zip(records, values, strict=True))
    ]
    count = own.get("repeats", 1)
    if isinstance(count, int) and count > 1:
        swept = [key for key in swept if key != "seed"]
        trials = _by_trial(trials, count, swept)
    else:
        trials, swept = _grouped(trials, swept)
    if record.get("ended"):
        warnings.append(str(record["ended"]))
    names = as_list(metric) or [each.name for each in directions.objectives]
    modes = _modes_by_metric(names, as_list(mode))
    objectives = tuple(Metric.parse(name, modes[name]) if name in modes else directions(name) for name in names)
    asks = bool(metric) or directions.names_objectives
    return SweepResults(folder, tuple(trials), tuple(swept), objectives, tuple(warnings), asks)


def find_sweep(wanted: str, output: Path, key: str, searched: bool = False) -> Path:
    """Return the sweep folder for `last` or a path.

    Args:
        wanted: `last` for the sweep under `output` that was started or resumed last, or a folder of run folders.
        output: the folder whose `sweeps/` holds the sweep folders.
        key: of the config, for the error message.
        searched: accept only sweeps that wrote a record, so that they can be resumed.

    Raises:
        ConfigError: there is no such folder, or it holds no run.
    """
    if wanted == "last":
        times: dict[Path, float] = {}
        for name in (RECORD, GRID_RECORD) if searched else ("*/config.yaml",):
            for path in output.glob(f"sweeps/*/{name}"):
                sweep = path.parent if searched else path.parent.parent
                times[sweep] = max(path.stat().st_mtime, times.get(sweep, 0.0))
        if not times:
            message = f"expected a sweep under {output}/sweeps/, but there is none"
            raise ConfigError([Problem(key, message, wanted, "run a sweep (-m), or give a folder of run folders")])
        return max(times, key=lambda folder: (times[folder], folder.name))
    folder = Path(wanted)
    if not is_folder(folder):
        raise ConfigError([Problem(key, "there is no such folder", wanted, "give the folder of a sweep, or `last`")])
    if not searched and not any(folder.glob("*/config.yaml")):
        message = "expected `last` or a folder of run folders"
        hint = "give its parent folder" if is_file(folder / "config.yaml") else None
        raise ConfigError([Problem(key, message, wanted, hint)])
    return folder


def overrides_of_grid(folder: Path) -> list[str] | None:
    """Return the overrides of a sweep of Hydra's own sweeper; None: the folder holds none."""
    hydra = _mapping(folder / GRID_RECORD).get("hydra")
    given = hydra.get("overrides") if isinstance(hydra, dict) and not (folder / RECORD).exists() else None
    if not isinstance(given, dict):
        return None
    return [str(text).removeprefix("++") for part in ("hydra", "task") for text in given.get(part) or ()]


def ended_run(folder: Path, overrides: Sequence[str]) -> Outcome | None:
    """Return how the run of a job ended that an earlier start of its sweep made; None: it has not ended.

    Args:
        folder: of the run.
        overrides: of the job; those that name no value are ignored.

    Raises:
        LrflowError: the folder holds a run with other values.
    """
    before, now = typed_values(folder), values_of(overrides)
    for key in before.keys() & now.keys():
        if MASK not in before[key] and before[key].strip("'\"") != now[key].strip("'\""):
            raise LrflowError(f"{folder} holds a run with {key}={before[key]}, and this job has {key}={now[key]}")
    ended = Outcome.from_summary(RunFolder(folder).read_summary(), folder)
    return None if ended is None or ended.status == "stopped" else ended


def _trial(
    index: int, path: Path, given: Mapping[str, Value], summary: Mapping[str, Any], ranks: bool, ranked: Sequence[str]
) -> TrialResult:
    number = int(_job(path)) if _job(path) < math.inf else index
    ended = Outcome.from_summary(summary, path)
    if ended is None:
        return TrialResult(number, path, "unfinished", given, {})
    ended = ended.checked_finite(ranked)
    return TrialResult(
        number, path, ended.status, given, ended.metrics, ended.steps, summary.get("seconds"), ended.reason, ranks
    )


def _by_trial(runs: Sequence[TrialResult], count: int, keys: Sequence[str]) -> list[TrialResult]:
    """Return the trials of a sweep; run r of trial n is job `n * count + r`, unless a dead machine had begun it."""
    records: dict[int, dict[str, Any]] = {}
    owners: dict[str, int] = {}
    for path in [run.folder / TRIAL_RECORD for run in runs]:
        record = read_json(path, dict) if path.exists() else {}
        if isinstance(number := record.get("trial"), int):
            records[number] = record
            listed = made if isinstance(made := record.get("runs"), list) else []
            owners |= {str(each.get("folder")): number for each in listed if isinstance(each, dict)}
    found: dict[int, list[TrialResult]] = {}
    for run in runs:
        found.setdefault(owners.get(run.folder.name, run.number // count), []).append(run)
    trials = []
    for number in sorted(found):
        of_trial, record = {run.number % count: run for run in found[number]}, records.get(number, {})
        trial = _repeated(of_trial, count, keys, last=bool(record))
        if record.get("status") == "pruned":
            trial = replace(trial, status="pruned", error=str(record.get("error", "")))
        numbered = tuple(replace(run, number=number) for run in trial.runs)
        trials.append(replace(trial, number=number, runs=numbered))
    return trials


def _grouped(runs: list[TrialResult], keys: list[str]) -> tuple[list[TrialResult], list[str]]:
    """Return the trials of a sweep over seeds or folds and other keys, which are ranked by the mean over the former.

    A trial is all runs with the same values of the other keys, and has the number of the first. Without other keys, or
    if no two runs repeat each other, each run is a trial.
    """
    others = [key for key in keys if not repeats(key)]
    groups: dict[tuple[Value, ...], list[TrialResult]] = {}
    for run in runs:
        groups.setdefault(tuple(run.given[key] for key in others), []).append(run)
    if not others or len(others) == len(keys) or len(groups) == len(runs):
        return runs, keys
    return [_repeated(dict(enumerate(group)), len(group), others) for group in groups.values()], others


def _repeated(runs: Mapping[int, TrialResult], count: int, keys: Sequence[str], last: bool = False) -> TrialResult:
    """Return the trial of some runs by the number of the repeat; see `combined`."""
    first = next(iter(runs.values()))
    ended = {repeat: _outcome_of(run) for repeat, run in runs.items() if run.status not in ("unfinished", "stopped")}
    outcome = combined(ended, count, first.ranks, last)
    given = {key: first.given[key] for key in keys}
    trial = replace(first, status="unfinished", given=given, metrics={}, runs=tuple(runs.values()), error="")
    if outcome is None:
        return replace(trial, steps=None, seconds=None)
    trial = replace(trial, metrics=outcome.metrics, steps=outcome.steps, seconds=outcome.seconds)
    return replace(trial, status=outcome.status, error=outcome.reason)


def _outcome_of(run: TrialResult) -> Outcome:
    facts = {"steps": run.steps, "seconds": run.seconds or 0.0, "folder": run.folder}
    return Outcome.from_record(run.status, run.error, run.metrics, **facts)


def typed_values(folder: Path) -> dict[str, str]:
    """Return the overrides of the run in a folder by key; empty: it has no readable config."""
    return _typed(_mapping(folder / "config.yaml"))


def _typed(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the overrides of a run by key."""
    return values_of(_record(config).get("overrides") or ())


def _record(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the config of a run records of its composition."""
    return config.get(META) or {}


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of lrflow's sweeper in a sweep folder; empty: there is none that can be read."""
    return _mapping(folder / RECORD)


def swept_keys(folder: Path) -> set[str]:
    """Return the keys that the sweep in a folder varies; empty: it holds no sweep."""
    record = _mapping(folder / RECORD)
    repeated = record.get("settings", {}).get("repeats", 1) != 1
    return _varied(folder, record) | ({"seed"} if repeated else set())


def _varied(folder: Path, record: Mapping[str, Any]) -> set[str]:
    """Return the swept keys according to the record of lrflow's sweeper or of Hydra's; empty: there is no record."""
    if space := record.get("space"):
        return {str(text).partition(":")[0].partition(" ")[0] for text in space}
    given = [Override.read(text) for text in overrides_of_grid(folder) or ()]
    return {override.key for override in given if override.is_swept}


def _given(key: str, typed: Mapping[str, str], config: Mapping[str, Any]) -> Value:
    """Return the value of a key in a run: the chosen option, the value as typed, or the value in the config."""
    value: Any = (_record(config).get("choices") or {}).get(key)
    text = Override(key, typed[key]).plain if key in typed else AUTO  # Hydra writes `from:RUN` as `from\\:RUN`
    if text != AUTO and not text.startswith(FROM):  # of these the config has the LR
        value = text
    elif value is None:
        value = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    number = number_or_none(value)
    if number is None:
        return value if value is None or isinstance(value, str | bool) else json.dumps(value)
    return int(number) if number.is_integer() and "." not in str(value) and "e" not in str(value).lower() else number


def _job(path: Path) -> float:
    """Return the job number that is the folder's name; infinite: its name is not a number."""
    return int(path.name) if path.name.isdecimal() else math.inf


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = read_yaml(path)
    except (*READ_ERRORS, ValueError):  # ValueError: a number of too many digits
        return {}
    return found if isinstance(found, dict) else {}


def _directions(config: Mapping[str, Any], own: Mapping[str, Any]) -> Directions:
    """Return the directions of the metrics, from the config of a run and the record of its sweep.

    Runs of old versions saved no modes, and have the mode `min` by default; there it counts only if it was typed.
    """
    modes = _record(config).get("metrics")
    directions = Directions.of({**config, "sweep": own}, modes)
    if modes is not None:
        return directions
    typed = {*_typed(config), "sweep.mode", "trial.mode"}
    return replace(directions, given=tuple(each for each in directions.given if each[2] != "min" or each[0] in typed))


def _modes_by_metric(metrics: Sequence[str], modes: list[str]) -> dict[str, str]:
    """Return the mode of each metric; a single mode counts for all."""
    return dict(zip(metrics, modes * len(metrics) if len(modes) == 1 else modes, strict=False))
