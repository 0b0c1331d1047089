"""Make the runs: those that differ only in numbers together, where that is faster, the others one after the other."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import time
import warnings
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import lrflow
from benchmarks.health.problems import Cell, Problem
from lrflow import Config
from lrflow.tasks.population import train_together

NEEDLESS = ("checkpoints", "plan.png", "plan.csv", ".lock")  # of a run folder; they are large


def missing(problem: Problem, runs: Path) -> list[Cell]:
    """Return the runs of a problem that have not ended."""
    return [cell for cell in problem.cells() if not (runs / cell.place / "summary.json").is_file()]


def make(problem: Problem, runs: Path, most: int | None = None) -> None:
    """Make the missing runs of a problem, at most `most` of them, in a folder each."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    for _, group in groupby(missing(problem, runs)[:most], lambda cell: cell.illness):
        _make_group(problem, list(group), runs)


def _make_group(problem: Problem, cells: Sequence[Cell], runs: Path) -> None:
    configs = {number: _config(problem, cell, runs) for number, cell in enumerate(cells)}
    started, told = time.process_time(), list[str]()
    with contextlib.redirect_stdout(io.StringIO()):
        done = train_together(configs, 64, True, told.append)
    _clean(runs / cells[number].place for number in done)
    for line in told:
        print(f"{problem.name}: {line}")
    print(f"{problem.name}: {len(done)} runs together, {time.process_time() - started:.0f} CPU seconds", flush=True)
    for number, config in configs.items():
        if number not in done:
            _make_alone(cells[number], config, runs)


def _make_alone(cell: Cell, config: Config, runs: Path) -> None:
    started, outcome = time.process_time(), "finished"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            lrflow.train(config)
    except lrflow.LrflowError as error:
        outcome = str(error).partition("\n")[0]
    _clean([runs / cell.place])
    print(f"{cell.place}: {outcome}, {time.process_time() - started:.1f} CPU seconds", flush=True)


def _config(problem: Problem, cell: Cell, runs: Path) -> Config:
    config = lrflow.compose(*problem.words(cell), f"output={runs}", "task=train")
    config._run_folder = runs / cell.place  # as a sweep assigns it
    return config


def _clean(folders: Iterable[Path]) -> None:
    for folder in folders:
        for name in NEEDLESS:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
