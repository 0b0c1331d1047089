"""Entry point of the command line: check every job, then run them or print the config."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lrflow
from lrflow import stops
from lrflow.cli.arguments import Arguments, parse, require_multirun, with_earlier_sweep
from lrflow.errors import ConfigError, EndedEarlyError, LrflowError, Problem, SignalReceived, StoppedError
from lrflow.launch import check_environment, is_first_here
from lrflow.memory import garbage_collection
from lrflow.output import discard_unwritable, open_streams, put, redacted_output, show_start
from lrflow.redaction import MASK, is_secret_name, redact, redactor

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lrflow.cli.sweep_check import CheckedJobs
    from lrflow.config import Config
    from lrflow.config.composition.options import Catalogue
    from lrflow.config.composition.overrides import Override
    from lrflow.config.saved import Composed
    from lrflow.outcome import Outcome


@garbage_collection(False)
def main(words: Sequence[str] | None = None) -> int:
    """Run `lrflow`.

    Args:
        words: command line without the program's name; None takes that of the process.

    Returns:
        The exit code. 0: success. 1: a run failed. 2: invalid config. 3: a run ended early. 128 + signal: stopped, so
        130 after Ctrl-C. A pipe that its reader closed does not change it.
    """
    if words is None:
        open_streams()
    redactor.forget()
    redactor.add_words(sys.orig_argv if words is None else words)
    with redacted_output(for_good=words is None):  # Weights & Biases prints when the process ends
        return _reported(words)


def _reported(words: Sequence[str] | None) -> int:
    """Run a command, print its failure if it has one, and return the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise exceptions instead of printing them
    exit_code = 0
    try:
        with stops.handled(raising=_started_by_a_run() is None):
            try:
                exit_code = _main(list(sys.argv[1:]), True) if words is None else _main(list(words))
            except ConfigError:
                stops.raise_if_requested()  # a signal within OmegaConf (2.3) can end in an error of a value
                raise
            put(sys.stdout)
            return exit_code
    except BrokenPipeError:  # as in `lrflow --help | head`
        from lrflow.display import discard_output

        discard_output(sys.stdout)
        return exit_code
    except (Exception, KeyboardInterrupt, SignalReceived) as raised:
        from lrflow.config.failures import failure

        error = failure(raised)
        if isinstance(error, KeyboardInterrupt):
            print("lrflow: interrupted", file=sys.stderr)
            return 130
        from lrflow.cli.errors import show_failure

        show_failure(error)
        if isinstance(raised, OSError | LrflowError) and words is None:
            discard_unwritable(sys.stdout)
        return error.exit_code if isinstance(error, LrflowError) else 1
    finally:
        # Python collects garbage at exit among all imported and composed objects, which takes as long as the
        # composition. It still has to after a task: files in reference cycles are written when they are collected.
        if words is None and "lrflow.tasks" not in sys.modules:
            gc.freeze()


def _main(words: list[str], owns_process: bool = False) -> int:
    if folder := _started_by_a_run():
        return _run_again(folder)
    if words and words[0].isidentifier():
        from lrflow.cli.subcommands import is_subcommand, run_subcommand

        if is_subcommand(words[0]):
            return run_subcommand(words)
    args = replace(parse(words), owns_process=owns_process)
    if args.trust:
        from lrflow.config.packages import trust_packages

        trust_packages(args.trust)
    if args.version:
        print(f"lrflow {lrflow.__version__}")
        return 0
    if args.help:
        from lrflow.cli.help import show_help

        show_help(args.config_dir)
        return 0
    if args.shell_completion and any(word.startswith("query=") for word in args.overrides):
        with contextlib.suppress(Exception):  # an error message would end up in the line that the user is typing
            _run_hydra(args, args.overrides)
        return 0
    if args.shell_completion or args.hydra_help:
        _run_hydra(args, args.overrides if args.shell_completion else ())  # the help does not depend on them
        return 0
    return _check_and_run(args)


def _check_and_run(args: Arguments) -> int:
    """Check every requested job, and run them if all are valid."""
    from lrflow.config.composition.literal import literal_paths, with_local_copies
    from lrflow.config.composition.options import Catalogue
    from lrflow.config.composition.overrides import expand

    check_environment()
    if not args.cfg and not args.info and is_first_here():
        show_start()
    catalogue = Catalogue([args.config_dir] if args.config_dir else [])
    if not args.multirun and not args.cfg:
        require_multirun(args.overrides)
    given = with_local_copies(literal_paths(expand(args.overrides), args.multirun), args.multirun)
    typed, resumed = with_earlier_sweep(given)
    if all(override.key != "resume.from" for override in typed):
        return _check_and_run_settled(args, typed, catalogue, resumed)
    from lrflow.cli.restart import settled

    with settled(typed, args, catalogue) as continued:
        return 0 if continued is None else _check_and_run_settled(args, continued, catalogue, resumed)


