"""The logger for MLflow: a database on this machine by default, or a server."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lrflow import files
from lrflow.finding import Finding, kinds_of
from lrflow.loggers.dashboard import About, Dashboard
from lrflow.outcome import Outcome
from lrflow.redaction import redact
from lrflow.runs import RunFolder

ENDS = {"finished": "FINISHED", "ended_early": "FINISHED", "stopped": "KILLED", "pruned": "KILLED"}
"""MLflow's status of a run by its outcome; of any other outcome it is FAILED."""

RUN_ID = "lrflow.run_id"
"""Tag by which a resumed run finds its run in MLflow."""

LOCAL = "mlflow.db"
"""The database in the working directory that MLflow itself takes by default."""

_BATCH = 1000  # metrics that MLflow (3.17) takes at once
_PARAMETERS = 100
_NOT_IN_NAMES = re.compile(r"[^\w\-./: ]")


class MLflowLogger(Dashboard):
    """Logs a run to MLflow: its metrics, the config as parameters, the options as tags, and how it ended.

    Args:
        folder: the run folder.
        run_id: id of the run on dashboards.
        about: what the dashboard shows of the run.
        settings: the keys of `logger.mlflow`.
    """

    label = "mlflow"

    def __init__(self, folder: Path, run_id: str, about: About, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, run_id, about)
        given = settings.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
        self.tracking_uri = given or f"sqlite:///{Path(LOCAL).resolve()}"
        self._settings = settings
        self._client: Any = None
        self._id = ""

    @property
    def experiment(self) -> Any:
        """MLflow's client; None before the run was started there: Lightning asks for it, and may not fail by that."""
        return self._client

    def _connected(self) -> Any:
        if self._client is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report uses to its makers
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # lrflow tries again itself, later
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):  # after the import, which sets them
                logging.getLogger(name).setLevel(logging.WARNING)
            with ExitStack() as stack:
                if file := _file_of(self.tracking_uri):  # two processes cannot both create its tables
                    file.parent.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(files.lock(file.with_name(f".{file.name}.lock")))
                self._client = MlflowClient(self.tracking_uri)
        return self._client

    def spell(self, name: str) -> str:
        """Return a name with the characters that MLflow (3.17) allows; the others become underscores."""
        return _NOT_IN_NAMES.sub("_", name)

    @property
    def mlflow_id(self) -> str:
        """The id of the run in MLflow; empty before it was started there."""
        return self._id

    def open(self) -> dict[int, set[str]]:
        """Start the run, or continue it, and return the metrics of each step that MLflow has."""
        client = self._connected()
        name = str(self._settings.get("experiment") or "lrflow")
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else _created(client, name)
        runs = client.search_runs([experiment], f"tags.`{RUN_ID}` = '{self.run_id}'", max_results=1)
        tags = {key: str(value) for key, value in self._tags().items()}
        if runs:
            run = runs[0]
            for key, value in tags.items():
                client.set_tag(run.info.run_id, key, value)
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = client.create_run(experiment, run_name=self.about.name, tags=tags)
        self._id = run.info.run_id
        self._log_parameters(run.data.params)
        known: dict[int, set[str]] = {}
        for key in run.data.metrics:
            for metric in client.get_metric_history(self._id, key):
                known.setdefault(metric.step, set()).add(key)
        return known

    def _tags(self) -> dict[str, Any]:
        group = {"sweep": self.about.group} if self.about.group else {}
        own = redact(dict(self._settings.get("tags") or {}))
        return {RUN_ID: self.run_id, **self.about.options, **group, **own}

    def _log_parameters(self, known: Mapping[str, str]) -> None:
        """Log the config; MLflow does not let a resumed run change what it has."""
        from mlflow.entities import Param

        given = {self.spell(key)[:250]: str(value)[:6000] for key, value in self.about.flat.items()}
        new = [Param(key, value) for key, value in given.items() if key not in known]
        for at in range(0, len(new), _PARAMETERS):
            self.experiment.log_batch(self._id, params=new[at : at + _PARAMETERS])

    def send(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Send the values of steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for step, row in rows for name, value in row.items()]
        for at in range(0, len(metrics), _BATCH):
            self.experiment.log_batch(self._id, metrics=metrics[at : at + _BATCH])

    def show(self, findings: list[Finding]) -> None:
        """Set tags: `lrflow.findings` with the kinds, and one per kind with its last finding."""
        self.experiment.set_tag(self._id, "lrflow.findings", ", ".join(kinds_of(findings)))
        for kind, line in {one.kind: one.line for one in findings}.items():
            self.experiment.set_tag(self._id, f"lrflow.findings.{self.spell(kind)}", line[:5000])

    def end(self, outcome: Outcome) -> None:
        """Report how the run ended."""
        client = self.experiment
        for key, value in self.about.ending(self.folder, outcome).items():
            if isinstance(value, str):
                client.set_tag(self._id, f"lrflow.{key}", value[:5000])
            else:
                client.log_metric(self._id, self.spell(key), value)
        folder = RunFolder(self.folder)
        if self._settings.get("artifacts"):
            for path in (folder.config, folder.path / "plan.png", folder.summary, folder.checkpoints / "best.ckpt"):
                if path.exists():
                    client.log_artifact(self._id, str(path))
        client.set_terminated(self._id, ENDS.get(outcome.status, "FAILED"))

    def discard(self) -> None:
        """Delete the run."""
        if self._id:
            self.experiment.delete_run(self._id)


def _created(client: Any, name: str) -> str:
    """Create an experiment; another job of a sweep may be faster."""
    try:
        return str(client.create_experiment(name))
    except Exception:
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _file_of(uri: str) -> Path | None:
    """Return the file of a SQLite database; None for anything else."""
    path = uri.removeprefix("sqlite:///")
    return Path(path) if path != uri and path else None
