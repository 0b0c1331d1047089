"""Measure how much compute a sweep needs to find a good learning rate, and what a sweep costs besides its runs.

    python -m benchmarks.sweeps                  # list the measurements and how much of each is done
    python -m benchmarks.sweeps digits           # make the missing runs, then the table and the picture
    python -m benchmarks.sweeps digits --seeds 3 --most 50   # with three seeds, at most fifty runs
    python -m benchmarks.sweeps overhead         # cost per trial of lrflow's sweep, Hydra's and plain Optuna
    python -m benchmarks.sweeps --redraw         # only the tables and the picture, from the existing runs

Regret: every optimizer and LR (four per decade) is run once per seed at full length, at a third and at a ninth of it.
The methods are then replayed on these runs with lrflow's own samplers and pruners, as in tabular benchmarks of
hyperparameter search (HPOBench: Eggensperger et al., 2021, 2109.06716), each with several seeds of its sampler.
Each result is saved at once in `NAME.json` next to this file, so an interrupted measurement can be continued.
Everything after `--` is added to every run, such as `data.root=FOLDER`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

from benchmarks.sweeps.landscape import LANDSCAPES, Landscape


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    names = [landscape.name for landscape in LANDSCAPES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description="Measure sweeps.")
    parser.add_argument("names", nargs="*", choices=[[], *names, "overhead"], help="what to measure")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the runs")
    parser.add_argument("--most", type=int, help="maximum number of runs to make")
    parser.add_argument("--trials", type=int, default=200, help="trials per sweep of the overhead measurement")
    parser.add_argument("--peer", help="overhead: Python of an environment with hydra-optuna-sweeper")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    chosen = parser.parse_args(words)
    for landscape in LANDSCAPES:
        landscape.read()
        if landscape.name in chosen.names and not chosen.redraw:
            measure(landscape, chosen.seeds, chosen.most, extra)
        print(f"{landscape.name}: {len(landscape.kept)} runs, complete for {len(landscape.seeds())} seeds")
    if "overhead" in chosen.names and not chosen.redraw:
        from benchmarks.sweeps.overhead import measure_overhead

        measure_overhead(chosen.trials, chosen.peer)
    if chosen.names or chosen.redraw:
        from benchmarks.sweeps.methods import regrets
        from benchmarks.sweeps.picture import draw
        from benchmarks.sweeps.table import write_tables

        measured = {landscape.name: regrets(landscape) for landscape in LANDSCAPES if landscape.seeds()}
        print(write_tables(measured))
        if measured:
            draw(measured)
    return 0


def measure(landscape: Landscape, seeds: int, most: int | None, extra: Sequence[str]) -> None:
    """Make the missing runs, at most `most` of them, and save each."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    missing = [run for seed in range(seeds) for run in landscape.runs(seed) if run not in landscape.kept]
    for run in missing[:most]:
        curve = landscape.measure(run, extra)
        print(f"{landscape.name} {run} {curve.loss:.4g} after {curve.spent} steps", flush=True)


if __name__ == "__main__":
    sys.exit(main())
