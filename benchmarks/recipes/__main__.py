"""Measures the recipes: every variant over seeds, through the command line as a user types it.

    python -m benchmarks.recipes                      # which studies there are, and what of them is measured
    python -m benchmarks.recipes charlm               # make the runs that are missing, then the table and the picture
    python -m benchmarks.recipes charlm --runs 2      # at most two runs, for a slow machine
    python -m benchmarks.recipes charlm --redraw      # only the table and the picture, of the runs that there are
    python -m benchmarks.recipes charlm --anew        # forget the runs that there are

A study is `NAME.yaml` here; see `study.py` for its keys. Its runs are kept in `NAME.json` beside it as they end, so a
measurement that is interrupted goes on where it was. The table goes into the README of the recipe, between two
comments, and the picture beside it. What follows `--` is added to every run, such as `data.root=FOLDER`.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.recipes.picture import draw
from benchmarks.recipes.study import HERE, Job, Study
from benchmarks.recipes.table import write_table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description="Measure recipes.")
    parser.add_argument("names", nargs="*", help="studies; none: list them")
    parser.add_argument("--runs", type=int, help="make at most so many runs")
    parser.add_argument("--redraw", action="store_true", help="make no run, only the table and the picture")
    parser.add_argument("--anew", action="store_true", help="forget what was measured before")
    chosen = parser.parse_args(words)
    for path in sorted(HERE.glob("*.yaml")):
        study = Study.read(path)
        if not chosen.names:
            print(f"{path.stem}: {len(study.runs)} runs, {len(study.missing())} missing")
        elif path.stem in chosen.names:
            if chosen.anew:
                study.runs.clear()
            if not chosen.redraw:
                measure(study, extra, chosen.runs)
            if study.runs:
                print(write_table(study))
                draw(study)
    if unknown := set(chosen.names) - {path.stem for path in HERE.glob("*.yaml")}:
        parser.error(f"there is no study {', '.join(sorted(unknown))}")
    return 0


def measure(study: Study, extra: Sequence[str], most: int | None) -> None:
    """Makes the runs that are missing, at most `most` of them, and keeps each as it ends."""
    made = 0
    while (missing := study.missing()) and (most is None or made < most):
        job = missing[0]  # asked anew after each: what is chosen on a validation metric follows from earlier runs
        print(f"[{len(missing)} left] {' '.join(job.overrides)}", flush=True)
        study.keep(job, run(job, study.curve, extra))
        made += 1


def run(job: Job, curve: str | None, extra: Sequence[str]) -> dict[str, Any]:
    """One run of `python -m lrflow`.

    Args:
        job: what is run.
        curve: the metric of which every value is kept; None: only last values are.
        extra: overrides that are no part of the study.

    Returns:
        status, steps, seconds (of the run without the imports), metrics, and the curve as steps and values.
    """
    with tempfile.TemporaryDirectory() as output:
        words = [*job.overrides, *extra, f"output={output}", "trainer.progress=false"]
        done = subprocess.run([sys.executable, "-m", "lrflow", *words], capture_output=True, text=True, check=False)
        found = sorted(Path(output).glob("*/summary.json"))
        if not found:
            raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        summary = json.loads(found[0].read_text())
        result = {name: summary.get(name) for name in ("status", "steps", "seconds", "metrics", "error")}
        if curve is not None:
            with (found[0].parent / "metrics.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get(curve)]
            result["curve"] = {
                "steps": [int(row["step"]) for row in rows],
                "values": [float(f"{float(row[curve]):.5g}") for row in rows],
            }
    return {name: value for name, value in result.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
