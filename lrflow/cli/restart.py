"""What `resume=` continues: settled before the config is composed, alike by all processes of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrflow import stops
from lrflow.config.overrides import Override, read_overrides
from lrflow.config.restart import Job, is_finished
from lrflow.config.saved import OUTPUT
from lrflow.config.validation import AUTO
from lrflow.errors import ConfigError, LrflowError, Problem
from lrflow.runs import RunFolder, find_checkpoint

if TYPE_CHECKING:
    from lrflow.cli.arguments import Arguments
    from lrflow.config.options import Catalogue
    from lrflow.training.agreement import Agreement


@dataclass(frozen=True)
class Decision:
    """What a command continues.

    Args:
        source: value of `resume=`; None: a new run.
        checkpoint: from which it is resumed; None: a new run, or one that is finished.
        finished: folder of the run if it is finished.
    """

    source: str | None = None
    checkpoint: Path | None = None
    finished: Path | None = None


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
    together = _started_together() and not (args.cfg or args.info)
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
            from lrflow.training.agreement import Agreement

            decision = _agreed(Agreement(str(job or source)), decide)
        else:
            decision = decide()
        if decision.finished:
            yield None
        else:
            yield [*rest, *([Override.path("resume.from", decision.source)] if decision.source else [])]


def _started_together() -> bool:
    """Return whether torchrun or srun started several processes of one run, of which this is one."""
    alone = ("", "0", "1")  # what is no number is reported by torch, which reads it too
    torchrun = {"RANK", "MASTER_ADDR"} <= os.environ.keys() and os.environ.get("WORLD_SIZE", "1") not in alone
    return torchrun or ("SLURM_PROCID" in os.environ and os.environ.get("SLURM_STEP_NUM_TASKS", "1") not in alone)


def _job(rest: Sequence[Override], args: Arguments, catalogue: Catalogue) -> Job:
    """Return the job of a command, without the run that it may continue.

    Raises:
        ConfigError: the config is invalid, or its task does not train.
    """
    from lrflow.config.composition import checked, composer

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
        decision = Decision(finished=folder.path)
        line = f"{folder.path} is finished, so this job ({job}) is not run again"
    else:
        checkpoint = find_checkpoint(str(folder.path), job.output, "resume")
        decision = Decision(str(folder.path), checkpoint)
        line = f"{folder.path} goes on from {checkpoint.name}, found by {job}"
    if not quiet:
        print(f"resume=auto: {line}", flush=True)
    return decision


def _named(source: str, output: Path) -> Decision:
    """Return what `resume=` names."""
    checkpoint = find_checkpoint(source, output, "resume")
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
                agreement.decide(None, error=f"{error.exit_code}")
                raise
            agreement.decide(found.checkpoint, found.source, "finished" if found.finished else "")
            return found
        decision = agreement.follow()
    except ConfigError as error:
        if not stops.is_first_here():
            raise SystemExit(error.exit_code) from error
        raise
    if decision is None:  # another run, of which this process is the only one
        return decide()
    if decision["error"].isdigit():
        raise SystemExit(int(decision["error"]))
    return Decision(decision["source"], finished=Path() if decision["error"] else None)
