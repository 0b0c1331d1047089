"""From the command line to running jobs."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lrflow
from lrflow.cli import arguments
from lrflow.cli.arguments import Arguments
from lrflow.errors import ConfigError, LrflowError, Problem


def main(words: Sequence[str] | None = None) -> int:
    """Runs `lrflow`.

    Args:
        words: the command line without the program's name; None: the process's own.

    Returns:
        the exit code: 0; 1: a run failed; 2: the config cannot be run; 130: interrupted.
    """
    from lrflow.cli.report import debugging, show_failure, show_problems

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on instead of printing them
    try:
        return _main(list(sys.argv[1:] if words is None else words))
    except ConfigError as error:
        if debugging():
            raise
        show_problems(error.problems)
        return error.exit_code
    except KeyboardInterrupt:
        print("lrflow: interrupted", file=sys.stderr)
        return 130
    except LrflowError as error:
        show_failure(error)
        return error.exit_code
    except Exception as error:
        show_failure(error)
        return 1


def _main(words: list[str]) -> int:
    if child := _started_by_a_run():
        return _run_child(child)
    args = arguments.parse(words)
    if args.version:
        print(f"lrflow {lrflow.__version__}")
        return 0
    if args.trust:
        from lrflow.config.trust import extend

        extend(args.trust)
    if args.help:
        from lrflow.cli.help import show_help
        from lrflow.cli.report import console

        show_help(console(), args.config_dir)
        return 0
    if args.shell_completion or args.hydra_help:
        return _hand_to_hydra(args, args.overrides)

    from lrflow.config.catalogue import Catalogue
    from lrflow.config.overrides import expand, read

    catalogue = Catalogue([args.config_dir] if args.config_dir else [])
    overrides = read(expand(args.overrides), catalogue, args.multirun)
    if args.multirun:
        from lrflow.cli.sweep import check_sweep

        check_sweep(overrides, args.config_dir, catalogue)
        return _hand_to_hydra(args, overrides.texts)

    from lrflow.config.compose import checked, composer

    problems: list[Problem] = []
    with composer(args.config_dir) as composing:
        try:
            checked(overrides, composing, catalogue)
        except ConfigError as error:
            if overrides.problems or not args.cfg:
                raise
            problems = error.problems  # the config is shown all the same
    code = _hand_to_hydra(args, overrides.texts)
    if problems:
        raise ConfigError(problems)
    return code


def _hand_to_hydra(args: Arguments, overrides: Sequence[str]) -> int:
    """Lets Hydra do what was asked for, and gives the exit code of the jobs that it ran."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from lrflow.cli.jobs import Outcome, run_job, show_summary
    from lrflow.config.compose import MODULE, ROOT, choices_of, register_recipes
    from lrflow.config.overrides import as_typed
    from lrflow.config.secrets import redact_text
    from lrflow.config.validate import validate

    outcomes: list[Outcome] = []

    def job(cfg: DictConfig) -> None:
        node: Any = HydraConfig.get()
        folder = Path(node.runtime.output_dir) if args.multirun else None
        task_overrides = as_typed(node.overrides.task)
        if args.multirun:
            print(f"\nlrflow: job {node.job.num}: {' '.join(task_overrides)}\n        {folder}")
        config = validate(cfg, choices_of(_whole(node)), task_overrides, folder)
        outcomes.append(run_job(config))

    register_recipes()
    app = hydra.main(config_path=f"pkg://{MODULE}", config_name=ROOT, version_base="1.3")(job)
    shown = io.StringIO()
    with _argv([sys.argv[0], *args.for_hydra(overrides)]):
        if args.cfg:
            with contextlib.redirect_stdout(shown):
                app()
            print(redact_text(shown.getvalue()), end="")
        else:
            app()
    if args.multirun:
        show_summary(outcomes)
        return int(any(outcome.exit_code for outcome in outcomes))
    return outcomes[0].exit_code if outcomes else 0


def _whole(node: Any) -> Any:
    """Hydra's node as it stands in a composed config."""
    from types import SimpleNamespace

    return SimpleNamespace(hydra=node)


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


def _started_by_a_run() -> Path | None:
    """The run folder of the process that started this one as a further device of a data-parallel run."""
    folder = os.environ.get("LRFLOW_RUN_FOLDER")
    return Path(folder) if folder and os.environ.get("LOCAL_RANK", "0") != "0" else None


def _run_child(folder: Path) -> int:
    """Runs the job of a run folder in one more process of it; the command line says nothing to it."""
    from lrflow.cli.jobs import run_job
    from lrflow.config import load_config, validate

    return run_job(validate(load_config(folder / "config.yaml"))).exit_code
