"""The base class of lrflow's own loggers for dashboards, which have each value once, also of a resumed run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lrflow.finding import Finding, read_findings
from lrflow.history import read_history
from lrflow.loggers.contents import found_in
from lrflow.loggers.failures import Failures
from lrflow.metric import Metric, guess_mode
from lrflow.outcome import Outcome
from lrflow.redaction import redact_text
from lrflow.runs import RunFolder

BEST = "best"
"""Prefix of the name under which dashboards show the best value of the metric."""

_MOST_PENDING = 100_000
"""Rows that are kept for a dashboard that cannot be reached; metrics.csv has the earlier ones."""


@dataclass(frozen=True)
class About:
    """What a dashboard shows of a run besides its metrics; holds no secrets.

    Args:
        name: name of the run.
        config: the resolved config.
        options: the option of each group, such as `{"schedule": "cosine"}`.
        typed: the overrides as the user typed them, or the sweep set them, by key.
        group: name of the sweep; None outside of one.
        metric: name of the metric that decides which checkpoint is the best; None: there is none.
        mode: `min` or `max`, whichever is better for the metric.
        modes: returns the mode of any metric by its name; None: it is unknown.
        facts: numbers that a task without metrics found.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    metric: str | None = None
    mode: str = "min"
    modes: Callable[[str], str | None] = guess_mode
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task: `train`, `find`, ..."""
        return self.options.get("task", "train")

    @property
    def tags(self) -> list[str]:
        """The recipe and the option of each group, such as `schedule=cosine`, without those that are `none`."""
        return [f"{group}={option}" for group, option in self.options.items() if option != "none"]

    def best(self, folder: Path) -> tuple[float, int] | None:
        """Return the best value of the metric in the metrics.csv of a run folder, and its step; None: there is none."""
        if self.metric is None:
            return None
        series = read_history(RunFolder(folder).metrics, self.metric.__eq__)[self.metric]
        return series.best(Metric.parse(self.metric, self.mode))

    def ending(self, folder: Path, outcome: Outcome) -> dict[str, str | float]:
        """Return how a run ended: `status`, `reason`, what it found, and the best value of the metric with its step."""
        found: dict[str, str | float] = {"status": outcome.status, "reason": redact_text(outcome.short_reason)}
        found |= {**found_in(folder), **self.facts}
        if (best := self.best(folder)) is not None:
            found |= {f"{BEST}/{self.metric}": best[0], f"{BEST}/step": best[1]}
        return found

    @property
    def flat(self) -> dict[str, Any]:
        """The config by dotted keys."""
        return dict(_flat(self.config))


def _flat(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        for name, value in content.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    elif key:
        yield key, content


class Dashboard(Logger):
    """A logger whose dashboard gets every value once, under the step of its row in metrics.csv.

    A resumed run does not repeat what the dashboard has, and first logs the rows of metrics.csv that it lacks, because
    the process was killed or the dashboard could not be reached.

    Args:
        folder: the run folder.
        run_id: id of the run on dashboards.
        about: what the dashboard shows of the run.
    """

    label = ""
    """Key of the logger in the group `logger`."""

    def __init__(self, folder: Path, run_id: str, about: About) -> None:
        super().__init__()
        self.folder, self.run_id, self.about = folder, run_id, about
        self.failures = Failures(f"logger.{self.label}", keeps=True)
        self._pending: list[tuple[int, dict[str, float]]] = []
        self._known: dict[int, set[str]] | None = None  # the metrics of each step that the dashboard had at the start
        self._is_restored = False  # whether it has the earlier rows of metrics.csv
        self._has_findings = True  # whether it has all findings
        self._step, self._names = -1, set[str]()  # the metrics of the last step
        self._spelt: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The name of this logger in Lightning."""
        return self.label

    @property
    def version(self) -> str:
        """The id of the run."""
        return self.run_id

    @property
    def has_begun(self) -> bool:
        """Whether anything of the run was logged, or tried to be."""
        return self._known is not None or bool(self._pending) or self.failures.count > 0

    def start(self) -> None:
        """Check before the first step that the dashboard can be reached; the run starts in any case."""
        self._flush()

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the dashboard has the config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of a step; None: of the last one."""
        self.log_rows(list(metrics), [[self._step if step is None else step, *metrics.values()]])

    @rank_zero_only
    def log_rows(self, columns: list[str], rows: Iterable[list[Any]]) -> None:
        """Log rows of `step` and one value per column."""
        for step, *values in rows:
            numbers = {name: float(value) for name, value in zip(columns, values, strict=True) if _is_number(value)}
            self._pending.append((max(int(step), 0), numbers))
        del self._pending[:-_MOST_PENDING]
        self._flush()

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Log the rows of `step` and later again after a rollback: the dashboard has those that it abandoned.

        It does nothing at the start of a resumed run, which repeats the rows that the dashboard has.
        """
        if self._is_restored and self._known is not None:
            self._pending = [row for row in self._pending if row[0] < step]
            self._known = {one: names for one, names in self._known.items() if one < step}
            self._step = -1

    @rank_zero_only
    def report_finding(self, finding: Finding, again: bool = False) -> None:
        """Show what a monitor found; `again`: also before the run was interrupted, which changes nothing here."""
        self._has_findings = False
        self._flush()

    def _flush(self, now: bool = False) -> None:
        if not self.failures.attempt(self._write, now=now):
            self._known, self._is_restored = None, False  # part of it may have arrived

    def _write(self) -> None:
        if self._known is None:
            self._known = self.open()
        if self._pending and not self._is_restored:
            self._step = -1
            self._send(read_history(RunFolder(self.folder).metrics).rows(before=self._pending[0][0]))
            self._is_restored, self._step = True, -1
        self._send(self._pending)
        self._pending = []
        if not self._has_findings:
            self.show([_redacted(one) for one in read_findings(self.folder)])
            self._has_findings = True

    def _send(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        assert self._known is not None
        new: list[tuple[int, dict[str, float]]] = []
        for step, row in rows:
            if step != self._step:
                self._step, self._names = step, set(self._known.get(step, ()))
            spelt = {self._spelling(name): value for name, value in row.items()}
            if lacks := {name: value for name, value in spelt.items() if name not in self._names}:
                self._names |= lacks.keys()
                new.append((step, lacks))
        if new:
            self.send(new)

    def _spelling(self, name: str) -> str:
        """Return the name of a metric on the dashboard; two metrics keep two names."""
        if name not in self._spelt:
            spelt, taken = self.spell(redact_text(name)), set(self._spelt.values())
            while spelt in taken:
                spelt += "_"
            self._spelt[name] = spelt
        return self._spelt[name]

    def spell(self, name: str) -> str:
        """Return a name as the dashboard allows it; the same name, if it allows any."""
        return name

    def conclude(self, outcome: Outcome) -> None:
        """Log what is left, and report how the run ended.

        Raises:
            Exception: the dashboard cannot be reached.
        """
        self._flush(now=True)
        if self._pending:
            raise ConnectionError(f"it lacks the values of {len(self._pending)} rows")
        self.end(outcome)

    @abstractmethod
    def open(self) -> dict[int, set[str]]:
        """Start the run on the dashboard, or continue it there, and return the metrics of each step that it has."""

    @abstractmethod
    def send(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Send the values of steps, which the dashboard does not have."""

    @abstractmethod
    def show(self, findings: list[Finding]) -> None:
        """Show all that monitors found so far, in place of what was shown of it before."""

    @abstractmethod
    def end(self, outcome: Outcome) -> None:
        """Report how the run ended, and close it."""

    @abstractmethod
    def discard(self) -> None:
        """Delete what the dashboard has of the run, because the run starts anew in its folder."""


def _redacted(finding: Finding) -> Finding:
    return replace(finding, message=redact_text(finding.message), remedy=redact_text(finding.remedy))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)
