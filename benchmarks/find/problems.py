"""The problems for which an LR is searched, and their results."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
PER_DECADE = 4
RUNS = "runs"  # the grid, among the contestants of a job
CONTESTANTS = ("lrflow", "lrflow, trial runs", "Lightning", "torch-lr-finder", "fastai")
CONSENSUS, CONFIRMED = "task=find", "task=find find.confirm=true"  # names of lrflow's answers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """One run of the grid, or one answer of a contestant.

    Args:
        contestant: name of the contestant, or `runs`.
        seed: seed of the run or answer.
        lr: LR of a run of the grid.
    """

    contestant: str
    seed: int
    lr: float | None = None


@dataclass
class Problem:
    """A problem for which an LR is searched.

    Args:
        name: name of the file of results.
        title: title in the table and the picture.
        options: overrides of `python -m lrflow`.
        low: lowest LR of the grid, as a power of ten.
        high: highest LR of the grid, as a power of ten.
        runs: runs per LR of the grid, with seeds from 0.
        answers: answers per contestant, each with different seeds.
        kept: results, one mapping each; a run has `lr`, `loss` (infinite if it diverged) and `steps`.
    """

    name: str
    title: str
    options: tuple[str, ...]
    low: float
    high: float
    runs: int = 3
    answers: int = 8
    kept: list[dict[str, Any]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """File of the results."""
        return HERE / f"{self.name}.json"

    @property
    def rates(self) -> Floats:
        """LRs of the grid, a quarter of a decade apart; [n]."""
        return np.logspace(self.low, self.high, round((self.high - self.low) * PER_DECADE) + 1)

    @property
    def losses(self) -> Floats:
        """Mean validation loss at each LR of the grid, infinite if a run diverged; [n]."""
        of_run = {(row["lr"], row["seed"]): row["loss"] for row in self.kept if row["contestant"] == RUNS}
        table = [[of_run[typed(rate), seed] for seed in range(self.runs)] for rate in self.rates]
        return np.array(table, dtype=float).mean(1)

    @property
    def steps(self) -> int:
        """Optimizer steps of a full run."""
        return max(row["steps"] for row in self.kept if row["contestant"] == RUNS)

    def jobs(self) -> Iterator[Job]:
        """Yield all measurements: the grid, then every contestant.

        A range test uses five seeds starting at its own, so the seeds of answers are ten apart.
        """
        for seed in range(self.runs):
            yield from (Job(RUNS, seed, typed(rate)) for rate in self.rates)
        for number in range(self.answers):
            yield from (Job(name, 100 + 10 * number) for name in CONTESTANTS)

    def missing(self) -> list[Job]:
        """Return the jobs without a result."""
        made = {(row["contestant"], row["seed"], row.get("lr")) for row in self.kept}
        return [job for job in self.jobs() if (job.contestant, job.seed, job.lr) not in made]

    def read(self) -> Problem:
        """Read the results and return the problem.

        Raises:
            SystemExit: the results were measured with other options.
        """
        if self.file.is_file():
            content = json.loads(self.file.read_text())
            if tuple(content["options"]) != self.options:
                raise SystemExit(f"{self.file} was measured with other options: use --anew to measure it again")
            self.kept = content["kept"]
        return self

    def keep(self, job: Job, result: Mapping[str, Any]) -> None:
        """Add the result of a job and write the file."""
        row = {"contestant": job.contestant, "seed": job.seed} | ({} if job.lr is None else {"lr": job.lr})
        self.kept.append(row | dict(result))
        machine = {"python": platform.python_version(), "torch": version("torch"), "machine": platform.machine()}
        head = {"command": f"python -m benchmarks.find {self.name}", **machine, "options": self.options}
        rows = ",\n".join(json.dumps(row) for row in self.kept)
        part = self.file.with_suffix(".part")
        part.write_text(f'{json.dumps(head)[:-1]}, "kept": [\n{rows}\n]}}\n')
        part.replace(self.file)


def typed(rate: float) -> float:
    """Round an LR to its form in overrides, so that files and overrides have the same number."""
    return float(f"{rate:.4g}")


def _options(words: str) -> tuple[str, ...]:
    return (*words.split(), "trainer.val_every=100%")  # no measurement needs more validations


_DIGITS = "data.val_size=450 data.test_size=90"  # large, so that the validation loss is precise
_SMALL = "model.width=48 model.depth=2 model.heads=2 data.length=32"
_FEW = "trainer.max_epochs=1 trainer.limit_train_batches=100 trainer.limit_val_batches=2"
_CLOTHES = "data.size=32 data.examples=1500 data.val_size=700 data.split_seed=0"
PROBLEMS = (
    Problem("digits-momentum", "digits, MLP, momentum", _options(f"optimizer=momentum {_DIGITS}"), -3.5, 0.5),
    Problem("digits-adamw", "digits, MLP, AdamW", _options(f"optimizer=adamw {_DIGITS}"), -4.5, -0.5),
    Problem(
        "charlm",
        "Shakespeare, transformer, AdamW",
        _options(f"recipe=charlm {_SMALL} trainer.max_steps=150"),
        -3.5,
        -0.5,
        runs=2,
    ),
    Problem(
        "fashion_mnist",
        "FashionMNIST, CNN, AdamW",
        _options(f"data=fashion_mnist model=cnn model.widths=[8,16,32] data.batch_size=64 {_FEW}"),
        -4.0,
        -0.5,
        runs=2,
    ),
    Problem(
        "finetune_vision",
        "fine-tuning, EfficientNet, AdamW",
        _options(f"recipe=finetune_vision {_CLOTHES} trainer.max_epochs=2"),
        -4.0,
        -1.5,
        runs=2,
    ),
)
