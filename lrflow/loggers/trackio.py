"""The logger for Trackio: a database on this machine, which `trackio show` displays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrflow.finding import Finding, spoken
from lrflow.loggers.dashboard import About, Dashboard
from lrflow.outcome import Outcome

_RESERVED = ("project", "run", "timestamp", "step", "time", "metrics")


class TrackioLogger(Dashboard):
    """Logs a run to Trackio's database on this machine; nothing is sent anywhere.

    It writes into the storage itself: a run of `trackio.init()` asks Hugging Face for the user's name if there is a
    token, and its thread drops what it cannot write (Trackio 0.43).

    Args:
        folder: the run folder.
        run_id: id of the run on dashboards.
        about: what the dashboard shows of the run.
        settings: the keys of `logger.trackio`.
    """

    label = "trackio"

    def __init__(self, folder: Path, run_id: str, about: About, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, run_id, about)
        self._project = str(settings.get("project") or "lrflow")
        self._group = settings.get("group") or about.group
        self._is_described = False  # whether Trackio has the config

    @property
    def experiment(self) -> Any:
        """Trackio's storage."""
        from trackio.sqlite_storage import SQLiteStorage

        return SQLiteStorage

    def open(self) -> dict[int, set[str]]:
        """Start the run, or continue it, and return the metrics of each step that Trackio has."""
        self._is_described = False
        known: dict[int, set[str]] = {}
        for row in self.experiment.get_logs(self._project, run_id=self.run_id):
            names = row.keys() - {"timestamp", "step"}
            known.setdefault(int(row["step"]), set()).update(names)
        return known

    def spell(self, name: str) -> str:
        """Return a name that Trackio does not use itself."""
        return f"__{name}" if name in _RESERVED or name.startswith("__") else name

    def send(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Write the values of steps, and the config with the first."""
        steps, metrics = [step for step, _ in rows], [row for _, row in rows]
        config = None if self._is_described else self._config()
        self.experiment.bulk_log(self._project, self.about.name, metrics, steps, config=config, run_id=self.run_id)
        self._is_described = True

    def _config(self, **more: str | float) -> dict[str, Any]:
        group = {"_Group": self._group} if self._group else {}
        return {**self.about.options, **self.about.flat, **group, **more}

    def show(self, findings: list[Finding]) -> None:
        """Write an alert per finding; Trackio keeps one of an id, so that none is repeated."""
        self.experiment.bulk_alert(
            self._project,
            self.about.name,
            [spoken(one.kind) for one in findings],
            [one.line for one in findings],
            ["warn"] * len(findings),
            [one.step for one in findings],
            alert_ids=[f"{self.run_id}/{one.kind}/{one.step}" for one in findings],
            run_id=self.run_id,
        )

    def end(self, outcome: Outcome) -> None:
        """Write how the run ended beside its config, since Trackio's runs have no status."""
        ended = self.about.ending(self.folder, outcome)
        step = max(outcome.steps or 0, 1) - 1
        storage: Any = self.experiment
        storage.bulk_log(self._project, self.about.name, [{}], [step], config=self._config(**ended), run_id=self.run_id)

    def discard(self) -> None:
        """Delete the run."""
        self.experiment.delete_run(self._project, self.about.name, self.run_id)
