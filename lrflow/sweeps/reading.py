"""Reads a sweep back from its run folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lrflow.config.files import read as read_yaml
from lrflow.errors import ConfigError, Problem
from lrflow.runs import RunFolder
from lrflow.sweeps.recorded import Objective, Trial, Value, mode_of, number
from lrflow.sweeps.results import Sweep

RECORD = "sweep.yaml"  # in the folder of a search: what it was asked for; a grid of Hydra's own leaves none
METRIC = "val/loss"  # where neither the sweep nor its trials say another
NOT_SWEPT = ("hydra", "trial", "resume", "output", "name", "task", "against")  # keys that say where, not what


def read_sweep(
    folder: Path, metric: str | Sequence[str] | None = None, mode: str | Sequence[str] | None = None
) -> Sweep:
    """Read a folder of run folders: a sweep's, or any other.

    Args:
        folder: whose folders are runs.
        metric: that trials are judged by, or several; None: the sweep's own, or that of the best checkpoints.
        mode: `min` or `max` of each, or one for all; None: the sweep's own, or as the metric's name suggests.
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
    own = _mapping(folder / RECORD).get("settings", {})
    wanted = _listed(metric) or _listed(own.get("metric")) or [_usual(trials, [config for _, config, _ in records])]
    modes = _paired(_listed(own.get("metric")), _listed(own.get("mode"))) | _paired(wanted, _listed(mode))
    objectives = tuple(Objective(name, modes.get(name) or mode_of(name)) for name in wanted)
    return Sweep(folder, tuple(trials), tuple(swept), objectives, tuple(notes))


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


def _usual(trials: Sequence[Trial], configs: Sequence[Mapping[str, Any]]) -> str:
    """The metric that the best checkpoint is chosen by; where no trial has it another, a loss rather than anything."""
    saving = [config.get("trainer", {}).get("checkpoint", {}) for config in configs]
    usual = next((each["monitor"] for each in saving if each.get("monitor")), METRIC)
    known = {name for trial in trials for name in trial.metrics}
    return min(known or {usual}, key=lambda name: (name != usual, "loss" not in name, name))


def _listed(value: Any) -> list[str]:
    """One text or several as a list; none as an empty one."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _paired(metrics: Sequence[str], modes: list[str]) -> dict[str, str]:
    """The mode of each metric, of which one may stand for all."""
    return dict(zip(metrics, modes * len(metrics) if len(modes) == 1 else modes, strict=False))
