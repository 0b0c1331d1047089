"""The logger for Weights & Biases: what a run is, its metrics, its pictures and tables, and how it ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pytorch_lightning.utilities import rank_zero_only

from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.files import write_whole
from lrflow.finding import kinds_of, read_findings
from lrflow.loggers.contents import AT_END, Table, before_first_step, pictures_in, tables_in
from lrflow.loggers.dashboard import About
from lrflow.loggers.wandb_artifacts import log_artifacts, staged_in
from lrflow.loggers.wandb_history import STEP, WandbHistory
from lrflow.outcome import Outcome
from lrflow.redaction import redact_text
from lrflow.runs import RunFolder

log = logging.getLogger("lrflow")

OPTIONS = "options"
"""Key of the config under which W&B has the option of each group: `options.schedule` is `cosine`."""

_LONGEST_TAG = 64  # characters, which W&B takes


def is_of_agent() -> bool:
    """Return whether an agent of a W&B sweep started this process; W&B then sets project, entity and id of the run."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def adopt_id_of_agent(folder: RunFolder) -> None:
    """Give a run that an agent started the id that the agent chose."""
    path, given = folder.path / "run_id", os.environ.get("WANDB_RUN_ID")
    if is_of_agent() and given and not path.exists():
        write_whole(path, f"{given}\n")


class WandbRun(WandbHistory):
    """Logs a run to W&B.

    Args:
        folder: the run folder.
        run_id: id of the run on dashboards.
        about: what the dashboard shows of the run.
        settings: the keys of `logger.wandb`.
        mode: `online`, `offline` or `disabled`.

    Raises:
        ConfigError: W&B refuses the settings.
    """

    def __init__(
        self, folder: Path, run_id: str | None, about: About, settings: Mapping[str, Any], mode: str = "offline"
    ) -> None:
        self.about, self._settings = about, settings
        place = {key: settings.get(key) for key in ("project", "entity")} if not is_of_agent() else {}
        tags = [
            tag[:_LONGEST_TAG] for tag in (*about.tags, *(redact_text(str(tag)) for tag in settings.get("tags") or ()))
        ]
        super().__init__(
            folder,
            **{key: value for key, value in place.items() if value is not None},
            name=about.name,
            id=run_id,
            resume="allow",
            mode=mode,
            group=settings.get("group") or about.group,
            job_type=settings.get("job_type") or about.task,
            notes=redact_text(settings["notes"]) if settings.get("notes") else None,
            tags=[*dict.fromkeys(tags)],
            config={OPTIONS: dict(about.options), **about.config},
            settings=_settings_of(settings.get("settings") or {}),
        )
        self._wandb_init.pop("anonymous", None)  # of Lightning's, about which W&B (0.31) warns

    @rank_zero_only
    def describe(self, folder: Path, clock: Mapping[str, Callable[[int], float]]) -> None:
        """Start the run, and show its plan and the search for its LR.

        Args:
            folder: the folder that holds the record of the plan.
            clock: further axes, such as `samples`, each with a function from the number of steps to its amount.
        """
        self.read_earlier()  # before the run starts, and with it a file of its own
        run = self.experiment
        for name in dict.fromkeys((STEP, self.axis)):
            run.define_metric(name, hidden=True)
        run.define_metric("*", step_metric=self.axis)
        for name in clock:
            run.define_metric(name, hidden=True)
        self.clock = dict(clock)
        for place, name in before_first_step(folder, self._folder):
            self._attach(place, (name,))

    def define(self, name: str) -> None:
        """Let the summary have the best and the last value of a metric whose mode is known.

        An agent's sweep reads the metric that it optimizes from the summary, so that it stays a single number there.
        """
        mode = self.about.modes(name)
        if mode is not None and not (is_of_agent() and name == self.about.metric):
            self.experiment.define_metric(name, step_metric=self.axis, summary=f"{mode},last")

    @rank_zero_only
    def conclude(self, outcome: Outcome) -> None:
        """Log what the end of the run adds, and how it ended."""
        findings = read_findings(self._folder)
        self._attach(self._folder, AT_END)
        if findings:
            self.attach({"findings/table": self._table(Table.of_findings(findings))})
        self.close_rows()
        ending: dict[str, Any] = self.about.ending(self._folder, outcome)
        ending |= {"error": redact_text(outcome.reason)} if outcome.reason else {}
        ending |= {
            "findings": [redact_text(one.line) for one in findings],
            "findings/kinds": ", ".join(kinds_of(findings)),
        }
        counts = {"steps": outcome.steps, "planned_steps": outcome.planned, "seconds": round(outcome.seconds, 2)}
        self.experiment.summary.update({**ending, **{key: value for key, value in counts.items() if value is not None}})
        if self._settings.get("artifacts"):
            _attempt("artifacts", lambda: self._log_artifacts(outcome))

    def _log_artifacts(self, outcome: Outcome) -> None:
        with staged_in(self._folder / "wandb"):
            log_artifacts(self.experiment, RunFolder(self._folder), self.about, outcome)

    def _attach(self, folder: Path, names: tuple[str, ...]) -> None:
        """Log the pictures and tables with these names in a folder with the next row."""
        import wandb

        def read() -> None:  # now, since the folder of a resumed run's plan is temporary
            for name, picture in pictures_in(folder, names):
                self.attach({f"{name}/picture": wandb.Image(picture)})
            for name, table in tables_in(folder, names).items():
                self.attach({f"{name}/table": self._table(table)})

        _attempt(", ".join(names), read)

    @staticmethod
    def _table(table: Table) -> Any:
        import wandb

        rows = [[redact_text(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows]
        return wandb.Table(columns=table.columns, data=rows, allow_mixed_types=True)


def _attempt(what: str, function: Callable[[], None]) -> None:
    """Call a function; an exception of W&B's or of a file's is reported, and ends nothing."""
    try:
        function()
    except LrflowError:
        raise
    except Exception as error:  # W&B raises any
        log.warning("logger.wandb: cannot log %s: %s", what, str(error).partition("\n")[0] or type(error).__name__)


def _settings_of(given: Mapping[str, Any]) -> Any:
    """Return W&B's settings.

    Raises:
        ConfigError: W&B has no such setting, or not such a value.
    """
    if not given:
        return None
    import wandb

    try:
        return wandb.Settings(**given)
    except ValidationError as error:
        problems = [
            Problem(".".join(["logger.wandb.settings", *map(str, one["loc"])]), one["msg"].lower(), one["input"])
            for one in error.errors()
        ]
        raise ConfigError(problems) from error
