"""Run the jobs of a sweep in a process of their own and within their time, or read them from an earlier start."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf, flag_override

from lrflow.cli.job_line import JobLine
from lrflow.cli.jobs import run_job
from lrflow.cli.own_process import OwnProcess, limited
from lrflow.config.composition.overrides import Override
from lrflow.errors import EndedEarlyError, LrflowError, Problem, ProcessDiedError, StoppedError, TimeLimitError
from lrflow.memory import kept_for_good
from lrflow.outcome import Outcome
from lrflow.output import redacted_output, redacted_stream
from lrflow.runs import RunFolder, checkpoints_in
from lrflow.seal import newest_undamaged

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lrflow.cli.sweep_check import CheckedJobs
    from lrflow.config import Config
    from lrflow.config.saved import Composed

OUTPUT = "output.txt"
"""The file in the folder of a job that holds what it printed."""


def run_job_of_sweep(
    cfg: DictConfig,
    config_dir: Path | None,
    jobs: CheckedJobs | None,
    trained: Outcome | None = None,
    config: Config | None = None,
    limit: str | None = None,
) -> Outcome:
    """Run one job of a sweep that Hydra composed.

    Args:
        cfg: config of the job.
        config_dir: folder with additional options.
        jobs: jobs that were checked before the sweep; None: not checked.
        trained: outcome of a job that was trained together with others; None: run it.
        config: checked config; None: take it from `jobs`, or check it now.
        limit: time after which the job is ended, as configured; None: any time.
    """
    from hydra.core.hydra_config import HydraConfig

    from lrflow.cli.errors import show_failure
    from lrflow.config.composition.compose import placed
    from lrflow.config.schemas.types import seconds_of

    node: Any = HydraConfig.get()
    folder, typed = _folder(node), _typed(node)
    if config is None and jobs is not None:
        config = jobs.take(typed, folder)
    quiet: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    line, remark = _line(cfg, node, jobs), ""
    if is_trial_of_lrflow():
        quiet = _output_to(folder / OUTPUT)  # the sweep prints the progress
    elif line:
        quiet = line.output_to(folder / OUTPUT)
    else:
        _show_heading(node, jobs)
    if jobs is not None and jobs.resumed and trained is None:
        trained, checkpoint = _earlier(folder, typed)
        if trained is not None:
            remark = "ended before, read from its folder"
            if not line:
                print(remark)
        if checkpoint is not None:
            config = None  # composed again, as that of a resumed run
            with flag_override(node, ["readonly", "struct"], False):
                node.overrides.task.append(Override.path("++resume.from", checkpoint).text)
            OmegaConf.update(cfg, "resume.from", str(checkpoint), force_add=True)

    def place(problems: list[Problem]) -> list[Problem]:
        found, overrides = composed_job(cfg, node, config_dir)
        return placed(problems, overrides, config_dir, found)

    late, started = _too_long(limit), time.monotonic()
    with redacted_output(), quiet:
        try:
            with limited(seconds_of(limit) if limit else None, partial(_record, late, folder)):
                ended = run_job(config or composed_job(cfg, node, config_dir)[0].config(folder), place, trained)
        except TimeLimitError:
            _record(late, folder)
            show_failure(late)
            ended = _outcome_of(late, node, started)
    if line:
        line.end(ended, remark)
    return ended


class SweepJobs(OwnProcess):
    """Runs jobs of a sweep in a process of their own; the next job gets a new process if one takes it down.

    Args:
        config_dir: folder with additional options.
        jobs: jobs that were checked before the sweep; None: not checked.
    """

    def __init__(self, config_dir: Path | None, jobs: CheckedJobs | None) -> None:
        super().__init__(partial(_run_given, config_dir, jobs))
        self._jobs = jobs

    def run(self, cfg: DictConfig, limit: str | None, deadline: float | None) -> Outcome:
        """Run a job that Hydra composed.

        Args:
            cfg: config of the job.
            limit: time after which the job is ended, as configured; None: any time.
            deadline: time of `time.monotonic` at which the sweep has to stop; None: never.

        Raises:
            StoppedError: the sweep has to stop.
        """
        from hydra.core.hydra_config import HydraConfig

        from lrflow.cli.errors import show_failure
        from lrflow.config.schemas.types import seconds_of

        node: Any = HydraConfig.get()
        folder = _folder(node)
        _import_task(cfg)
        started = time.monotonic()
        limits = [seconds_of(limit)] if limit else []
        limits += [] if deadline is None else [deadline - started]
        try:
            ended: Outcome = self((cfg, HydraConfig.instance().cfg, dict(os.environ)), min(limits, default=None))
            return ended
        except TimeLimitError:
            if deadline is not None and time.monotonic() >= deadline:
                raise StoppedError("the time of the sweep is over", EndedEarlyError.exit_code) from None
            failure: LrflowError = _too_long(limit)
        except ProcessDiedError as error:
            failure = error
        is_trial, line = is_trial_of_lrflow(), _line(cfg, node, self._jobs)
        if line:
            print()  # the process printed the start of the line
        with _output_to(folder / OUTPUT) if is_trial else contextlib.nullcontext():
            show_failure(failure)
        if not is_trial or isinstance(failure, TimeLimitError):  # else the trial may be run again
            _record(failure, folder)
        ended = _outcome_of(failure, node, started)
        if line:
            line.end(ended)
        return ended


def _run_given(config_dir: Path | None, jobs: CheckedJobs | None, given: tuple[Any, ...]) -> Outcome:
    """Run a job in the process of `SweepJobs`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import configure_log

    cfg, HydraConfig.instance().cfg, environment = given
    os.environ.clear()
    os.environ.update(environment)
    node: Any = HydraConfig.get()
    configure_log(node.job_logging, node.verbose)
    return run_job_of_sweep(cfg, config_dir, jobs).picklable()


