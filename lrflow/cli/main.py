"""From the command line to running jobs."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lrflow
from lrflow.cli.arguments import Arguments, parse
from lrflow.errors import ConfigError, LrflowError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lrflow.cli.jobs import Outcome


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
    if args.shell_completion or args.hydra_help:
        return _hand_to_hydra(args, args.overrides)
    return _check_and_run(args)


def _check_and_run(args: Arguments) -> int:
    """Checks every job that was asked for; when all can be run, runs them."""
    from lrflow.cli.again import with_earlier_run
    from lrflow.cli.sweep import check_sweep
    from lrflow.config.catalogue import Catalogue
    from lrflow.config.compose import checked, composer
    from lrflow.config.overrides import expand, read

    catalogue = Catalogue([args.config_dir] if args.config_dir else [])
    overrides = read(with_earlier_run(expand(args.overrides)), catalogue, sweep=args.multirun)
    if args.multirun:
        return _hand_to_hydra(args, overrides.texts, check_sweep(overrides, args.config_dir, catalogue))
    try:
        with composer(args.config_dir) as composing:
            checked(overrides, composing, catalogue)
    except ConfigError:
        if args.cfg and not overrides.problems:
            with contextlib.suppress(Exception):  # shown if it can be composed at all, and told why it cannot run
                _hand_to_hydra(args, overrides.texts)
        raise
    return _hand_to_hydra(args, overrides.texts)


def _hand_to_hydra(args: Arguments, overrides: Sequence[str], jobs: int = 1) -> int:
    """Lets Hydra do what was asked for; gives the exit code of the jobs that it ran."""
    import hydra

    from lrflow.config.compose import MODULE, ROOT, register_recipes

    outcomes: list[Outcome] = []

    def job(cfg: DictConfig) -> None:
        outcomes.append(_run(cfg, jobs if args.multirun else None))

    register_recipes()
    app = hydra.main(config_path=f"pkg://{MODULE}", config_name=ROOT, version_base="1.3")(job)
    with _argv(args.for_hydra(overrides)), _redacted_stdout(bool(args.cfg)):
        app()
    if not args.multirun:
        return outcomes[0].exit_code if outcomes else 0
    from lrflow.cli.sweep import show_summary

    show_summary(outcomes)
    return int(any(outcome.error for outcome in outcomes))


def _run(cfg: DictConfig, jobs: int | None) -> Outcome:
    """Runs one job that Hydra composed.

    Args:
        cfg: its config.
        jobs: how many there are in the sweep; None: it is no sweep.
    """
    from hydra.core.hydra_config import HydraConfig

    from lrflow.cli.jobs import run_job
    from lrflow.cli.report import console
    from lrflow.config import validate
    from lrflow.config.compose import choices_of
    from lrflow.config.overrides import as_typed

    node: Any = HydraConfig.get()
    overrides = as_typed(node.overrides.task)
    folder = None
    if jobs is not None:
        folder = Path(node.runtime.output_dir)
        folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        out = console()
        out.print()
        out.rule(f"job {node.job.num} of {jobs}: {' '.join(overrides)}", style="dim", align="left")
        out.print(f"{folder}/", style="dim")
    return run_job(validate(cfg, choices_of(node), overrides, folder))


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


@contextlib.contextmanager
def _redacted_stdout(wanted: bool) -> Iterator[None]:
    """Takes secrets out of what is printed within: `--cfg job --resolve` fills them in."""
    from lrflow.config.secrets import redact_text

    if not wanted:
        yield
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    sys.stdout.write(redact_text(printed.getvalue()))
