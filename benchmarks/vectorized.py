"""A sweep's jobs trained together against the same jobs one after the other, from config to finished run folders.

    python benchmarks/vectorized.py            # about a quarter of an hour on one core
    python benchmarks/vectorized.py --quick    # the smallest sweep alone

Both ways end in the same run folders: config, plan, metrics of every step, checkpoints, summary. What is compared is
the CPU time of the process on one thread. Jobs one after the other cost the same each, so that of more than `--most`
only as many are run, and the others are counted like them. The trial that decides is part of the time together.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from rich.console import Console
from rich.table import Table

from lrflow.config import Config, compose
from lrflow.tasks import train
from lrflow.tasks.population import train_together

COMMON = ["trainer=cpu", "trainer.progress=false", "trainer.max_epochs=10", "schedule=cosine"]
MODELS = {
    "tiny MLP (64-32-10), SGD, batch 32": [
        "model=mlp", "model.widths=[32]", "model.dropout=0", "model.norm=false", "optimizer=sgd", "data.batch_size=32"
    ],
    "digits MLP (64-256-256-10), AdamW, batch 64": ["model=mlp", "optimizer=adamw"],
    "digits CNN (16, 32, 64), SGD, batch 64": ["model=cnn", "optimizer=sgd"],
}  # fmt: skip
SIZES = {"tiny": (4, 16, 64), "digits MLP": (4, 16, 64), "digits CNN": (16,)}


@dataclass(frozen=True)
class Measured:
    """One sweep.

    Args:
        model: what was trained.
        jobs: of the sweep.
        alone: CPU seconds of the jobs one after the other.
        together: CPU seconds by the vectorised launcher.
        told: what it said of the jobs.
    """

    model: str
    jobs: int
    alone: float
    together: float
    told: str


def jobs(words: list[str], count: int, output: Path) -> dict[int, Config]:
    """The jobs of a sweep: eight learning rates, and as many seeds as it takes."""
    found = {}
    for number in range(count):
        rate = (3e-4 if "optimizer=adamw" in words else 1e-2) * 1.6 ** (number % 8)
        config = compose([*COMMON, *words, f"optimizer.lr={rate}", f"seed={number // 8}", f"output={output}"])
        config._run_folder = output / str(number)  # as a sweep assigns it
        found[number] = config
    return found


def cpu_seconds(run: Callable[[], Any]) -> float:
    """CPU time of what is run, its output thrown away."""
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        run()
    return time.process_time() - started


def measure(model: str, words: list[str], count: int, most: int) -> Measured:
    """Both ways of a sweep."""
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        some = list(jobs(words, min(count, most), Path(folder) / "alone").values())
        alone = cpu_seconds(lambda: [train.run(config) for config in some]) * count / len(some)
        configs = jobs(words, count, Path(folder) / "together")

        def together() -> None:
            found = train_together(configs, 64, True, told.append)
            for number, config in configs.items():
                if number not in found:
                    train.run(config)

        return Measured(model, count, alone, cpu_seconds(together), " ".join(told))


def main() -> None:
    """Measure, print a table, write benchmarks/vectorized.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest sweep alone; nothing is written")
    parser.add_argument("--model", default="", help="only the models whose name begins so; nothing is written")
    parser.add_argument("--jobs", type=int, nargs="*", help="jobs of each sweep; default: those of the table")
    parser.add_argument("--most", type=int, default=16, help="jobs that are run one after the other")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # what is imported and made at the first run counts for neither way
        first = next(iter(jobs(next(iter(MODELS.values())), 1, Path(folder)).values()))
        cpu_seconds(lambda: train.run(first))
    table = Table("model", "jobs", "one after the other", "together", "ratio", box=None, pad_edge=False)
    results = []
    for model, words in MODELS.items():
        sizes = next(sizes for name, sizes in SIZES.items() if model.startswith(name))
        for count in (options.jobs or sizes) if model.startswith(options.model) else ():
            found = measure(model, words, count, options.most)
            results.append(found)
            ratio = found.alone / found.together
            print(
                f"{model}: {count} jobs, {found.alone:.1f} s, {found.together:.1f} s, {ratio:.2f}x; {found.told}",
                flush=True,
            )
            table.add_row(model, str(count), f"{found.alone:.1f} s", f"{found.together:.1f} s", f"{ratio:.1f}x")
            if options.quick:
                return
    Console().print(table)
    if options.model or options.jobs:
        return
    content = {
        "command": f"python benchmarks/vectorized.py --most {options.most}",
        "machine": f"{platform.machine()}, one thread, torch {torch.__version__}",
        "results": [{**asdict(one), "ratio": one.alone / one.together} for one in results],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
