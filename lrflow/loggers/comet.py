"""The logger for Comet: an archive in the run folder, or Comet's server if there is a key."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrflow.errors import ConfigError, Problem
from lrflow.finding import Finding, spoken
from lrflow.loggers.dashboard import About, Dashboard
from lrflow.outcome import Outcome
from lrflow.redaction import redact, redact_text

FOLDER = "comet"
"""Folder of the archives in the run folder."""

_SWITCHED_OFF = (
    "log_code", "log_graph", "log_git_metadata", "log_git_patch", "log_env_details", "parse_args",
    "auto_param_logging", "auto_metric_logging", "auto_histogram_weight_logging", "auto_output_logging",
)  # fmt: skip
"""What Comet would log by itself, with the command line and its secrets."""


class CometLogger(Dashboard):
    """Logs a run to Comet; offline into archives in the run folder, which `comet upload` sends later.

    Args:
        folder: the run folder.
        run_id: id of the run on dashboards.
        about: what the dashboard shows of the run.
        settings: the keys of `logger.comet`.

    Raises:
        ConfigError: it should be online, and there is no key.
    """

    label = "comet"

    def __init__(self, folder: Path, run_id: str, about: About, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, run_id, about)
        mode, key = settings.get("mode", "auto"), "logger.comet.mode"
        if mode == "online" and not os.environ.get("COMET_API_KEY"):
            hint = f"set COMET_API_KEY; {key}=offline needs no key"
            raise ConfigError([Problem(key, "needs an API key, and there is none", mode, hint)])
        self._is_online = mode == "online" or (mode == "auto" and bool(os.environ.get("COMET_API_KEY")))
        self._settings = settings
        self._key = hashlib.sha256(run_id.encode()).hexdigest()[:32]
        self._experiment: Any = None

    @property
    def experiment(self) -> Any:
        """Comet's experiment; None before it was started: Lightning asks for it, and may not fail by that."""
        return self._experiment

    def _start(self) -> None:
        if self._experiment is None:
            os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")  # before the import, which would change torch
            import comet_ml

            settings = comet_ml.ExperimentConfig(
                name=self.about.name,
                tags=[*self.about.tags, *(redact_text(str(tag)) for tag in self._settings.get("tags") or ())],
                offline_directory=str(self.folder / FOLDER),
                display_summary_level=0,
                **dict.fromkeys(_SWITCHED_OFF, False),
            )
            self._experiment = comet_ml.start(
                project=self._settings.get("project"),
                workspace=self._settings.get("workspace"),
                experiment_key=self._key,
                mode="get_or_create",
                online=self._is_online,
                experiment_config=settings,
            )
            self._experiment.log_parameters({key: str(value) for key, value in redact(self.about.flat).items()})
            if self.about.group:
                self._experiment.log_other("sweep", self.about.group)

    def open(self) -> dict[int, set[str]]:
        """Start the experiment, or continue it, and return the metrics of each step that Comet has."""
        known: dict[int, set[str]] = {}
        for metric in self._of_server() if self._is_online else metrics_in(self.folder / FOLDER):
            if metric.get("step") is not None:
                known.setdefault(int(metric["step"]), set()).add(str(metric["metricName"]))
        self._start()
        return known

    def _of_server(self) -> list[dict[str, Any]]:
        import comet_ml

        found: Any = comet_ml.API().get_experiment_by_key(self._key)
        return [] if found is None else list(found.get_metrics())

    def send(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Send the values of steps."""
        for step, row in rows:
            epoch = row.get("epoch")
            self.experiment.log_metrics(row, step=step, epoch=None if epoch is None else int(epoch))

    def show(self, findings: list[Finding]) -> None:
        """Tag the experiment with the kinds, and log the last finding of each under `other`."""
        for kind, line in {one.kind: one.line for one in findings}.items():
            self.experiment.add_tag(spoken(kind))
            self.experiment.log_other(f"finding {spoken(kind)}", line)

    def end(self, outcome: Outcome) -> None:
        """Report how the run ended, since Comet's experiments have no status, and close it."""
        for key, value in self.about.ending(self.folder, outcome).items():
            self.experiment.log_other(key, value)
        self.experiment.end()

    def discard(self) -> None:
        """Close the experiment; its archive is removed with the run folder."""
        if self._experiment is not None:
            self._experiment.end()


def metrics_in(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics in the archives of a folder: `metricName`, `metricValue`, `step` and `epoch` of each."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.zip")):
        with suppress(OSError, KeyError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            for line in archive.read("messages.json").decode().splitlines():
                message = json.loads(line)
                if message.get("type") == "metric_msg":
                    found.append(message["payload"]["metric"])
    return found
