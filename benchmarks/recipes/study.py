"""A study: which runs of a recipe are compared, and those that were made."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

HERE = Path(__file__).parent
RECIPES = HERE.parent.parent / "recipes"


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Args:
        variant: whose.
        options: its overrides, without the seed.
        seed: of the run.
        tuning: whether it helps to choose a value, and is not reported.
    """

    variant: str
    options: tuple[str, ...]
    seed: int
    tuning: bool = False

    @property
    def overrides(self) -> list[str]:
        """As they are typed."""
        return [*self.options, f"seed={self.seed}"]


@dataclass
class Study:
    """What is compared, as `NAME.yaml` says it, and the runs of `NAME.json`.

    Args:
        name: of the study; a recipe with several has `RECIPE-WHAT.yaml`.
        variants: the overrides of each thing that is compared, by its name in the table.
        metrics: the columns of the table, by their titles: `{accuracy: test/accuracy}`. The first is drawn.
        options: overrides of every run.
        seeds: runs of each variant, with seeds from 0.
        tune: what is chosen for each variant before it is measured: `key`, `values`, `metric`, `mode` (max or min),
            `seeds` (1). The value with the best mean metric is taken, the lower one of equals. `variants` names those
            that are tuned; without it all are.
        curve: a metric of which every value is kept and drawn against the steps.
        picture: how it is drawn: `file`, `title`, `ylabel`, `xlabel`, `per_step` (environment steps a step, say),
            `lines` (values with names, drawn across), `limits` (of the y axis), `kind` (`curves`, `points` or `tuning`;
            else what there is to draw decides).
        runs: that were made.
    """

    name: str
    variants: dict[str, list[str]]
    metrics: dict[str, str]
    options: list[str] = field(default_factory=list)
    seeds: int = 3
    tune: dict[str, Any] | None = None
    curve: str | None = None
    picture: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Study:
        """The study of a file, with the runs that were made of it."""
        study = cls(name=path.stem, **yaml.safe_load(path.read_text()))
        if study.data.is_file():
            study.runs = json.loads(study.data.read_text())["runs"]
        return study

    @property
    def recipe(self) -> Path:
        """The folder of the recipe."""
        return RECIPES / self.name.partition("-")[0]

    @property
    def data(self) -> Path:
        """The file of the runs."""
        return HERE / f"{self.name}.json"

    @property
    def tuned_variants(self) -> list[str]:
        """The variants for which a value is chosen."""
        return list(self.tune.get("variants", self.variants)) if self.tune else []

    @property
    def command(self) -> str:
        """What measures it."""
        return f"python -m benchmarks.recipes {self.name}"

    def missing(self) -> list[Job]:
        """The runs that are still to be made; those that choose a value come first of each variant."""
        return [job for variant in self.variants for job in self._jobs(variant) if self.made(job) is None]

    def made(self, job: Job) -> dict[str, Any] | None:
        """A run of these very overrides, if there is one."""
        return next((run for run in self.runs if run["overrides"] == job.overrides), None)

    def keep(self, job: Job, result: Mapping[str, Any]) -> None:
        """Adds a run and writes the file."""
        entry = {"variant": job.variant, "overrides": job.overrides, "seed": job.seed}
        self.runs.append(entry | ({"tuning": True} if job.tuning else {}) | dict(result))
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        head = json.dumps({"command": self.command, **machine})[:-1]
        rows = ",\n".join(json.dumps(run) for run in self.runs)
        part = self.data.with_suffix(".part")
        part.write_text(f'{head}, "runs": [\n{rows}\n]}}\n')
        part.replace(self.data)

    def reported(self, variant: str) -> list[dict[str, Any]]:
        """The runs of a variant that its row tells of."""
        jobs = [job for job in self._jobs(variant) if not job.tuning]
        return [run for job in jobs if (run := self.made(job)) is not None]

    def tuned(self, variant: str) -> dict[str, list[float]]:
        """The metric of each value that was tried for a variant; NaN where a run did not end well."""
        assert self.tune is not None
        return {
            value: [self._value(run, self.tune["metric"]) for job in jobs if (run := self.made(job)) is not None]
            for value, jobs in self._tuning(variant).items()
        }

    def chosen(self, variant: str) -> str | None:
        """The value that is best for a variant; None while runs are missing."""
        assert self.tune is not None
        found = self.tuned(variant)
        if any(
            len(values) < len(jobs) for values, jobs in zip(found.values(), self._tuning(variant).values(), strict=True)
        ):
            return None
        sign = 1.0 if self.tune.get("mode", "max") == "max" else -1.0
        scores = {value: sign * statistics.fmean(values) for value, values in found.items()}
        usable = {value: score for value, score in scores.items() if score == score}
        return max(usable, key=lambda value: (usable[value], -float(value)))

    def values(self, variant: str, metric: str) -> list[float]:
        """A metric of the runs of a variant that are reported."""
        return [self._value(run, metric) for run in self.reported(variant)]

    def _jobs(self, variant: str) -> list[Job]:
        options = [*self.options, *self.variants[variant]]
        if self.tune is None or variant not in self.tuned_variants:
            return [Job(variant, tuple(options), seed) for seed in range(self.seeds)]
        tuning = [job for jobs in self._tuning(variant).values() for job in jobs]
        best = self.chosen(variant)
        if best is None:
            return tuning
        best_options = (*options, f"{self.tune['key']}={best}")
        tried = len(tuning) // len(self.tune["values"])
        # Seeds that chose the value are not used to report on it.
        return tuning + [Job(variant, best_options, seed) for seed in range(tried, tried + self.seeds)]

    def _tuning(self, variant: str) -> dict[str, list[Job]]:
        assert self.tune is not None
        options, key = [*self.options, *self.variants[variant]], self.tune["key"]
        return {
            f"{value:g}": [Job(variant, (*options, f"{key}={value:g}"), seed, True) for seed in range(self._tries)]
            for value in map(float, self.tune["values"])
        }

    @property
    def _tries(self) -> int:
        return int((self.tune or {}).get("seeds", 1))

    @staticmethod
    def _value(run: Mapping[str, Any], metric: str) -> float:
        ended = run["status"] == "finished"
        return float(run["metrics"].get(metric, float("nan"))) if ended else float("nan")


def spread(values: Sequence[float]) -> float:
    """The standard deviation over seeds; NaN for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")
