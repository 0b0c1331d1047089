"""What an offline run of W&B wrote into its files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrflow.loggers.wandb_file import records_of
from lrflow.loggers.wandb_history import STEP


def metrics_in(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a row, without its axes, pictures and tables."""
    media = {"picture", "table"}
    return {k: value for k, value in row.items() if k not in (STEP, "samples") and not media & {*k.split("/")}}


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def files_of(folder: Path, patience: float = 20.0) -> list[Path]:
    """The files of a run that has ended, once W&B's own process has written the last one to its end."""
    paths = sorted(folder.glob("wandb/*run-*/run-*.wandb"))
    deadline = time.monotonic() + patience
    while paths and time.monotonic() < deadline:
        if any(one.WhichOneof("record_type") == "exit" for one in records_of(paths[-1])):
            break
        time.sleep(0.02)
    return paths


class Logged:
    """The records of the files of a run, the later ones after the earlier ones."""

    def __init__(self, folder: Path) -> None:
        records = [(one.WhichOneof("record_type"), one) for path in files_of(folder) for one in records_of(path)]
        self.of = {kind: [getattr(one, kind) for name, one in records if name == kind] for kind, _ in records}

    @property
    def run(self) -> Any:
        """The run as it began."""
        return self.of["run"][-1]

    @property
    def config(self) -> dict[str, Any]:
        """The config by its first keys."""
        return _values(self.run.config.update)

    @property
    def summary(self) -> dict[str, Any]:
        """The last summary."""
        found: dict[str, Any] = {}
        for one in self.of["summary"]:
            found |= _values(one.update)
        return found

    @property
    def media(self) -> dict[str, dict[str, Any]]:
        """Pictures and tables by name."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.of.get("history", []):
            for name, value in _values(row.item).items():
                if "/picture/" in name or "/table/" in name:
                    key, _, field = name.rpartition("/")
                    found.setdefault(key, {})[field] = value
        return found

    @property
    def artifacts(self) -> dict[str, list[str]]:
        """The files of each artifact that is no table, by its type."""
        kept = [one for one in self.of.get("artifact", []) if one.type != "run_table"]
        return {one.type: sorted(file.path for file in one.manifest.contents) for one in kept}
