"""What `resume=` continues: settled before the config is composed, alike by all processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lrflow.config.composition.overrides import Override, read_overrides
from lrflow.config.restart import Decision, Job, is_finished
from lrflow.config.saved import warn_of_newer_run
from lrflow.config.validation import AUTO
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.launch import check_port, is_first_here, is_one_of_several
from lrflow.runs import OUTPUT, RunFolder, find_checkpoint

if TYPE_CHECKING:
    from lrflow.cli.arguments import Arguments
    from lrflow.config.composition.options import Catalogue
    from lrflow.training.agreement import Agreement


@contextmanager
def settled(typed: Sequence[Override], args: Arguments, catalogue: Catalogue) -> Iterator[list[Override] | None]:
    """Settle which run the overrides continue, and hold the job of `resume=auto` within the block.

    Args:
        typed: overrides as typed, short forms expanded.
        args: command line.
        catalogue: groups and their options.

    Yields:
        The overrides, with the run that they resume; None: the job of `resume=auto` is finished.

    Raises:
        LrflowError: another process runs the job, or not all processes see the checkpoint.
    """
    source = next((override.plain for override in typed if override.key == "resume.from"), "null")
    together = is_one_of_several() and not (args.cfg or args.info)
    if source == "null" or (source != AUTO and not together):
        yield list(typed)
        return
    rest = [override for override in typed if override.key != "resume.from"]
    output = Path(next((override.plain for override in typed if override.key == "output"), OUTPUT))
    with ExitStack() as held:
        job = None
        if source == AUTO:
            job = _job(rest, args, catalogue)
            if all(override.key != "resume.requeue" for override in rest):
                rest.append(Override("resume.requeue", "true"))

        def decide() -> Decision:
            if job is not None and not args.cfg:
                held.enter_context(job.locked())
            return _continued(job, quiet=bool(args.cfg)) if job else _named(source, output)

        if together:
            check_port()
            from lrflow.training.agreement import Agreement

            decision = _agreed(Agreement(str(job or source)), decide)
        else:
            decision = decide()
        if decision.exit_code is not None:
            yield None
        else:
            yield [*rest, *([Override.path("resume.from", decision.source)] if decision.source else [])]


def _job(rest: Sequence[Override], args: Arguments, catalogue: Catalogue) -> Job:
    """Return the job of a command, without the run that it may continue.

    Raises:
        ConfigError: the config is invalid, or its task does not train.
    """
    from lrflow.config.composition.compose import checked, composer

    if args.multirun:
        raise ConfigError([Problem("resume", "a sweep is resumed as a whole", AUTO, "sweep.resume=last")])
    with composer(args.config_dir, catalogue) as composing:
        config = checked(read_overrides(rest, catalogue), composing)[1]
    if config.task.name != "train":
        raise ConfigError([Problem("resume", f"only task=train can be restarted, not {config.task.name}", AUTO)])
    return Job.of(config)


def _continued(job: Job, quiet: bool) -> Decision:
    """Return what `resume=auto` continues; print it in one line, unless `quiet`."""
    folder = job.find()
    if folder is None:
        decision, line = Decision(), f"no run of this job ({job}) has a checkpoint yet, so it starts"
    elif is_finished(folder) and not quiet:
        decision = Decision(exit_code=0)
        line = f"{folder.path} is finished, so this job ({job}) is not run again"
    else:
        checkpoint = find_checkpoint(str(folder.path), job.output, "resume")
        decision = Decision(str(folder.path), checkpoint)
        line = f"{folder.path} resumes from {checkpoint.name}, found by {job}"
    if not quiet:
        print(f"resume=auto: {line}", flush=True)
    return decision


def _named(source: str, output: Path) -> Decision:
    """Return what `resume=` names."""
    checkpoint = find_checkpoint(source, output, "resume")
    if source == "last":
        warn_of_newer_run(checkpoint, output, "resume")
    return Decision(str(RunFolder.of(checkpoint).path) if source == "last" else source, checkpoint)


def _agreed(agreement: Agreement, decide: Callable[[], Decision]) -> Decision:
    """Return what all processes of a run continue.

    Raises:
        LrflowError: nothing can be run; only the first process of a node reports it.
    """
    try:
        if agreement.rank == 0:
            try:
                found = decide()
            except LrflowError as error:
                agreement.decide(Decision(exit_code=error.exit_code))
                raise
            agreement.decide(found)
            return found
        decision = agreement.follow()
    except ConfigError as error:
        if not is_first_here():
            raise SystemExit(error.exit_code) from error
        raise
    if decision is None:  # another run, of which this process is the only one
        return decide()
    if decision.exit_code:
        raise SystemExit(decision.exit_code)
    return decision