def _line(cfg: DictConfig, node: Any, jobs: CheckedJobs | None) -> JobLine | None:
    """Return the line of a job of a grid; None: it prints all, since it trains nothing or with `hydra.verbose=true`."""
    if is_trial_of_lrflow() or node.verbose is True or OmegaConf.select(cfg, "task.name") != "train":
        return None
    monitor = OmegaConf.select(cfg, "trainer.checkpoint.monitor")
    return JobLine(int(node.job.num), _label(node, jobs), monitor, alone="BasicLauncher" in node.launcher._target_)


@contextlib.contextmanager
def collected(outcomes: list[Outcome]) -> Iterator[None]:
    """Add to `outcomes` those of jobs that a launcher runs in other processes within the block.

    Hydra's sweepers (1.3) keep nothing of what jobs return.
    """
    from hydra.core.plugins import Plugins

    make: Any = Plugins.instantiate_launcher

    def make_collecting(*given: Any, **named: Any) -> Any:
        launcher = make(*given, **named)
        launch = launcher.launch

        def launch_and_collect(*jobs: Any, **settings: Any) -> Any:
            done = launch(*jobs, **settings)
            known = set(map(id, outcomes))  # of jobs in this process
            returned = [each._return_value for each in done]
            outcomes.extend(one for one in returned if isinstance(one, Outcome) and id(one) not in known)
            return done

        launcher.launch = launch_and_collect
        return launcher

    Plugins.instantiate_launcher = make_collecting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plugins.instantiate_launcher = make  # type: ignore[method-assign]


def _label(node: Any, jobs: CheckedJobs | None) -> str:
    """Return the overrides by which a job differs from the others."""
    number, labels = int(node.job.num), jobs.labels if jobs else []
    return labels[number] if number < len(labels) else " ".join(_typed(node))


def _show_heading(node: Any, jobs: CheckedJobs | None) -> None:
    """Print which job starts, and its folder."""
    from rich.text import Text

    from lrflow.cli.errors import console

    head = (f"\njob {node.job.num}", "bold")
    console().print(Text.assemble(head, f"  {_label(node, jobs)}\n", (f"{_folder(node)}/", "dim")))


def _folder(node: Any) -> Path:
    """Return the folder of a job, from Hydra's node of its config."""
    folder = Path(node.runtime.output_dir)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _typed(node: Any) -> list[str]:
    """Return the overrides of a job, from Hydra's node, as they were typed.

    To read them one by one would resolve `${oc.env:...}` in them, and so show and save the value.
    """
    typed: Any = OmegaConf.to_container(node.overrides.task, resolve=False)
    return list(typed)


def _earlier(folder: Path, overrides: Sequence[str]) -> tuple[Outcome | None, Path | None]:
    """Return the outcome of a job from an earlier start of its sweep, or the checkpoint to resume it from."""
    from lrflow.sweeps.folders import ended_run

    try:
        ended = ended_run(folder, overrides)
    except LrflowError as error:
        return Outcome.from_error(error, folder=folder), None
    return ended, None if ended else newest_undamaged(checkpoints_in(RunFolder(folder).checkpoints))


def _too_long(limit: str | None) -> TimeLimitError:
    return TimeLimitError(f"took longer than sweep.timeout={limit}")


def _outcome_of(failure: LrflowError, node: Any, started: float) -> Outcome:
    """Return the outcome of a job that could not return its own.

    Args:
        failure: why.
        node: Hydra's node of its config.
        started: time of `time.monotonic` at which it started.
    """
    given = [text.removeprefix("++") for text in _typed(node)]
    return Outcome.from_error(failure, seconds=time.monotonic() - started, folder=_folder(node), overrides=given)


def _record(failure: LrflowError, folder: Path) -> None:
    """Record in the folder of a run how it ended, since its process could not."""
    with contextlib.suppress(OSError):
        RunFolder(folder).write_summary(Outcome.from_error(failure).summary())


def _import_task(cfg: DictConfig) -> None:
    """Import the task of a job, so that the processes of this job and of the next ones have it in memory."""
    name = f"lrflow.tasks.{OmegaConf.select(cfg, 'task.name')}"
    if name not in sys.modules:
        with kept_for_good(), contextlib.suppress(ImportError):  # reported by the job
            importlib.import_module(name)


def composed_job(cfg: DictConfig, node: Any, config_dir: Path | None) -> tuple[Composed, list[Override]]:
    """Return the composed config of a sweep's job, and its overrides as Hydra received them.

    Args:
        cfg: config that Hydra composed.
        node: Hydra's node of it.
        config_dir: folder with additional options.
    """
    from lrflow.config.composition.compose import job_of_sweep

    overrides = [Override.read(text) for text in _typed(node)]
    return job_of_sweep(cfg, node, overrides, config_dir), overrides


def is_trial_of_lrflow() -> bool:
    """Return whether lrflow's own sweeper started the current job."""
    from hydra.core.hydra_config import HydraConfig

    from lrflow.config.schemas.sweep import TARGET

    return bool(HydraConfig.get().sweeper._target_ == TARGET)


def settings_of_sweeper() -> tuple[bool, str | None]:
    """Return whether the current job gets a process of its own, and the time after which it is ended."""
    from hydra.core.hydra_config import HydraConfig

    from lrflow.cli.errors import debugging

    node: Any = HydraConfig.get().sweeper if is_trial_of_lrflow() else {}
    return bool(node.get("isolate", True)) and not debugging(), node.get("timeout")


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect stdout and stderr to a file within the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        stream = redacted_stream(file)
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
