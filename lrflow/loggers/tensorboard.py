"""The logger for TensorBoard: metrics, the table of hyperparameters, and the plan and the config of the run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.loggers import TensorBoardLogger as OfLightning

from lrflow.finding import Finding
from lrflow.loggers.contents import AT_END, before_first_step, pictures_in, sampled
from lrflow.loggers.dashboard import BEST, About
from lrflow.outcome import Outcome
from lrflow.output import redact_message
from lrflow.redaction import redact


class TensorBoardLogger(OfLightning):
    """Lightning's logger, which masks secrets and describes the run.

    Args:
        folder: the run folder.
        about: what the dashboard shows of the run.
        options: of Lightning's logger.
    """

    def __init__(self, folder: Path, about: About, **options: Any) -> None:
        super().__init__(folder, name="tensorboard", version="", **options)
        self._folder, self._about = folder, about

    def log_hyperparams(self, params: Any, *args: Any, **options: Any) -> None:
        """Log hyperparameters, as of a module that calls `save_hyperparameters()`."""
        super().log_hyperparams(redact(dict(params)) if isinstance(params, Mapping) else params, *args, **options)

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer."""
        writer = super().experiment
        file_writer = getattr(writer, "file_writer", None)
        if file_writer is not None and "add_event" not in vars(file_writer):
            add = file_writer.add_event

            def add_redacted(event: Any, *args: Any, **options: Any) -> None:
                redact_message(event)
                add(event, *args, **options)

            file_writer.add_event = add_redacted
        return writer

    def describe(self, folder: Path, clock: Mapping[str, Any]) -> None:
        """Show the config, the plan, the search for the LR and the hyperparameters of the run.

        Args:
            folder: the folder that holds `plan.csv` and, unless the run is a job of a sweep, `plan.png`.
            clock: further axes, which TensorBoard does not have.
        """
        from torch.utils.tensorboard.summary import hparams

        writer: Any = self.experiment
        writer.add_text("config", _as_code(yaml.safe_dump(dict(self._about.config), sort_keys=False).splitlines()), 0)
        writer.add_text("options", _as_table(self._about.options), 0)
        if (table := folder / "plan.csv").exists():
            heading, *rows = table.read_text(encoding="utf-8").splitlines() or [""]
            writer.add_text("plan", _as_code([heading, *sampled(rows)]), 0)
        given = {**self._about.options, **{key: _value(text) for key, text in self._about.typed.items()}}
        metrics = dict.fromkeys(self._names(), 0.0)
        for summary in hparams(given, metrics)[:2]:  # the third would say that the run has ended
            writer.file_writer.add_summary(summary)
        for place, name in before_first_step(folder, self._folder):
            self._show(place, (name,), 0)
        writer.flush()

    def _show(self, folder: Path, names: tuple[str, ...], step: int) -> None:
        """Show the pictures with these names in a folder."""
        import numpy as np

        for name, picture in pictures_in(folder, names):
            self.experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def _names(self) -> list[str]:
        metric = self._about.metric
        return [metric, f"{BEST}/{metric}"] if metric else []

    def drop_from(self, step: int) -> None:
        """Mark the events of `step` and later as deleted: a resumed run writes them again."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        restart = Event(step=step, session_log=SessionLog(status=SessionLog.START))
        self.experiment.file_writer.add_event(restart)

    def report_finding(self, finding: Finding, again: bool = False) -> None:
        """Write what a monitor found; a finding that is found `again` was deleted by `drop_from`."""
        self.experiment.add_text(f"findings/{finding.kind}", finding.line, finding.step)

    def flush(self) -> None:
        """Write the events, of which a killed run would otherwise lose those of two minutes."""
        self.experiment.flush()

    def conclude(self, outcome: Outcome) -> None:
        """Log how the run ended."""
        self._show(self._folder, AT_END, outcome.steps or 0)
        if (best := self._about.best(self._folder)) is not None:
            self.experiment.add_scalar(self._names()[1], *best)
        self.experiment.add_text("outcome", f"{outcome.status} {outcome.reason}".strip(), outcome.steps)
        self.experiment.file_writer.add_summary(_end(outcome.exit_code == 0))


def _end(is_success: bool) -> Any:
    """Return the summary by which the table of hyperparameters knows that a run has ended, and how."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, PLUGIN_NAME, SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    status = Status.Value("STATUS_SUCCESS" if is_success else "STATUS_FAILURE")
    data = HParamsPluginData(
        session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()), version=PLUGIN_DATA_VERSION
    )
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=data.SerializeToString())
    return Summary(value=[Summary.Value(tag=SESSION_END_INFO_TAG, metadata=SummaryMetadata(plugin_data=plugin))])


def _as_code(lines: Iterable[str]) -> str:
    """Return lines as Markdown in which they stay as they are."""
    return "\n".join(f"    {line}" for line in lines)


def _as_table(values: Mapping[str, str]) -> str:
    return "\n".join(["| group | option |", "| --- | --- |", *(f"| {key} | {name} |" for key, name in values.items())])


def _value(text: str) -> float | str | bool:
    """Return a typed value as TensorBoard's table sorts it: a number, a switch or text."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text
