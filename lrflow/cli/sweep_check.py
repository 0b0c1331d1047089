"""Check every job of a sweep before the first one starts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import IntervalSweep
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf
from rich.text import Text

from lrflow.cli.errors import SweepError, console
from lrflow.config import Config
from lrflow.config.checks.hydra_section import check_sweeper, repeats_problems
from lrflow.config.checks.metrics import guessed_modes
from lrflow.config.composition.compose import COMPOSITION_ERRORS, Composer, check_sweep_itself, checked, composer
from lrflow.config.composition.grammar import repeated
from lrflow.config.composition.options import Catalogue
from lrflow.config.composition.overrides import Override, Overrides, as_typed, read_overrides
from lrflow.config.debugging import refused_in_sweeps
from lrflow.config.schemas.sweep import TARGET
from lrflow.errors import ConfigError, Problem


@dataclass
class CheckedJobs:
    """Jobs of a sweep, which are all checked before the first starts.

    Args:
        labels: overrides in which each job differs from others.
        configs: checked configs for the jobs, by their overrides.
        resumed: whether jobs that have ended in their folder are read from it, and others resumed from a checkpoint.
        asked: number of jobs of a grid; None: another sweeper chooses its jobs.
    """

    labels: list[str]
    configs: dict[tuple[str, ...], Config] = field(default_factory=dict)
    resumed: bool = False
    asked: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the configs; a job in another process checks its own."""
        return {**vars(self), "configs": {}}

    def add(self, overrides: Sequence[Override], config: Config) -> None:
        """Keep the checked config of a job, unless it calls a resolver such as `${now:}`, whose value may change."""
        if not re.search(r"\$\{\s*[\w.]+\s*:", str(OmegaConf.to_container(config.source))):
            self.configs[tuple(override.text for override in overrides if not override.of_hydra)] = config

    def take(self, overrides: Sequence[str], run_folder: Path) -> Config | None:
        """Remove and return the checked config of the job with these overrides, set to its run folder, or None."""
        config = self.configs.pop(tuple(overrides), None)
        return config.in_folder(run_folder) if config else None

    @contextmanager
    def not_checked_by_hydra(self) -> Iterator[None]:
        """Keep Hydra's sweeper from composing these jobs again for its own check, within this block."""
        check: Any = Sweeper.validate_batch_is_legal

        def check_others(sweeper: Sweeper, batch: Sequence[Sequence[str]]) -> None:
            check(sweeper, [overrides for overrides in batch if tuple(overrides) not in self.configs])

        replacement: Any = check_others
        Sweeper.validate_batch_is_legal = replacement  # type: ignore[method-assign]
        try:
            yield
        finally:
            Sweeper.validate_batch_is_legal = check  # type: ignore[method-assign]


def check_sweep(overrides: Overrides, config_dir: Path | None, catalogue: Catalogue) -> CheckedJobs:
    """Compose and check every job of a sweep.

    Args:
        overrides: overrides, some with several values per key.
        config_dir: folder with additional options.
        catalogue: groups and their options.

    Raises:
        ConfigError: every problem of every job, without duplicates.
    """
    if overrides.problems:
        raise ConfigError(overrides.problems)
    problems: dict[str, Problem] = {}
    holders: dict[str, list[int]] = {}
    guessed: dict[str, None] = {}
    kept = CheckedJobs([])
    with composer(config_dir, catalogue) as composing:
        wrong = check_sweep_itself(overrides, composing)
        try:
            jobs = _jobs_to_check(overrides, composing)
        except ConfigError as error:
            raise ConfigError({repr(one): one for one in (*wrong, *error.problems)}.values()) from None
        for number, job in enumerate(jobs):
            try:
                ready = read_overrides(job, catalogue)
                found, config = checked(ready, composing, overrides.ready)
                if refused := refused_in_sweeps(config):
                    raise ConfigError(refused)
                if str(found.content.hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
                    kept.add(ready.ready, config)  # other sweepers choose the values of their jobs
                    kept.asked = len(jobs)
                guessed |= dict.fromkeys(guessed_modes(config.directions))
            except ConfigError as error:
                for problem in as_typed(error.problems, overrides.ready):
                    same = repr(replace(problem, value=...))  # the label of a job shows the value
                    first = problems.setdefault(same, problem)
                    if repr(first.value) != repr(problem.value):
                        problems[same] = replace(problem, value=...)
                    holders.setdefault(same, []).append(number)
        for problem in as_typed(composing.place(wrong, overrides.ready), overrides.ready):
            same = repr(replace(problem, value=...))
            problems.setdefault(same, problem)
            holders.setdefault(same, list(range(len(jobs))))
    holding = Counter(override for job in jobs for override in job)
    kept.labels = [" ".join(override.typed for override in job if holding[override] < len(jobs)) for job in jobs]
    if problems:
        together: dict[tuple[int, ...], list[Problem]] = {}
        for name, numbers in sorted(holders.items(), key=lambda item: -len(item[1])):
            together.setdefault(tuple(numbers), []).append(problems[name])
        raise SweepError(together, kept.labels)
    doubts = [f"warning: {line}" for o in overrides.ready for line in repeated(o.key, o.parsed.value())]
    for line in (*doubts, *guessed):
        console().print(Text(line), soft_wrap=True)
    return kept


def _jobs_to_check(overrides: Overrides, composing: Composer) -> list[list[Override]]:
    """Return the jobs to check: all jobs of a grid; for a sampler, every choice and both ends of every interval.

    Raises:
        ConfigError: the search space is invalid, or the sweeper cannot sample from it.
    """
    jobs = overrides.jobs()
    try:
        first = composing(jobs[0]).content
        node = first.hydra.sweeper
    except (ConfigError, *COMPOSITION_ERRORS):  # reported with all other problems
        return jobs
    if node.get("_target_") == TARGET:
        from lrflow.sweeps.space import read_space

        if problems := check_sweeper(OmegaConf.to_container(node)):  # type: ignore[arg-type]
            raise ConfigError(problems)
        typed = [override for override in overrides.ready if not override.of_hydra]
        space = read_space(node.params, node.when, typed, GlobalHydra.instance().config_loader())
        repeats = node.get("repeats", 1)
        if problems := repeats_problems(repeats, [axis.key for axis in space.axes], first.get("seed")):
            raise ConfigError(problems)
        if not space.axes and not (repeats > 1 and node.sampler == "grid"):
            hint = "such as optimizer.lr=interval(1e-4,1) or sweep=lr_bayes"
            raise ConfigError([Problem("sweep", "no key has several values", hint=hint)])
        assignments = space.grid() if node.sampler == "grid" else space.corners()
        # The objectives of the sweep apply to its runs too.
        objective_keys = ("hydra/sweeper", "hydra.sweeper.metric", "hydra.sweeper.mode")
        settings = [override for override in overrides.ready if override.key in objective_keys]
        return [[*settings, *map(Override.read, space.overrides(values))] for values in assignments]
    hint = "add sweep.sampler=tpe, or random"
    drawn = [override for override in overrides.ready if isinstance(override.parsed.value(), IntervalSweep)]
    if drawn and str(node.get("_target_")).endswith("BasicSweeper"):
        message = "an interval needs a sampler"
        raise ConfigError(Problem(o.key, message, o.value, hint) for o in drawn)
    return jobs
