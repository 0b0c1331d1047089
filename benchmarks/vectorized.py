"""Compare jobs of a sweep that train together with the same jobs one after the other, including their run folders.

    python benchmarks/vectorized.py            # about a quarter of an hour on one core
    python benchmarks/vectorized.py --quick    # only the smallest sweep
    python benchmarks/vectorized.py --only halving

Both ways write the same run folders: config, plan, metrics of every step, checkpoints, summary. The benchmark compares
the CPU time on one thread, of this process and of the compilers that it starts. Jobs one after the other all cost the
same, so at most `--most` of them are run and the time is extrapolated to the others. The time of jobs together includes
the trial that decides whether to train them together.

- `sweeps`: jobs together, by model and number of jobs.
- `compiled`: the same with `trainer.compile=true`, including compilation.
- `halving`: successive halving within a population: its cost, and whether it finds the same best LR.
- `fallback`: cost of the trial in a sweep whose jobs then train one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import platform
import resource
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # other processes would not be counted

import torch
from rich.console import Console
from rich.table import Table

from lrflow.cli import main as lrflow
from lrflow.config import Config, compose
from lrflow.tasks import population, train
from lrflow.tasks.population import train_together

COMMON = ["trainer=cpu", "trainer.progress=false", "schedule=cosine"]
TINY, MLP, CNN = (
    "tiny MLP (64-32-10), SGD, batch 32",
    "digits MLP (64-256-256-10), AdamW, batch 64",
    "digits CNN (16, 32, 64), SGD, batch 64",
)
MODELS = {
    TINY: [
        "model=mlp", "model.widths=[32]", "model.dropout=0", "model.norm=false", "optimizer=sgd", "data.batch_size=32"
    ],
    MLP: ["model=mlp", "optimizer=adamw"],
    CNN: ["model=cnn", "optimizer=sgd"],
}  # fmt: skip
SWEEPS = [
    (model, count, 10) for model, counts in ((TINY, (4, 16, 64)), (MLP, (4, 16, 64)), (CNN, (16,))) for count in counts
]
COMPILED = [(TINY, 64, 100)]  # model, jobs, epochs
RATES = [f"{10 ** (-3 + 4 * number / 63):.4g}" for number in range(64)]  # 1e-3 to 10
HALVED = [*MODELS[TINY], "trainer.max_epochs=27"]  # validations at a ninth and a third of the run
FALLBACK = [
    "data=fashion_mnist",
    "model=cnn",
    "optimizer=nesterov",
    "trainer.max_epochs=1",
    "optimizer.lr=0.02,0.05,0.1,0.2",
]
PARTS = ("sweeps", "compiled", "halving", "fallback")


@dataclass(frozen=True)
class Measured:
    """One sweep.

    Args:
        model: description of the model.
        jobs: number of jobs.
        epochs: epochs per job.
        alone: CPU seconds of the jobs one after the other.
        together: CPU seconds with the vectorized launcher.
        compiled: CPU seconds with the launcher and `trainer.compile=true`; None: not measured.
        told: last message of the launcher.
    """

    model: str
    jobs: int
    epochs: int
    alone: float
    together: float
    compiled: float | None
    told: str


def jobs(words: Sequence[str], count: int, output: Path) -> dict[int, Config]:
    """Return the jobs of a sweep: eight learning rates, and as many seeds as needed."""
    found = {}
    for number in range(count):
        rate = (3e-4 if "optimizer=adamw" in words else 1e-2) * 1.6 ** (number % 8)
        config = compose([*COMMON, *words, f"optimizer.lr={rate}", f"seed={number // 8}", f"output={output}"])
        config._run_folder = output / str(number)  # as a sweep assigns it
        found[number] = config
    return found


def cpu_seconds(run: Callable[[], Any]) -> float:
    """Return the CPU time of a call, including the processes that it starts and awaits; suppress its output."""
    started = _used()
    with contextlib.redirect_stdout(io.StringIO()):
        run()
    return _used() - started


def _used() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def one_after_the_other(words: Sequence[str], count: int, most: int) -> float:
    """Return the CPU seconds of ordinary runs."""
    with tempfile.TemporaryDirectory() as folder:
        some = list(jobs(words, min(count, most), Path(folder)).values())
        return cpu_seconds(lambda: [train.run(config) for config in some]) * count / len(some)


def together(words: Sequence[str], count: int) -> tuple[float, str]:
    """Return the CPU seconds with the vectorized launcher, and its messages."""
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        configs = jobs(words, count, Path(folder))

        def run() -> None:
            found = train_together(configs, 64, True, told.append)
            for number, config in configs.items():
                if number not in found:
                    train.run(config)

        return cpu_seconds(run), " ".join(told)


def measure_sweep(model: str, count: int, epochs: int, most: int, compiled: bool = False) -> Measured:
    """Measure a sweep in both ways."""
    words = [*MODELS[model], f"trainer.max_epochs={epochs}"]
    alone = one_after_the_other(words, count, most)
    taken, told = together(words, count)
    compiling = None
    if compiled:
        with tempfile.TemporaryDirectory() as cache:  # an empty cache
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            compiling, told = together([*words, "trainer.compile=true"], count)
    found = Measured(model, count, epochs, alone, taken, compiling, told)
    last = "" if compiling is None else f", compiled {compiling:.1f} s, {alone / compiling:.2f}x"
    print(
        f"{model}: {count} jobs of {epochs} epochs, {alone:.1f} s, {taken:.1f} s, {alone / taken:.2f}x{last}; {told}",
        flush=True,
    )
    return found


def measure_halving(most: int) -> dict[str, Any]:
    """Measure successive halving within a population and full runs, and the best LR of each.

    The composition of the jobs and the final report are not counted; `..._sweep` includes them.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        some = RATES[:: max(1, len(RATES) // most)]
        configs = [compose([*COMMON, *HALVED, f"optimizer.lr={rate}", f"output={folder}"]) for rate in some]
        found["alone"] = cpu_seconds(lambda: [train.run(config) for config in configs]) * len(RATES) / len(some)
    for name, pruner in (("together", "none"), ("halved", "asha")):
        with tempfile.TemporaryDirectory() as folder:
            words = ["hydra/launcher=vectorized", "sweep.sampler=grid", f"sweep.pruner={pruner}", *COMMON, *HALVED]
            words += [f"optimizer.lr={','.join(RATES)}", f"output={folder}"]
            found[f"{name}_sweep"], found[name] = sweep_seconds(words, "train_together")
            (sweep,) = (Path(folder) / "sweeps").iterdir()
            with (sweep / "sweep.csv").open() as file:
                done = [row for row in csv.DictReader(file) if row["status"] == "finished"]
            best = min(done, key=lambda row: float(row["val/loss"]))
            found[f"{name}_finished"] = len(done)
            found[f"{name}_best"] = [float(best["optimizer.lr"]), float(best["val/loss"])]
    print(json.dumps(found), flush=True)
    return found


def measure_fallback() -> dict[str, Any]:
    """Measure a sweep whose jobs run one after the other, with the vectorized and with the basic launcher."""
    found = dict.fromkeys(("basic", "vectorized", "trial"), 0.0)
    for launcher in ("basic", "vectorized", "vectorized", "basic"):
        with tempfile.TemporaryDirectory() as folder:
            words = [f"hydra/launcher={launcher}", *COMMON, *FALLBACK, f"output={folder}"]
            whole, trial = sweep_seconds(words, "_measure")
            found[launcher] += whole / 2
            found["trial"] += trial / 2
    print(json.dumps(found), flush=True)
    return found


def sweep_seconds(words: Sequence[str], part: str) -> tuple[float, float]:
    """Return the CPU seconds of a sweep, and of one function of the vectorized launcher in it."""
    function, taken = getattr(population, part), []

    def timed(*given: Any) -> Any:
        started = _used()
        try:
            return function(*given)
        finally:
            taken.append(_used() - started)

    setattr(population, part, timed)
    try:
        whole = cpu_seconds(lambda: lrflow(["-m", *words]))
    finally:
        setattr(population, part, function)
    return whole, sum(taken)


def main() -> None:
    """Measure, print tables, write benchmarks/vectorized.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the smallest sweep; writes no file")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="parts to measure again")
    parser.add_argument("--most", type=int, default=8, help="maximum number of jobs to run one after the other")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # imports and other work of the first run do not count
        first = jobs([*MODELS[TINY], "trainer.max_epochs=1"], 1, Path(folder))[0]
        cpu_seconds(lambda: train.run(first))
    if options.quick:
        measure_sweep(*SWEEPS[0], options.most)
        return
    file = Path(__file__).with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {}
    content = {part: before[part] for part in PARTS if part in before} | {
        "command": f"python benchmarks/vectorized.py --most {options.most}",
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__}",
    }
    for part in options.only:
        if part in ("sweeps", "compiled"):
            asked = SWEEPS if part == "sweeps" else COMPILED
            measured = [measure_sweep(*one, options.most, part == "compiled") for one in asked]
            content[part] = [asdict(one) for one in measured]
            Console().print(table(measured))
        else:
            content[part] = measure_halving(options.most) if part == "halving" else measure_fallback()
        file.write_text(json.dumps(content, indent=2) + "\n")


def table(measured: Sequence[Measured]) -> Table:
    """Return a table of seconds and ratios."""
    found = Table(
        "model",
        "jobs",
        "epochs",
        "one after the other",
        "together",
        "ratio",
        "compiled",
        "ratio",
        box=None,
        pad_edge=False,
    )
    for one in measured:
        row = [one.model, f"{one.jobs}", f"{one.epochs}", f"{one.alone:.1f} s"]
        for seconds in (one.together, one.compiled):
            row += ["", ""] if seconds is None else [f"{seconds:.1f} s", f"{one.alone / seconds:.1f}x"]
        found.add_row(*row)
    return found


if __name__ == "__main__":
    main()
