"""lrflow from Python: `lrflow.compose`, `plan`, `train`, `find`, `sweep` and `load`, as the command line does them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from torch import nn

from lrflow.cli.arguments import parse, with_earlier_sweep
from lrflow.cli.command import run_sweep
from lrflow.cli.jobs import log_remarks, run_task
from lrflow.config import Config
from lrflow.config.checks.keys import process_problems
from lrflow.config.composition.compose import checked, composer
from lrflow.config.composition.literal import literal_paths, with_local_copies
from lrflow.config.composition.options import Catalogue
from lrflow.config.composition.overrides import Override, expand, read_overrides
from lrflow.config.failures import failure
from lrflow.config.packages import trust_packages
from lrflow.config.saved import pinned
from lrflow.config.validation import AUTO
from lrflow.errors import ConfigError, LrflowError, Problem, SignalReceived, StoppedError
from lrflow.launch import check_environment, within_a_program
from lrflow.outcome import Outcome
from lrflow.output import redacted_output
from lrflow.plan import Plan
from lrflow.redaction import redactor
from lrflow.runs import OUTPUT
from lrflow.stops import handled
from lrflow.sweeps.folders import read_sweep
from lrflow.sweeps.results import SweepResults
from lrflow.tasks.find import run as run_find
from lrflow.tasks.plan import compile_plan
from lrflow.tasks.result import Result
from lrflow.training.own_loop import ModulePlan, plan_module
from lrflow.training.state import preserve_random_state


def compose(*words: str, config_dir: str | Path | None = None) -> Config:
    """Compose and check a config.

    Args:
        words: overrides as they are typed on the command line, such as `"recipe=cnn"` and `"optimizer.lr=0.01"`.
        config_dir: folder with options and recipes of your own.

    Raises:
        ConfigError: every problem of the words and of the config.
    """
    return _composed(words, config_dir)


@overload
def plan(module: nn.Module, /, **arguments: Any) -> ModulePlan: ...
@overload
def plan(config: Config, /) -> Plan: ...
@overload
def plan(*words: str, config_dir: str | Path | None = None) -> Plan: ...
def plan(*what: Any, config_dir: str | Path | None = None, **arguments: Any) -> Plan:
    """Compile the plan of a run: every learning rate before the first step. Nothing is trained or written.

    Args:
        what: a config, or overrides as they are typed on the command line; or a torch module.
        config_dir: folder with options and recipes of your own.
        arguments: of a module's plan: `steps` and, if wished, `optimizer`, `lr`, `schedule`, `warmup`, `layers` and
            more; see `lrflow.training.own_loop.plan_module`.

    Raises:
        ConfigError: every problem, or why these settings have no plan.
    """
    if len(what) == 1 and isinstance(what[0], nn.Module):
        if "steps" not in arguments:
            message = "the plan of a module needs it: the length of the run in optimizer steps"
            raise ConfigError([Problem("steps", message, hint="lrflow.plan(module, steps=1000)")])
        return plan_module(what[0], **arguments)
    if arguments:
        message = "only the plan of a module takes it"
        raise ConfigError(Problem(name, message, value, f"{name}=... as a word") for name, value in arguments.items())
    with preserve_random_state():
        return compile_plan(_config(what, config_dir))


def train(*what: Config | str, config_dir: str | Path | None = None) -> Result:
    """Train a run, in this process.

    Args:
        what: a config, or overrides as they are typed on the command line.
        config_dir: folder with options and recipes of your own.

    Returns:
        The run; also one that something ended early, as its `outcome` says.

    Raises:
        ConfigError: every problem of the config.
        LrflowError: the run diverged, was stopped by a signal, or failed in another way.
    """
    config = _config(what, config_dir, "train")
    with _as_a_job(config):
        outcome = run_task(config)
        if outcome.status != "ended_early":
            outcome.raise_if_unfinished()
    assert outcome.folder is not None
    return Result(outcome.folder, outcome)


@dataclass(frozen=True)
class Found:
    """What a search for the learning rate or the batch size found.

    Args:
        lr: the LR of a range test; None: something else was measured.
        interval: the LRs that are as good.
        doubts: why the result is not confident; empty: it is.
        ceiling: the highest stable LR by the stability bound; None: a range test was made.
        folder: the folder of the measurements.
        batch_size: the largest batch size to use; None: no batch size was searched.
        saturated: the smallest batch size with about the same throughput; None: no batch size was searched.
        critical_batch: the batch beyond which more examples save few steps, of which `interval` is then the interval;
            None: it was not searched.
        warmup: the shortest warmup in steps with which an LR above the best is stable; None: it was not searched, or
            none helps.
    """

    lr: float | None
    interval: tuple[float, float] | None
    doubts: tuple[str, ...]
    ceiling: float | None
    folder: Path
    batch_size: int | None = None
    saturated: int | None = None
    critical_batch: int | None = None
    warmup: int | None = None


def find(*what: Config | str, config_dir: str | Path | None = None) -> Found:
    """Find what the group `find` selects: an LR, by a range test or a stability bound, a batch size or a warmup.

    Args:
        what: a config with `task=find`, or overrides as they are typed on the command line.
        config_dir: folder with options and recipes of your own.

    Raises:
        ConfigError: every problem of the config.
        LrflowError: there is no such LR.
    """
    config = _config(what, config_dir, "find")
    with _as_a_job(config):
        found = run_find(config)
    interval = (found["low"], found["high"]) if "low" in found else None
    doubts = tuple(found.get("doubts", ()))
    sizes = found.get("batch_size"), found.get("saturated"), found.get("critical_batch"), found.get("warmup")
    return Found(found.get("lr"), interval, doubts, found.get("ceiling"), Path(found["folder"]), *sizes)


def sweep(*words: str, config_dir: str | Path | None = None) -> SweepResults:
    """Run a sweep: every combination of the values of the words, or the trials of a search.

    Args:
        words: overrides as they are typed on the command line after `-m`, such as `"optimizer.lr=1e-3,1e-2"`.
        config_dir: folder with options and recipes of your own.

    Returns:
        The trials; `best` is the best of them. A trial that failed is among them.

    Raises:
        ConfigError: every problem of every job.
        LrflowError: the sweep was stopped, or no job could be started.
    """
    folder = Path(config_dir) if config_dir else None
    args = replace(parse(["-m", *_plain_words(words)]), config_dir=folder)
    trust_packages(args.trust)
    catalogue = Catalogue([folder] if folder else [])
    with _as_a_job(None):
        typed, resumed = with_earlier_sweep(
            with_local_copies(literal_paths(expand(args.overrides), sweep=True), sweep=True)
        )
        outcomes = run_sweep(args, typed, catalogue, resumed)
    homes = {outcome.folder.parent for outcome in outcomes if outcome.folder}
    if len(homes) != 1:
        raise LrflowError("the jobs of the sweep have no common folder")
    return read_sweep(homes.pop())


def load(run: str | Path = "last", output: str | Path = OUTPUT) -> Result:
    """Return the result of an earlier run.

    Args:
        run: a run folder, a checkpoint, the address of one (`s3://...`), or `last`: the newest run.
        output: folder of the run folders.

    Raises:
        ConfigError: there is no such run.
        LrflowError: the run has not ended.
    """
    return Result.read(run, output)


def _config(what: Sequence[Config | str], config_dir: str | Path | None, task: str | None = None) -> Config:
    """Return the config that a function was given, or compose it of words.

    Args:
        what: one config, or words.
        config_dir: folder with options of the user's own.
        task: the task that it has to have; words without a task get it. None: any.
    """
    if len(what) == 1 and isinstance(what[0], Config):
        config = what[0]
    else:
        words = [word for word in what if isinstance(word, str)]
        if len(words) < len(what):
            other = next(word for word in what if not isinstance(word, str))
            raise ConfigError([Problem("words", "expected one config, or overrides as text", type(other).__name__)])
        named = any(word.startswith("task=") for word in words)
        config = _composed([*words, *([f"task={task}"] if task and not named else [])], config_dir)
    if task and config.task.name != task:
        hint = f"compose the config with task={task}" if what and isinstance(what[0], Config) else f"task={task}"
        raise ConfigError([Problem("task", f"lrflow.{task} does another task", config.task.name, hint)])
    if task and (problems := process_problems(config)):
        raise ConfigError(problems)
    return config


def _composed(words: Sequence[str], config_dir: str | Path | None) -> Config:
    folder = Path(config_dir) if config_dir else None
    args = parse(_plain_words(words))
    trust_packages(args.trust)
    catalogue = Catalogue([folder] if folder else [])
    typed = with_local_copies(literal_paths(expand(args.overrides)))
    if problems := [problem for override in typed for problem in _for_the_command_line(override)]:
        raise ConfigError(problems)
    with composer(folder, catalogue) as composing:
        return checked(read_overrides(pinned(typed), catalogue), composing)[1]


def _plain_words(words: Sequence[str]) -> list[str]:
    """Return the words, whose secrets are masked from now on.

    Raises:
        ConfigError: some are flags of the command line, or no text.
    """
    wrong = [word for word in words if not isinstance(word, str) or word.startswith("-")]
    if wrong:
        hint = "lrflow.sweep(...) runs a sweep" if wrong[0] in ("-m", "--multirun") else None
        raise ConfigError(
            Problem(str(word), "expected an override such as optimizer.lr=0.01", hint=hint) for word in wrong
        )
    redactor.add_words(list(words))
    return list(words)


def _for_the_command_line(override: Override) -> Iterator[Problem]:
    if override.key.startswith("hydra.sweeper") or override.key.partition(".")[0] == "sweep":
        yield Problem(override.key, "needs a sweep", override.value, "lrflow.sweep(...) runs one")
    elif override.key == "resume.from" and override.plain == AUTO:
        hint = "give the run's folder: resume=outputs/RUN"
        yield Problem("resume", "only a job of the command line is started again by itself", AUTO, hint)


@contextmanager
def _as_a_job(config: Config | None) -> Iterator[None]:
    """Run the block as the command line runs a job: secrets masked, signals handled, failures explained."""
    check_environment()
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise exceptions instead of ending the process
    try:
        with redacted_output(), handled(), within_a_program():
            if config is not None:
                log_remarks(config)
            yield
    except SystemExit as raised:
        raise StoppedError("stopped by a signal", raised.code if isinstance(raised.code, int) else 1) from None
    except (Exception, SignalReceived) as raised:
        error = failure(raised)
        if error is raised:
            raise
        if (outcome := Outcome.attached_to(raised)) is not None:
            error.outcome = outcome  # type: ignore[attr-defined]
        raise error from raised
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
