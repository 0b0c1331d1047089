"""Measure detectors of a bad learning rate as classifiers, on real runs whose labels come from their outcomes.

    python -m benchmarks.health --runs FOLDER                  # list the problems and how many runs each lacks
    python -m benchmarks.health --runs FOLDER logistic ppo     # make the missing runs of these problems
    python -m benchmarks.health --runs FOLDER all --processes 2
    python -m benchmarks.health --runs FOLDER --judge          # labels.csv in FOLDER, and the tables of README.md
    python -m benchmarks.health --runs FOLDER --judge --settings   # with thresholds chosen on all problems but one

All runs together take about half an hour of one core. Each is kept as a run folder without checkpoints, so an
interrupted measurement can be continued.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.health.findings import Replay, default_nodes, setting_nodes
from benchmarks.health.labels import Label, label, write
from benchmarks.health.problems import PROBLEMS, Problem
from benchmarks.health.recorded import read_all
from benchmarks.health.rules import speak
from benchmarks.health.runs import make, missing
from benchmarks.health.table import Judged
from benchmarks.health.table import write as write_tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    names = [problem.name for problem in PROBLEMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.health", description="Measure detectors.")
    parser.add_argument(
        "names", nargs="*", choices=[[], "all", *names], metavar="PROBLEM", help="problems to run, or all"
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--most", type=int, help="maximum number of runs per problem")
    parser.add_argument("--processes", type=int, default=1, help="problems to run at the same time")
    parser.add_argument("--judge", action="store_true", help="label the runs, judge the detectors, write the tables")
    parser.add_argument("--settings", action="store_true", help="judge other settings of lrflow's detectors as well")
    chosen = parser.parse_args(arguments)
    some = [problem for problem in PROBLEMS if {problem.name, "all"} & set(chosen.names)]
    if some:
        with ProcessPoolExecutor(chosen.processes, multiprocessing.get_context("spawn")) as pool:
            for work in [pool.submit(make, problem, chosen.runs, chosen.most) for problem in some]:
                work.result()
                write(labels_of(PROBLEMS, chosen.runs), chosen.runs / "labels.csv")
    for problem in PROBLEMS:
        print(f"{problem.name}: {len(list(problem.cells()))} runs, {len(missing(problem, chosen.runs))} missing")
    if chosen.judge:
        labels = labels_of(PROBLEMS, chosen.runs)
        write(labels, chosen.runs / "labels.csv")
        replay = Replay(chosen.runs)
        others = Replay(chosen.runs, setting_nodes(default_nodes()) if chosen.settings else {})
        print(write_tables([Judged(one, speak(one.run), replay(one.run), others(one.run)) for one in labels]))
    return 0


def labels_of(problems: Sequence[Problem], runs: Path) -> list[Label]:
    """Return the labels of all runs that have ended."""
    return [one for problem in problems for one in label(problem, list(read_all(problem, runs)))]


if __name__ == "__main__":
    sys.exit(main())
