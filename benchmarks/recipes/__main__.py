"""Measure the recipes: run every variant with several seeds through the command line.

    python -m benchmarks.recipes                      # list the studies and how much of each is measured
    python -m benchmarks.recipes charlm               # make the missing runs, then the table and the picture
    python -m benchmarks.recipes charlm --runs 2      # make at most two runs, for a slow machine
    python -m benchmarks.recipes charlm --folder RUNS # keep the runs from which others resume in this folder
    python -m benchmarks.recipes charlm --redraw      # only the table and the picture, from the existing runs
    python -m benchmarks.recipes charlm --anew        # delete the existing runs and measure again

A study is a file `NAME.yaml` in this folder; `study.py` describes its keys. Each finished run is saved in `NAME.json`,
so an interrupted measurement can be continued. The table is written into the README of the recipe, between two
comments, and the picture next to it. Everything after `--` is added to every run, such as `data.root=FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import shutil
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
    """Run the command line and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description="Measure recipes.")
    parser.add_argument("names", nargs="*", help="studies; none: list them")
    parser.add_argument("--runs", type=int, help="maximum number of runs to make")
    parser.add_argument("--folder", type=Path, help="folder for the runs from which others resume")
    parser.add_argument("--redraw", action="store_true", help="make no runs, only the table and the picture")
    parser.add_argument("--anew", action="store_true", help="delete earlier measurements first")
    chosen = parser.parse_args(words)
    for path in sorted(HERE.glob("*.yaml")):
        study = Study.read(path)
        if not chosen.names:
            print(f"{path.stem}: {len(study.runs)} runs, {len(study.missing())} missing")
        elif path.stem in chosen.names:
            if chosen.anew:
                study.runs.clear()
            if not chosen.redraw:
                with tempfile.TemporaryDirectory() as temporary:
                    measure(study, extra, chosen.runs, chosen.folder or Path(temporary))
            if study.runs:
                print(write_table(study))
                draw(study)
    if unknown := set(chosen.names) - {path.stem for path in HERE.glob("*.yaml")}:
        parser.error(f"no such study: {', '.join(sorted(unknown))}")
    return 0


def measure(study: Study, extra: Sequence[str], most: int | None, runs: Path) -> None:
    """Make the missing runs in the folder `runs`, at most `most` of them, and save the results of each."""
    made = 0
    while (missing := study.missing()) and (most is None or made < most):
        job = missing[0]  # computed again after each run, because earlier runs decide the tuned value
        print(f"[{len(missing)} left] {' '.join(job.overrides)}", flush=True)
        study.keep(job, run(job, study, extra, runs))
        made += 1


def run(job: Job, study: Study, extra: Sequence[str], runs: Path) -> dict[str, Any]:
    """Make one run of `python -m lrflow`.

    Args:
        job: the run.
        study: the study of the run.
        extra: overrides that do not belong to the study.
        runs: folder of the runs from which others resume.

    Returns:
        status, steps, seconds (without imports), metrics, and the curve as steps and values.
    """
    folder = make(job, study, extra, runs)
    summary = json.loads((folder / "summary.json").read_text())
    if summary["status"] == "stopped":  # by Ctrl-C or SIGTERM: stop the measurement too
        raise SystemExit(summary.get("error"))
    result = {name: summary.get(name) for name in ("status", "steps", "seconds", "metrics", "error")}
    if study.curve is not None:
        with (folder / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get(study.curve)]
        result["curve"] = {
            "steps": [int(row["step"]) for row in rows],
            "values": [float(f"{float(row[study.curve]):.5g}") for row in rows],
        }
    if job.variant not in study.sources:
        shutil.rmtree(folder.parent)
    return {name: value for name, value in result.items() if value is not None}


def make(job: Job, study: Study, extra: Sequence[str], runs: Path) -> Path:
    """Make a run, after the run from which it resumes if that is missing; returns its folder."""
    words = job.overrides
    if job.source is not None:
        source = study.job(job.source, job.seed)
        made = _folder(source, study, runs) or make(source, study, extra, runs)
        words = [word if word != f"resume=@{job.source}" else f"resume={made}" for word in words]
    output = runs / study.place(job)
    shutil.rmtree(output, ignore_errors=True)
    words = [*words, *extra, f"output={output}", "trainer.progress=false"]
    done = (_here if study.in_process else _apart)(words)
    folder = _folder(job, study, runs)
    if folder is None:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return folder


def _folder(job: Job, study: Study, runs: Path) -> Path | None:
    """Return the folder of a finished run; None if it was not kept."""
    return next((path.parent for path in (runs / study.place(job)).glob("*/summary.json")), None)


def _apart(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m lrflow WORDS` in a new process."""
    return subprocess.run([sys.executable, "-m", "lrflow", *words], capture_output=True, text=True, check=False)


def _here(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the same in this process, without Hydra's part of the command line."""
    from lrflow.config import compose
    from lrflow.errors import LrflowError
    from lrflow.tasks import train

    said, code = "", 0
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            train.run(compose(words, earlier=True))
        except LrflowError as error:
            said, code = str(error), 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), said)


if __name__ == "__main__":
    sys.exit(main())
