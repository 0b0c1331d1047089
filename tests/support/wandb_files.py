"""What an offline run of W&B wrote into its files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrflow.loggers.wandb_file import records_of
from lrflow.loggers.wandb_history import OF_LIGHTNING, STEP

AXES = (STEP, OF_LIGHTNING)


def metrics_in(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a row, without its axes, pictures and tables."""
    media = {"picture", "table"}
    return {k: value for k, value in row.items() if k not in (*AXES, "samples") and not media & {*k.split("/")}}


def write_file(
    folder: Path,
    rows: dict[int, dict[str, Any]],
    stamp: str = "1",
    cut: int = 0,
    shifted: dict[int, dict[str, Any]] | None = None,
    axis: str = STEP,
    run_id: str = "abc",
) -> None:
    """Write a file as W&B does: records in blocks of LevelDB's log format; `shifted` are logged again afterwards."""
    from wandb.proto import wandb_internal_pb2

    data = b":W&B\xe1\xbe\x00"
    again = enumerate((shifted or {}).items(), max(rows, default=-1) + 1)
    for own, (step, row) in [*((step, (step, row)) for step, row in rows.items()), *again]:
        record = wandb_internal_pb2.Record()
        record.history.step.num = own
        for name, value in {"_step": own, axis: step, **row}.items():
            item = record.history.item.add()
            item.nested_key.append(name)
            item.value_json = json.dumps(value)
        content, kind = record.SerializeToString(), 0
        while content or not kind:
            left = 32768 - len(data) % 32768
            if left < 7:
                data += bytes(left)
                continue
            part, content = content[: left - 7], content[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[(not kind, not content)]
            data += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
    path = folder / f"wandb/offline-run-{stamp}-{run_id}/run-{run_id}.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(data[: len(data) - cut])
    os.utime(path, (0, 0))


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
