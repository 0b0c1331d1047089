"""Measure how far the LR found by a range test is from the best LR, and what training with it costs.

    python -m benchmarks.find                    # list the problems and how much of each is measured
    python -m benchmarks.find digits-adamw       # measure what is missing, then the tables and the picture
    python -m benchmarks.find digits-adamw --jobs 5   # at most five runs or answers, for a slow machine
    python -m benchmarks.find --redraw           # only the tables and the picture, from existing results
    python -m benchmarks.find digits-adamw --anew     # delete the existing results and measure again

The reference of each problem is a grid of full runs (`task=train` with their schedule), four LRs per decade. It is
compared with `task=find` and `find.confirm=true` with their defaults, each rule alone on the same sweeps, and the range
tests of Lightning, torch-lr-finder and fastai (`peers.py`). Each result is saved at once in `NAME.json` next to this
file, so an interrupted measurement can be continued. The tables of completely measured problems are written into
docs/find.md, with a picture. Everything after `--` is added to every run, such as `data.root=FOLDER`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

from benchmarks.find.picture import draw
from benchmarks.find.problems import PROBLEMS, Problem
from benchmarks.find.table import write_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(prog="python -m benchmarks.find", description="Measure finders of the LR.")
    parser.add_argument("names", nargs="*", choices=[[], *(problem.name for problem in PROBLEMS)], help="problems")
    parser.add_argument("--jobs", type=int, help="maximum number of runs and answers per problem")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--anew", action="store_true", help="delete earlier measurements first")
    chosen = parser.parse_args(words)
    for problem in PROBLEMS:
        if problem.name in chosen.names:
            if chosen.anew:
                problem.file.unlink(missing_ok=True)
            if not chosen.redraw:
                measure(problem.read(), extra, chosen.jobs)
        problem.read()
        print(f"{problem.name}: {len(problem.kept)} measured, {len(problem.missing())} missing")
    if chosen.names or chosen.redraw:
        done = [problem for problem in PROBLEMS if not problem.missing()]
        if done:
            print(write_table(done))
            draw(done)
    return 0


def measure(problem: Problem, extra: Sequence[str], most: int | None) -> None:
    """Make the missing runs and answers, at most `most` of them, and save each."""
    import torch

    from benchmarks.find.contestants import ask

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    for job in problem.missing()[:most]:
        result = ask(job, [*problem.options, *extra])
        told = result.get("loss", result.get("answers"))
        print(f"{problem.name} {job.contestant} {job.seed} {'' if job.lr is None else job.lr} {told}", flush=True)
        problem.keep(job, result)


if __name__ == "__main__":
    sys.exit(main())