def _check_and_run_settled(args: Arguments, typed: Sequence[Override], catalogue: Catalogue, resumed: bool) -> int:
    """Check and run the jobs once it is settled which run they continue; `resumed`: those of an earlier sweep."""
    from lrflow.config.composition.compose import checked, composer
    from lrflow.config.composition.overrides import read_overrides
    from lrflow.config.saved import pinned

    if args.multirun:
        from lrflow.outcome import exit_code_of_sweep

        return exit_code_of_sweep(run_sweep(args, typed, catalogue, resumed))
    overrides = read_overrides(pinned(typed), catalogue)
    with composer(args.config_dir, catalogue) as composing:
        try:
            found, config = checked(overrides, composing)
        except ConfigError as error:
            if args.cfg and composing.found is not None and not overrides.problems:
                show_config(composing.found.content, args, resolve=False)
            if composing.found is not None and composing.found.earlier is not None:
                raise _asking_for_trust(error, args) from None
            raise  # after the invalid config was printed
        if args.cfg:
            show_config(found.content, args, resolve=args.resolve)
            return 0
        if not args.info:
            return _run_single(found, config, lambda problems: composing.place(problems, overrides.ready))
    _run_hydra(args, overrides.texts)
    return 0


def run_sweep(args: Arguments, typed: Sequence[Override], catalogue: Catalogue, resumed: bool) -> list[Outcome]:
    """Check every job of a sweep, run them, and return how each ended.

    Args:
        args: command line, with `-m`.
        typed: overrides, short forms expanded.
        catalogue: groups and their options.
        resumed: whether the overrides are those of an earlier sweep of Hydra's own sweeper.

    Raises:
        ConfigError: every problem of every job.
    """
    from lrflow.cli.sweep_check import check_sweep
    from lrflow.config.composition.compose import options_composed_once
    from lrflow.config.composition.overrides import read_overrides
    from lrflow.config.saved import pinned

    overrides = read_overrides(pinned(typed), catalogue, sweep=True)
    with garbage_collection(True), options_composed_once():
        jobs = check_sweep(overrides, args.config_dir, catalogue)
        jobs.resumed = resumed
        with jobs.not_checked_by_hydra():
            return _run_hydra(args, overrides.texts, jobs)


def _asking_for_trust(error: ConfigError, args: Arguments) -> ConfigError:
    """Return the error with the whole command as the hint for code of a saved run that is not trusted.

    The run's folder cannot say that its code is trusted; the user says it each time.
    """
    from lrflow.config.targets import UntrustedProblem

    packages = {problem.package: None for problem in error.problems if isinstance(problem, UntrustedProblem)}
    if not packages:
        return error
    folder = ["--config-dir", str(args.config_dir)] if args.config_dir else []
    words = [*folder, *args.overrides, f"trust={','.join([*args.trust, *packages])}"]
    hint = f"if you trust the code of this run: python -m lrflow {shlex.join(words)}"
    return ConfigError(replace(p, hint=hint) if isinstance(p, UntrustedProblem) else p for p in error.problems)


