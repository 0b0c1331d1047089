"""The sweep: asks the study for trials, hands them to Hydra's launcher, tells the study how they ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection

from lrflow.config.interpolation import resolve
from lrflow.config.overrides import Override
from lrflow.config.sweep import Sweep
from lrflow.errors import ConfigError, LrflowError, Problem, StoppedError
from lrflow.metric import Directions, Metric
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.sweeps.grammar import read_space
from lrflow.sweeps.jobs import Pending, consecutive_trials, overrides_of
from lrflow.sweeps.notes import outcome_of
from lrflow.sweeps.progress import Progress
from lrflow.sweeps.pruning import make_pruner
from lrflow.sweeps.reading import RECORD
from lrflow.sweeps.record import check_record, read_record, write_record
from lrflow.sweeps.samplers import ADAPTIVE, Grid, make_sampler
from lrflow.sweeps.slots import ask_to_stop, slots_for
from lrflow.sweeps.space import Space
from lrflow.sweeps.study import Heartbeat, is_database, mend_journal, open_storage, storage_error, storage_of
from lrflow.sweeps.trials import Trials

TRIALS = 20
"""Trials of a sweep that does not say how many."""


def run_sweep(
    launcher: Launcher, config: DictConfig, loader: ConfigLoader, typed: Sequence[str], job: Any
) -> list[Outcome]:
    """Runs a sweep, or goes on with one.

    Args:
        launcher: runs jobs.
        config: as Hydra composed it, with `hydra.sweeper`.
        loader: knows what a glob of options stands for.
        typed: the overrides of the command line, without Hydra's own.
        job: what the launcher runs; where it has a list `outcomes`, that is filled.

    Returns:
        how each trial of the sweep ended.

    Raises:
        ConfigError: the sweep cannot be run as it is asked for.
        LrflowError: its study cannot be read or written.
    """
    content: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    settings = Sweep.model_validate({key: value for key, value in content.items() if key != "_target_"})
    folder = Path(str(config.hydra.sweep.dir))
    settings = settings.judged_by(_objectives(config, settings, folder))
    url = storage_of(settings.storage, folder)
    # What is written down and handed to jobs is what was typed: a URL out of the environment may hold a password.
    written: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    settings = settings.model_copy(update={"storage": written["storage"]})
    space = read_space(settings.params, settings.when, map(Override.read, typed), loader)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"a sweep folder cannot be made there: {error.strerror}"
        raise ConfigError([Problem("output", message, str(folder))]) from error
    with nullcontext() if is_database(url) else RunFolder(folder).held():
        given: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        overrides = [*given["hydra"], *given["task"]]
        sweep = Sweeping(settings, space, folder, url, launcher, config.hydra.launcher, overrides)
        try:
            return sweep.run()
        except optuna.exceptions.StorageInternalError as error:
            why = storage_error(error)
            message = f"sweep.storage: the trials cannot be noted: {why}; go on with -m sweep.resume={folder}"
            raise LrflowError(message) from error
        finally:
            with suppress(LrflowError, OSError, optuna.exceptions.StorageInternalError):
                getattr(job, "outcomes", [])[:] = sweep.trials.outcomes()


def _objectives(config: DictConfig, settings: Sweep, folder: Path) -> tuple[Metric, ...]:
    """What a sweep is judged by: as its settings say, as it was before it goes on, or as its runs are."""
    asked = {"metric": settings.metric, "mode": settings.mode}
    before: dict[str, Any] = read_record(folder)["settings"] if (folder / RECORD).exists() else {}
    if settings.metric in (None, before.get("metric")):
        asked = {key: value if value is not None else before.get(key) for key, value in asked.items()}
    content, _ = resolve(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return Directions.of({**content, "sweep": asked}).objectives


class Sweeping:
    """One sweep.

    Args:
        settings: the sweeper's.
        space: what is drawn from.
        folder: of the sweep; trial n runs in its folder n.
        url: of the study's storage.
        launcher: runs jobs.
        launching: its config.
        overrides: of the command line, Hydra's own ones too.
    """

    def __init__(
        self,
        settings: Sweep,
        space: Space,
        folder: Path,
        url: str,
        launcher: Launcher,
        launching: DictConfig,
        overrides: Sequence[str],
    ) -> None:
        self.settings, self.space, self.folder, self._launcher = settings, space, folder, launcher
        known = (folder / RECORD).exists()
        if known and not settings.resume:
            raise ConfigError([Problem("hydra.sweep.dir", "holds a sweep", str(folder), f"sweep.resume={folder}")])
        if known:
            record = read_record(folder)
            check_record(record, settings, space)
        grid = space.grid() if settings.sampler == "grid" else []
        self.n_trials = settings.n_trials or len(grid) or TRIALS
        self.name = record["study"] if known else settings.study or folder.name
        self._slots = slots_for(launching, settings.batch, 4 if settings.sampler in ADAPTIVE else self.n_trials)
        self.progress = Progress(settings, self.n_trials)
        if settings.storage == "journal" and (mended := mend_journal(Path(url))):
            self.progress.say(mended)
        self._backend = open_storage(url, settings.retries)
        sampler = make_sampler(settings.sampler, settings.seed, self.n_trials, space.common())
        directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        study = optuna.create_study(
            storage=self._backend,
            study_name=self.name,
            directions=[directions[each.mode] for each in settings.objectives],
            sampler=Grid(space, sampler) if grid else sampler,
            pruner=make_pruner(settings.pruner, settings.pruning),
            load_if_exists=known or is_database(url),
        )
        write_record(folder, settings, space, overrides, self.name)
        self.trials = Trials(study, space, settings, self.n_trials, folder, self.progress)

    def run(self) -> list[Outcome]:
        """Runs what is left of the sweep.

        Returns:
            how each of its trials ended.
        """
        with self.progress:
            self.trials.look()
            try:
                if self._slots.shared and self._slots.count > 1:
                    self._launcher.launch([], initial_job_idx=0)
                self._slots.run(self._work, self._stop)
            except (KeyboardInterrupt, SystemExit, StoppedError):
                left = "" if self.settings.storage == "memory" else f"; go on with -m sweep.resume={self.folder}"
                self.progress.say(f"the sweep was stopped{left}")
                raise
        return self.trials.outcomes()

    def _work(self) -> None:
        """What each slot does: launches trials until there are none left."""
        while batch := self.trials.take(self._slots.size):
            for jobs in consecutive_trials(batch):
                self._launch(jobs)

    def _launch(self, jobs: Sequence[Pending]) -> None:
        """Runs trials with consecutive numbers, and notes how they ended."""
        overrides = [overrides_of(job, self.space, self.settings, self.name, self.folder) for job in jobs]
        try:
            with Heartbeat(self._backend, [pending.trial._trial_id for pending in jobs]):
                results = self._launcher.launch(overrides, initial_job_idx=jobs[0].number)
        except Exception as error:
            if not any((self.folder / str(trial.number)).exists() for trial in self.trials.all()):
                raise  # nothing was started, and nothing else would be
            # A worker that was killed takes down what its launcher runs beside it; whoever takes the trials again
            # looks what became of them.
            if not self.trials.closed:
                what = str(error).strip().partition("\n")[0]
                self.progress.say(f"the launcher failed: {type(error).__name__}: {what}")
            self.trials.give_back(jobs)
            return
        ended = [
            outcome_of(result._return_value, result.status is not JobStatus.COMPLETED, self.folder / str(job.number))
            for job, result in zip(jobs, results, strict=True)
        ]
        self.trials.note(jobs, ended)

    def _stop(self) -> None:
        """Ends the runs that other slots are at."""
        if asked := ask_to_stop(self.trials.close()):
            self.progress.say(f"waits for {asked} runs to save what they have; Ctrl-C ends them at once")
