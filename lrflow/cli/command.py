"""From the command line to running jobs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lrflow
from lrflow.cli.arguments import Arguments, parse
from lrflow.errors import ConfigError, LrflowError, StoppedError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lrflow.outcome import Outcome


def main(words: Sequence[str] | None = None) -> int:
    """Runs `lrflow`.

    Args:
        words: the command line without the program's name; None: the process's own.

    Returns:
        the exit code: 0 when all went well, 1 when a run failed, 2 when the config cannot be run, 130 after ^C.
    """
    from lrflow.cli.report import show_failure

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to hand its exceptions on, not to print them
    try:
        return _main(list(sys.argv[1:] if words is None else words))
    except KeyboardInterrupt:
        print("lrflow: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of `lrflow --help | head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        show_failure(error)
        return error.exit_code if isinstance(error, LrflowError) else 1


def _main(words: list[str]) -> int:
    if folder := _started_by_a_run():
        return _run_again(folder)
    args = parse(words)
    if args.trust:
        from lrflow.config.trust import extend

        extend(args.trust)
    if args.version:
        print(f"lrflow {lrflow.__version__}")
        return 0
    if args.help:
        from lrflow.cli.help import show_help

        show_help(args.config_dir)
        return 0
    if args.shell_completion and any(word.startswith("query=") for word in args.overrides):
        with contextlib.suppress(Exception):  # a shell asks, in the middle of a line: no answer is better than noise
            _hand_to_hydra(args, args.overrides)
        return 0
    if args.shell_completion or args.hydra_help:
        return _hand_to_hydra(args, args.overrides)
    return _check_and_run(args)


def _check_and_run(args: Arguments) -> int:
    """Checks every job that was asked for; when all can be run, runs them."""
    from lrflow.cli.again import with_earlier_run, with_earlier_sweep
    from lrflow.cli.show import show_config
    from lrflow.cli.sweep import check_sweep, require_multirun
    from lrflow.config.catalogue import Catalogue
    from lrflow.config.composition import checked, composer
    from lrflow.config.overrides import expand, read

    catalogue = Catalogue([args.config_dir] if args.config_dir else [])
    if not args.multirun and not args.cfg:
        require_multirun(args.overrides)
    typed = with_earlier_sweep(expand(args.overrides))
    overrides = read(with_earlier_run(typed), catalogue, sweep=args.multirun)
    if args.multirun:
        return _hand_to_hydra(args, overrides.texts, check_sweep(overrides, args.config_dir, catalogue))
    problems = None
    with composer(args.config_dir) as composing:
        try:
            checked(overrides, composing, catalogue)
        except ConfigError as error:
            problems = error
    if args.cfg and composing.found is not None and not overrides.problems:
        show_config(composing.found, args, resolve=args.resolve and problems is None)
    if problems is not None:
        raise problems  # after the config that has them
    return 0 if args.cfg else _hand_to_hydra(args, overrides.texts)


def _hand_to_hydra(args: Arguments, overrides: Sequence[str], jobs: Sequence[str] | None = None) -> int:
    """Lets Hydra do what was asked for.

    Args:
        args: the flags.
        overrides: as Hydra takes them.
        jobs: what is told of each job of a sweep; None: it is none.

    Returns:
        the exit code of the jobs that ran.
    """
    import hydra

    from lrflow.config.composition import MODULE, ROOT, register_recipes

    outcomes: list[Outcome] = []

    process = os.getpid()

    def job(cfg: DictConfig, trained: Outcome | None = None) -> Outcome:
        parent = os.getppid()
        outcome = _run(cfg, args.config_dir, jobs, trained)
        if os.getpid() != process:  # a launcher's own process
            if os.getppid() != parent:  # the launcher was killed: joblib's worker would wait for it for minutes
                os._exit(outcome.exit_code)
            if outcome.error and not sampled():
                raise outcome.error  # Hydra's sweeper tells of nothing else
            return outcome.portable()
        outcomes.append(outcome)
        if isinstance(outcome.error, StoppedError):
            raise SystemExit(outcome.exit_code)  # and with it the sweep
        return outcome

    job.outcomes = outcomes  # type: ignore[attr-defined]  # lrflow's sweeper fills in those of other processes
    register_recipes()
    app = hydra.main(config_path=f"pkg://{MODULE}", config_name=ROOT, version_base="1.3")(job)
    logging.raiseExceptions = not args.info  # Hydra logs what it tells, also into a pipe that was closed
    try:
        with _argv(args.for_hydra(overrides)):
            app()
    finally:  # what has been done is told even when the sweep was interrupted
        if args.multirun and outcomes:
            from lrflow.cli.sweep import show_summary

            show_summary(outcomes)
    if args.multirun:
        from lrflow.outcome import exit_code_of_sweep

        return exit_code_of_sweep(outcomes)
    return outcomes[0].exit_code if outcomes else 0


def _run(
    cfg: DictConfig, config_dir: Path | None, jobs: Sequence[str] | None, trained: Outcome | None = None
) -> Outcome:
    """Runs one job that Hydra composed.

    Args:
        cfg: its config.
        config_dir: the folder with more options.
        jobs: what is told of each job of the sweep; None: it is none.
        trained: how its training has ended already, with others'.
    """
    from hydra.core.hydra_config import HydraConfig
    from rich.text import Text

    from lrflow.cli.jobs import run_job
    from lrflow.cli.report import console
    from lrflow.config import validate
    from lrflow.config.composition import choices_of, placed

    node: Any = HydraConfig.get()
    overrides = typed_overrides(node)
    folder = None
    quiet: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if jobs is not None:
        folder = Path(node.runtime.output_dir)
        folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        number = int(node.job.num)
        told = jobs[number] if number < len(jobs) else " ".join(overrides)  # a sweeper of its own may make more jobs
        if sampled():
            quiet = _output_to(folder / "output.txt")  # the sweep tells how it goes
        else:
            console().print(Text.assemble((f"\njob {number}", "bold"), f"  {told}\n", (f"{folder}/", "dim")))
    with quiet:
        config = validate(cfg, choices_of(node), overrides, folder)
        return run_job(config, lambda problems: placed(problems, node.overrides.task, config_dir), trained)


_SWEEPERS = ("++trial.", "++resume.from=")
"""Overrides that lrflow's sweeper adds to those of a job."""


def typed_overrides(node: Any) -> list[str]:
    """The overrides of a job as they were typed, from Hydra's node of its config."""
    from lrflow.config.overrides import as_typed

    return as_typed(text for text in node.overrides.task if not text.startswith(_SWEEPERS))


def sampled() -> bool:
    """Whether the job that runs is one of lrflow's sweeper."""
    from hydra.core.hydra_config import HydraConfig

    from lrflow.config.sweep import TARGET

    return bool(HydraConfig.get().sweeper._target_ == TARGET)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """What is printed within goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield


def _started_by_a_run() -> Path | None:
    """The run folder of the process that started this one, as a further device of a data-parallel run."""
    folder = os.environ.get("LRFLOW_RUN_FOLDER")
    return Path(folder) if folder and os.environ.get("LOCAL_RANK", "0") != "0" else None


def _run_again(folder: Path) -> int:
    """Runs the job of a run folder, as its first process does; the command line has no say."""
    from lrflow.cli.jobs import run_job
    from lrflow.config import load_config, validate

    return run_job(validate(load_config(folder / "config.yaml"))).exit_code


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    """Hydra reads its command line from the process."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before
