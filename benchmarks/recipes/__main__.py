"""Measures the recipes: every variant over seeds, through the command line as a user types it.

    python -m benchmarks.recipes                      # which studies there are, and what of them is measured
    python -m benchmarks.recipes charlm               # make the runs that are missing, then the table and the picture
    python -m benchmarks.recipes charlm --runs 2      # at most two runs, for a slow machine
    python -m benchmarks.recipes charlm --folder RUNS # keep there what other runs go on from
    python -m benchmarks.recipes charlm --redraw      # only the table and the picture, of the runs that there are
    python -m benchmarks.recipes charlm --anew        # forget the runs that there are

A study is `NAME.yaml` here; see `study.py` for its keys. Its runs are kept in `NAME.json` beside it as they end, so a
measurement that is interrupted goes on where it was. The table goes into the README of the recipe, between two
comments, and the picture beside it. What follows `--` is added to every run, such as `data.root=FOLDER`.
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
    """The command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description="Measure recipes.")
    parser.add_argument("names", nargs="*", help="studies; none: list them")
    parser.add_argument("--runs", type=int, help="make at most so many runs")
    parser.add_argument("--folder", type=Path, help="where to keep the runs that others go on from")
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
                with tempfile.TemporaryDirectory() as temporary:
                    measure(study, extra, chosen.runs, chosen.folder or Path(temporary))
            if study.runs:
                print(write_table(study))
                draw(study)
    if unknown := set(chosen.names) - {path.stem for path in HERE.glob("*.yaml")}:
        parser.error(f"there is no study {', '.join(sorted(unknown))}")
    return 0


def measure(study: Study, extra: Sequence[str], most: int | None, runs: Path) -> None:
    """Makes the runs that are missing under `runs`, at most `most` of them, and keeps the numbers of each."""
    made = 0
    while (missing := study.missing()) and (most is None or made < most):
        job = missing[0]  # asked anew after each: what is chosen on a validation metric follows from earlier runs
        print(f"[{len(missing)} left] {' '.join(job.overrides)}", flush=True)
        study.keep(job, run(job, study, extra, runs))
        made += 1


def run(job: Job, study: Study, extra: Sequence[str], runs: Path) -> dict[str, Any]:
    """One run of `python -m lrflow`.

    Args:
        job: what is run.
        study: that it belongs to.
        extra: overrides that are no part of the study.
        runs: where runs are kept that others go on from.

    Returns:
        status, steps, seconds (of the run without the imports), metrics, and the curve as steps and values.
    """
    folder = make(job, study, extra, runs)
    summary = json.loads((folder / "summary.json").read_text())
    if summary["status"] == "stopped":  # by Ctrl-C or SIGTERM, which ends the measurement too
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
    """Makes a run, and before it the one that it goes on from where that is not kept; returns its folder."""
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
    """The folder of a run that has ended, where it is kept."""
    return next((path.parent for path in (runs / study.place(job)).glob("*/summary.json")), None)


def _apart(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`python -m lrflow WORDS` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "lrflow", *words], capture_output=True, text=True, check=False)


def _here(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The same in this process, without Hydra's part of the command line."""
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