@garbage_collection(True)
def _run_single(found: Composed, config: Config, place: Callable[[list[Problem]], list[Problem]]) -> int:
    """Run the single job of a command, with Hydra's callbacks, output folder and logging.

    Args:
        found: composed config.
        config: checked config; this very object is run.
        place: function that adds file and line to problems.

    Returns:
        The exit code.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core import utils
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode

    from lrflow.cli.jobs import run_job

    content: Any = found.content
    content.hydra.mode = RunMode.RUN
    callbacks = Callbacks(content)
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=callbacks)
    callbacks.on_run_start(config=content, config_name=content.hydra.job.config_name)
    done = utils.run_job(lambda _: run_job(config, place), content, "hydra.run.dir", None, context)
    callbacks.on_run_end(config=content, config_name=content.hydra.job.config_name, job_return=done)
    if done.status is utils.JobStatus.FAILED:
        raise done._return_value
    outcome: Outcome = done.return_value
    return outcome.exit_code


@garbage_collection(True)
def _run_hydra(args: Arguments, overrides: Sequence[str], jobs: CheckedJobs | None = None) -> list[Outcome]:
    """Let Hydra run a sweep, print its `--info` or complete a command line.

    Args:
        args: command line.
        overrides: overrides as Hydra reads them.
        jobs: checked jobs of the sweep; None: not a sweep.

    Returns:
        How the jobs of the sweep ended.
    """
    import hydra

    from lrflow.cli.own_process import can_fork
    from lrflow.cli.sweep_job import SweepJobs, collected, run_job_of_sweep, settings_of_sweeper
    from lrflow.config.composition.compose import MODULE, ROOT
    from lrflow.config.composition.hydra_options import adapt_hydra
    from lrflow.config.composition.literal import how_to_resume

    outcomes: list[Outcome] = []
    times: dict[str, float] = {}
    apart = SweepJobs(args.config_dir, jobs)
    process = os.getpid()

    def job(cfg: DictConfig, trained: Outcome | None = None, config: Config | None = None) -> Outcome:
        parent = os.getppid()
        in_launchers_process = os.getpid() != process
        isolate, limit = settings_of_sweeper()
        if trained is None and isolate and args.owns_process and not in_launchers_process and can_fork():
            outcome = apart.run(cfg, limit, times.get("deadline"))
        else:
            outcome = run_job_of_sweep(cfg, args.config_dir, jobs, trained, config, limit)
        if in_launchers_process:
            if os.getppid() != parent:  # the launcher was killed; joblib's worker would outlive it for minutes
                os._exit(outcome.exit_code)
            return outcome.picklable()
        outcomes.append(outcome)
        if isinstance(outcome.error, StoppedError):
            raise SystemExit(outcome.exit_code)  # ends the sweep, too
        return outcome

    # lrflow's sweeper replaces the outcomes by those of its trials, and sets the time at which the sweep has to stop.
    job.outcomes = outcomes  # type: ignore[attr-defined]
    job.times = times  # type: ignore[attr-defined]
    job.isolate = args.owns_process  # type: ignore[attr-defined]
    job.config_dir = args.config_dir  # type: ignore[attr-defined]  # the vectorized launcher composes jobs itself
    adapt_hydra()
    app = hydra.main(config_path=f"pkg://{MODULE}", config_name=ROOT, version_base="1.3")(job)
    logging.raiseExceptions = not args.info  # with --info Hydra logs into a pipe that may be closed
    try:
        with _argv(args.for_hydra(overrides)), apart, collected(outcomes):
            app()
    finally:  # the summary is printed even if the sweep was interrupted
        if args.multirun and outcomes:
            from lrflow.cli.sweep_summary import show_summary

            show_summary(outcomes, jobs.asked if jobs else None)
        for outcome in outcomes:
            if isinstance(outcome.error, StoppedError) and outcome.folder:  # lrflow's sweeper reports it itself
                print(f"the sweep was stopped; {how_to_resume(outcome.folder.parent)}")
    return outcomes


def _started_by_a_run() -> Path | None:
    """Return the run folder if a data-parallel run started this process for a further device, else None."""
    folder = os.environ.get("LRFLOW_RUN_FOLDER")
    return Path(folder) if folder and not is_first_here() else None


@garbage_collection(True)
def _run_again(folder: Path) -> int:
    """Run the job of a run folder, as its first process does; the command line is ignored.

    Returns:
        The exit code; 0 also if the run was stopped or ended early in good order, which the first process reports.
    """
    stops.end_with_parent()
    from lrflow.cli.jobs import run_job
    from lrflow.config import load_config, validate
    from lrflow.runs import RunFolder

    outcome = run_job(validate(load_config(RunFolder(folder).present_config)))
    return 0 if isinstance(outcome.error, StoppedError | EndedEarlyError) else outcome.exit_code


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    """Set sys.argv within the block, since Hydra reads its command line from there."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def show_config(found: DictConfig, args: Arguments, resolve: bool) -> None:
    """Print a composed config as YAML on stdout, with secrets masked.

    Args:
        found: composed config, including its `hydra` node; the parts that are not printed are removed from it.
        args: command line; `cfg` and `package` select the part to print.
        resolve: replace interpolations by their values; those of Hydra that only a job has, such as its number, stay.

    Raises:
        ConfigError: the config has no key `args.package`.
    """
    from omegaconf import OmegaConf, flag_override
    from omegaconf.errors import OmegaConfBaseException

    from lrflow.config.composition.interpolation import resolve_known
    from lrflow.config.origins import as_yaml

    hidden = {"job": lambda key: key == "hydra", "hydra": lambda key: key != "hydra", "all": lambda key: False}
    with flag_override(found, ["struct", "readonly"], False):
        for key in list(filter(hidden[args.cfg or "job"], found)):
            del found[key]
    if resolve:
        resolve_known(found)
    part: Any = found
    if args.package:
        try:
            part = OmegaConf.select(found, args.package)
        except OmegaConfBaseException:
            part = None
        if part is None:
            raise ConfigError([Problem("--package", "not a key of the config", args.package)])
    if OmegaConf.is_config(part):  # keys and values are masked before YAML breaks their lines and escapes them
        put(sys.stdout, as_yaml(redact(OmegaConf.to_container(part, enum_to_str=True))))
    else:
        put(sys.stdout, f"{MASK if is_secret_name(args.package or '') else part}\n")
