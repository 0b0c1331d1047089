"""A study: the runs of a recipe to compare, and their results."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
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
        variant: variant of the run.
        options: its overrides, without the seed.
        seed: seed of the run.
        tuning: True: the run is only used to choose a value and is not reported.
    """

    variant: str
    options: tuple[str, ...]
    seed: int
    tuning: bool = False

    @property
    def overrides(self) -> list[str]:
        """The overrides on the command line."""
        return [*self.options, f"seed={self.seed}"]

    @property
    def source(self) -> str | None:
        """The variant from whose run with the same seed this run resumes (`resume=@VARIANT`); None: no resume."""
        found = [option.partition("@")[2] for option in self.options if option.startswith("resume=@")]
        return found[0] if found else None


@dataclass
class Study:
    """A comparison, read from `NAME.yaml`, and its runs, read from `NAME.json`.

    Args:
        name: name of the study; a recipe with several has files `RECIPE-WHAT.yaml`.
        variants: overrides of each variant, by its name in the table. `resume=@VARIANT` resumes from the run of another
            variant with the same seed.
        metrics: columns of the table by title: `{accuracy: test/accuracy}`. The first one is drawn.
        options: overrides of every run.
        seeds: number of runs per variant, with seeds from 0.
        tune: value to choose for each variant before it is measured: `key`, `values` (a list, or one list per variant
            by name), `metric`, `mode` (max or min), `seeds` (1). The value with the best mean metric is chosen, the
            lower one of equals. `variants` names the tuned variants; without it all are tuned. `within` adds a column:
            width of the range, in decades, in which the metric differs from the best by at most this much.
        curve: metric whose values are all saved and drawn against the steps.
        reach: adds a column: steps until the curve reaches this value.
        in_process: make all runs in one process, which imports only once; for many short runs.
        picture: settings of the picture: `file`, `title`, `ylabel`, `xlabel`, `per_step` (factor on the steps, such as
            environment steps per step), `lines` (named reference values), `limits` (of the y axis), `kind` (`curves`,
            `points` or `tuning`; by default the data decide), `variants` (default: all), `panels` (lists of variants by
            title).
        runs: results of the finished runs.
    """

    name: str
    variants: dict[str, list[str]]
    metrics: dict[str, str]
    options: list[str] = field(default_factory=list)
    seeds: int = 3
    tune: dict[str, Any] | None = None
    curve: str | None = None
    reach: float | None = None
    in_process: bool = False
    picture: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a study from its file, with its finished runs."""
        study = cls(name=path.stem, **yaml.safe_load(path.read_text()))
        if study.data.is_file():
            study.runs = json.loads(study.data.read_text())["runs"]
        return study

    @property
    def recipe(self) -> Path:
        """Folder of the recipe."""
        return RECIPES / self.name.partition("-")[0]

    @property
    def data(self) -> Path:
        """File of the runs."""
        return HERE / f"{self.name}.json"

    @property
    def tuned_variants(self) -> list[str]:
        """Variants for which a value is chosen."""
        return list(self.tune.get("variants", self.variants)) if self.tune else []

    @property
    def command(self) -> str:
        """Command that measures the study."""
        return f"python -m benchmarks.recipes {self.name}"

    @property
    def sources(self) -> set[str]:
        """Variants from whose runs other runs resume."""
        return {job.source for variant in self.variants for job in self._jobs(variant) if job.source is not None}

    def job(self, variant: str, seed: int) -> Job:
        """Return the reported run of a variant with this seed."""
        return next(job for job in self._jobs(variant) if job.seed == seed and not job.tuning)

    def place(self, job: Job) -> str:
        """Return the folder name of a run, which depends on its overrides."""
        return f"{self.name}-{hashlib.sha256(' '.join(job.overrides).encode()).hexdigest()[:12]}"

    def missing(self) -> list[Job]:
        """Return the runs that are still missing; for each variant those that choose a value come first."""
        return [job for variant in self.variants for job in self._jobs(variant) if self.made(job) is None]

    def made(self, job: Job) -> dict[str, Any] | None:
        """Return the finished run with exactly these overrides, or None."""
        return next((run for run in self.runs if run["overrides"] == job.overrides), None)

    def keep(self, job: Job, result: Mapping[str, Any]) -> None:
        """Add a run and write the file."""
        entry = {"variant": job.variant, "overrides": job.overrides, "seed": job.seed}
        self.runs.append(entry | ({"tuning": True} if job.tuning else {}) | dict(result))
        machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        head = json.dumps({"command": self.command, **machine})[:-1]
        rows = ",\n".join(json.dumps(run) for run in self.runs)
        part = self.data.with_suffix(".part")
        part.write_text(f'{head}, "runs": [\n{rows}\n]}}\n')
        part.replace(self.data)

    def reported(self, variant: str) -> list[dict[str, Any]]:
        """Return the reported runs of a variant."""
        jobs = [job for job in self._jobs(variant) if not job.tuning]
        return [run for job in jobs if (run := self.made(job)) is not None]

    def tuned(self, variant: str) -> dict[str, list[float]]:
        """Return the metric of each value that was tried for a variant; NaN if a run did not finish."""
        assert self.tune is not None
        return {
            value: [self._value(run, self.tune["metric"]) for job in jobs if (run := self.made(job)) is not None]
            for value, jobs in self._tuning(variant).items()
        }

    def chosen(self, variant: str) -> str | None:
        """Return the best value for a variant; None while runs are missing."""
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
        """Return a metric of the reported runs of a variant."""
        return [self._value(run, metric) for run in self.reported(variant)]

    def steps(self, variant: str) -> list[float]:
        """Return the steps until the curve of each reported run reaches `reach`; infinite if it never does."""
        assert self.reach is not None
        curves = [zip(*run["curve"].values(), strict=True) for run in self.reported(variant) if "curve" in run]
        return [next((step + 1.0 for step, value in curve if value >= self.reach), math.inf) for curve in curves]

    def decades(self, variant: str) -> float:
        """Return the width, in decades, of the range around the chosen value with a metric `within` of the best.

        The metric is interpolated linearly over the logarithm of the value; the range is limited to the values that
        were tried.
        """
        assert self.tune is not None
        sign = 1.0 if self.tune.get("mode", "max") == "max" else -1.0
        found = {float(value): sign * statistics.fmean(values) for value, values in self.tuned(variant).items()}
        best = float(self.chosen(variant) or math.nan)
        least = found[best] - self.tune["within"]
        return sum(
            _stretch([(math.log10(value), found[value]) for value in side], least)
            for side in (sorted(v for v in found if v >= best), sorted((v for v in found if v <= best), reverse=True))
        )

    def _jobs(self, variant: str) -> list[Job]:
        options = [*self.options, *self.variants[variant]]
        if self.tune is None or variant not in self.tuned_variants:
            return [Job(variant, tuple(options), seed) for seed in range(self.seeds)]
        tuning = [job for jobs in self._tuning(variant).values() for job in jobs]
        best = self.chosen(variant)
        if best is None:
            return tuning
        best_options = (*options, f"{self.tune['key']}={best}")
        # The seeds that were used to choose the value are not reported.
        return tuning + [Job(variant, best_options, seed) for seed in range(self._tries, self._tries + self.seeds)]

    def _tuning(self, variant: str) -> dict[str, list[Job]]:
        assert self.tune is not None
        options, key, values = [*self.options, *self.variants[variant]], self.tune["key"], self.tune["values"]
        return {
            f"{value:g}": [Job(variant, (*options, f"{key}={value:g}"), seed, True) for seed in range(self._tries)]
            for value in map(float, values[variant] if isinstance(values, dict) else values)
        }

    @property
    def _tries(self) -> int:
        return int((self.tune or {}).get("seeds", 1))

    @staticmethod
    def _value(run: Mapping[str, Any], metric: str) -> float:
        ended = run["status"] == "finished"
        return float(run["metrics"].get(metric, float("nan"))) if ended else float("nan")


def _stretch(points: Sequence[tuple[float, float]], least: float) -> float:
    """Return the distance from the first point at which the interpolated y falls below `least`."""
    for (here, high), (there, low) in pairwise(points):
        if not low >= least:
            share = 0.0 if math.isnan(low) else (high - least) / (high - low)
            return abs(here + share * (there - here) - points[0][0])
    return abs(points[-1][0] - points[0][0])


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds; NaN for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")
