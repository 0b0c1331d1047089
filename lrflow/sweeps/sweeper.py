"""Runs a sweep: asks the study for trials, launches them by Hydra's launcher on parallel workers, records outcomes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection

from lrflow.config.composition.interpolation import resolve
from lrflow.config.composition.literal import how_to_resume, in_shell
from lrflow.config.composition.overrides import Override
from lrflow.config.schemas.sweep import Sweep
from lrflow.config.schemas.types import seconds_of
from lrflow.errors import ConfigError, LrflowError, Problem, ProcessDiedError, SignalReceived, StoppedError
from lrflow.metric import Directions, Metric
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.budget import Budget
from lrflow.sweeps.folders import RECORD
from lrflow.sweeps.outcomes import outcome_of
from lrflow.sweeps.progress import Progress
from lrflow.sweeps.pruners import make_pruner
from lrflow.sweeps.runs import PendingRun, consecutive_runs, overrides_of
from lrflow.sweeps.samplers import ADAPTIVE, GridSampler, make_sampler
from lrflow.sweeps.space import Space, read_space
from lrflow.sweeps.study import (
    Heartbeat,
    check_record,
    is_database,
    open_storage,
    patiently,
    read_record,
    repair_journal,
    storage_error,
    storage_of,
    write_record,
)
from lrflow.sweeps.trials import Trials
from lrflow.sweeps.workers import ask_to_stop, time_is_over, workers_for

TRIALS = 20
"""Default number of trials."""


def run_sweep(
    launcher: Launcher, config: DictConfig, loader: ConfigLoader, typed: Sequence[str], job: Any
) -> list[Outcome]:
    """Run a sweep, or resume one.

    Args:
        launcher: of Hydra; runs the jobs.
        config: as Hydra composed it, with `hydra.sweeper`.
        loader: expands globs of options.
        typed: the overrides of the command line, without those of Hydra's own section.
        job: the function that the launcher runs; if it has a list `outcomes`, the list is filled.

    Returns:
        the outcome of each trial.

    Raises:
        ConfigError: the sweep is configured wrongly.
        LrflowError: the study cannot be read or written.
    """
    content: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    settings = Sweep.model_validate({key: value for key, value in content.items() if key != "_target_"})
    folder = Path(str(config.hydra.sweep.dir))
    settings = settings.with_objectives(_objectives(config, settings, folder))
    url = storage_of(settings.storage, folder)
    # Files and jobs receive the URL as typed: one from an environment variable may hold a password.
    written: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    settings = settings.model_copy(update={"storage": written["storage"]})
    space = read_space(settings.params, settings.when, map(Override.read, typed), loader)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the sweep folder cannot be created: {error.strerror}"
        raise ConfigError([Problem("output", message, str(folder))]) from error
    with nullcontext() if is_database(url) else RunFolder(folder).locked():
        given: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        overrides = [*given["hydra"], *given["task"]]
        seed = int(OmegaConf.select(config, "seed"))
        sweep = SweepRun(settings, space, folder, url, launcher, config.hydra.launcher, overrides, seed)
        if sweep.deadline is not None:
            getattr(job, "times", {})["deadline"] = sweep.deadline
        try:
            return sweep.run()
        except optuna.exceptions.StorageInternalError as error:
            reason = storage_error(error)
            message = f"sweep.storage: trials cannot be recorded: {reason}; {how_to_resume(folder)}"
            raise LrflowError(message) from error
        finally:
            with suppress(LrflowError, OSError, optuna.exceptions.StorageInternalError):
                getattr(job, "outcomes", [])[:] = sweep.trials.outcomes()


def _objectives(config: DictConfig, settings: Sweep, folder: Path) -> tuple[Metric, ...]:
    """Return the objectives: those of the settings, else those of the sweep that is resumed, else those of its runs."""
    configured = {"metric": settings.metric, "mode": settings.mode}
    resumed: dict[str, Any] = read_record(folder)["settings"] if (folder / RECORD).exists() else {}
    if settings.metric in (None, resumed.get("metric")):
        configured = {key: value if value is not None else resumed.get(key) for key, value in configured.items()}
    content, _ = resolve(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return Directions.of({**content, "sweep": configured}).objectives


class SweepRun:
    """A sweep that is running.

    Args:
        settings: of the sweeper.
        space: the search space.
        folder: of the sweep; trial n runs in its subfolder n.
        url: of the study's storage.
        launcher: of Hydra; runs the jobs.
        launcher_config: its config.
        overrides: of the command line, including those of Hydra's own section.
        seed: of the first run of a trial, if a trial has several.

    Raises:
        ConfigError: the folder holds a sweep that is not resumed, or that differs from this one.
    """

    def __init__(
        self,
        settings: Sweep,
        space: Space,
        folder: Path,
        url: str,
        launcher: Launcher,
        launcher_config: DictConfig,
        overrides: Sequence[str],
        seed: int = 0,
    ) -> None:
        self.settings, self.space, self.folder, self._launcher = settings, space, folder, launcher
        self._seed = seed
        known = (folder / RECORD).exists()
        if known and not settings.resume:
            raise ConfigError(
                [Problem("hydra.sweep.dir", "already holds a sweep", str(folder), in_shell("sweep.resume", folder))]
            )
        if known:
            record = read_record(folder)
            check_record(record, settings, space)
        grid = space.grid() if settings.sampler == "grid" else []
        self.deadline = time.monotonic() + seconds_of(settings.max_time) if settings.max_time else None
        self.n_trials = settings.n_trials or len(grid) or TRIALS
        self.name = record["study"] if known else settings.study or folder.name
        most = 4 if settings.sampler in ADAPTIVE else self.n_trials
        self._workers = workers_for(launcher_config, settings.batch, most)
        self.progress = Progress(settings, self.n_trials)
        if settings.storage == "journal" and (repair := repair_journal(Path(url))):
            self.progress.print(repair)
        self._backend = open_storage(url, settings.retries)
        repeated = settings.objectives[0].name if settings.repeats > 1 else None
        sampler = make_sampler(settings.sampler, settings.seed, self.n_trials, space.common(), repeated)
        directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        create = partial(
            optuna.create_study,
            storage=self._backend,
            study_name=self.name,
            directions=[directions[each.mode] for each in settings.objectives],
            sampler=GridSampler(space, sampler) if grid else sampler,
            pruner=make_pruner(settings.pruner, settings.pruning),
            load_if_exists=known or is_database(url),
        )
        study = patiently(create) if is_database(url) else create()
        self._record = partial(write_record, folder, settings, space, overrides, self.name)
        self._record()
        self._budget = Budget(settings.budget, study, folder)
        self.trials = Trials(study, space, settings, self.n_trials, folder, self.progress, self._may_begin)
        if known:
            self.trials.add_lost()

    def run(self) -> list[Outcome]:
        """Run the trials that are left.

        Returns:
            the outcome of each trial of the sweep.
        """
        with self.progress:
            self.trials.update_progress()
            try:
                if self._workers.shared and self._workers.count > 1:
                    self._launcher.launch([], initial_job_idx=0)
                self._workers.run(self._work, self._stop, self.deadline)
                if self._is_over and self.trials.are_left():
                    raise time_is_over()
            except (KeyboardInterrupt, SystemExit, SignalReceived, StoppedError):
                hint = f"; {how_to_resume(self.folder)}" if self._is_kept else ""
                self.progress.print(f"the sweep was stopped{hint}")
                raise
            finally:
                self._budget.note(ended=True)
            if self.trials.are_left() and self._budget.is_spent:
                ended = sum(trial.state.is_finished() for trial in self.trials.all())
                reason = f"its budget of {self.settings.budget} (sweep.budget) is spent"
                text = f"the sweep ended after {ended} of {self.n_trials} trials: {reason}"
                self._record(ended=text)
                more = f"; to go on, {how_to_resume(self.folder)} and a larger budget" if self._is_kept else ""
                self.progress.print(f"{text}{more}")
        return self.trials.outcomes()

    def _may_begin(self) -> bool:
        """Whether the budget lets a further trial begin."""
        if self.settings.budget:
            self._budget.note()
        return not self._budget.is_spent

    @property
    def _is_kept(self) -> bool:
        """Whether the sweep can be resumed."""
        return self.settings.storage != "memory"

    @property
    def _is_over(self) -> bool:
        """Whether the time of the sweep is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _work(self) -> None:
        """Launch runs until none is left; the loop of a worker."""
        size = self._workers.batch_size
        claim = partial(self.trials.claim, size)
        if self._workers.whole_trials:
            claim = partial(self.trials.claim, size * self.settings.repeats, size)
        while not self._is_over and (batch := claim()):
            for jobs in consecutive_runs(batch):
                self._launch(jobs)

    def _launch(self, jobs: Sequence[PendingRun]) -> None:
        """Make runs with consecutive numbers, and record their outcomes."""
        overrides = [overrides_of(job, self.space, self.settings, self.name, self.folder, self._seed) for job in jobs]
        try:
            with Heartbeat(self._backend, self.trials.held()):
                results = self._launcher.launch(overrides, initial_job_idx=jobs[0].number)
        except Exception as error:
            if not any(path.name.isdecimal() for path in self.folder.iterdir()):
                raise  # no trial could be started
            # A killed process may take down the other jobs of its launcher. The runs are released; the worker that
            # claims them next reads their outcomes or restarts them.
            if not self.trials.closed:
                reason = str(error).strip().partition("\n")[0]
                self.progress.print(f"the launcher failed: {type(error).__name__}: {reason}")
            self.trials.release(jobs)
            return
        outcomes = [
            outcome_of(result._return_value, result.status is not JobStatus.COMPLETED, self.folder / str(job.number))
            for job, result in zip(jobs, results, strict=True)
        ]
        ended = [*zip(jobs, outcomes, strict=True)]
        died = [pair for pair in ended if isinstance(pair[1].error, ProcessDiedError)]
        self.trials.release([job for job, _ in died], [outcome.reason for _, outcome in died])  # to be restarted
        ended = [pair for pair in ended if pair not in died]
        self.trials.record([job for job, _ in ended], [outcome for _, outcome in ended])

    def _stop(self) -> None:
        """Hand out no more trials, and ask the runs of the other workers to stop."""
        if asked := ask_to_stop(self.trials.close()):
            self.progress.print(f"waiting for {asked} runs to save a checkpoint; Ctrl-C ends them at once")
