"""Kills runs at random moments and resumes them until they end: each end is that of the run that was not killed.

    python -m benchmarks.kills                       # 120 kills over every configuration; about fifteen minutes
    python -m benchmarks.kills lbfgs rl --kills 8    # only configurations whose name contains a word

Every run is a process of its own, killed with SIGKILL: a quarter of the time anywhere from its start to its end, test
and summary included, otherwise once it trains. Without a checkpoint it is started again, with one it is resumed with
`resume=last`. What is compared, bit for bit: weights, optimizer state, plan, random number generators, position in the
data and callbacks of the last checkpoint and of `best.ckpt`; the rows of metrics.csv without the times; the summary
without the seconds.

The exit code is 1 if an end differs.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import random
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[1]
LICENSE = Path(sysconfig.get_paths()["stdlib"]) / "LICENSE.txt"
sys.path.insert(0, str(HOME / "tests" / "support"))

BASE = (
    "trainer=cpu", "trainer.progress=false", "trainer.max_steps=60", "trainer.checkpoint.every=7",
    "trainer.val_every=10 steps", "trainer.log_every=5", "data.batch_size=64",
)  # fmt: skip
SMALL = ("model.widths=[16]", "model.dropout=0.1")
OWN = ("trust=benchmarks", "model=custom")
RL = (
    "trainer.max_steps=null",
    "trainer.max_samples=768",
    "trainer.val_every=25%",
    "trainer.checkpoint.every=7",
    "data.batch_size=null",
)
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "adamw, dropout": SMALL,
    "L-BFGS": (*SMALL, "optimizer=lbfgs", "model.dropout=0", "trainer.max_steps=30"),
    "schedule-free, batch norm": (
        *OWN,
        "model._target_=benchmarks.kills_models.Normed",
        "model.loss=cross_entropy",
        "optimizer=schedule_free_adamw",
    ),
    "Prodigy": (*SMALL, "optimizer=prodigy"),
    "Muon and AdamW": ("optimizer=muon", "model.widths=[16, 16]"),
    "Shampoo": (*SMALL, "optimizer=shampoo"),
    "SOAP": (*SMALL, "optimizer=soap"),
    "averaged SGD": (*SMALL, "optimizer=asgd"),
    "average": (*SMALL, "average=ema", "average.over=20%"),
    "three best averages": (
        *SMALL,
        "average=ema",
        "average.decay=0.5",
        "schedule=constant",
        "optimizer.lr=0.3",
        "trainer.checkpoint.best=3",
        'trainer.checkpoint.name="{step:04d}={val/loss:.4f}"',
    ),
    "early stopping's cooldown": (
        *SMALL,
        "schedule=constant",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
        "callbacks.early_stopping.min_delta=10",
        "callbacks.early_stopping.then=cooldown",
        "callbacks.early_stopping.then_for=40%",
    ),
    "EMA of the weights": (*OWN, "model._target_=benchmarks.kills_models.Averaged", "optimizer=momentum"),
    "manual optimization": (
        *OWN,
        "model._target_=benchmarks.kills_models.Duel",
        "optimizer=adam",
        "optimizer.every=2",
        "+optimizer.routes.other={_target_: torch.optim.SGD, lr: 0.05, momentum: 0.9}",
        "layers={rules: [{name: other, match: 'discriminator.*', route: other}, {name: generator, match: '*'}]}",
    ),
    "texts": (
        "data=text",
        f"data.file={LICENSE}",
        "data.tokenizer=bpe",
        "data.vocabulary=300",
        "data.length=16",
        "data.batch_size=4",
        "model=transformer",
        "model.width=16",
        "model.depth=1",
        "model.dropout=0.1",
    ),
    "accumulation": (
        *SMALL,
        "trainer.accumulate_grad_batches=3",
        "trainer.max_steps=30",
        "trainer.val_every=0.5 epochs",
    ),
    "plateau": (*SMALL, "feedback=plateau", "feedback.patience=0", "optimizer.lr=0.1"),
    "greedy": (*SMALL, "feedback=greedy"),
    "hypergradient": (*SMALL, "feedback=hypergradient", "optimizer=sgd"),
    "PPO": ("recipe=rl_ppo", *RL, "data.steps=32", "data.val_episodes=2", "data.test_episodes=2"),
    "stream with a state": (
        *OWN,
        "model._target_=benchmarks.kills_models.Normed",
        "model.loss=cross_entropy",
        "data=custom",
        "data._target_=benchmarks.kills_models.Stream",
        "data.batch_size=16",
        "data.facts={shape: [64], outputs: 10, loss: cross_entropy}",
    ),
    "bf16": (*SMALL, "trainer.precision=bf16-mixed"),
    "shards, two workers": (
        *SMALL,
        "data=stream",
        "data.shards=../shards",
        "data.mode=L",
        "data.size=8",
        "data.shuffle=200",
        "data.shards_at_once=2",
        "data.test_size=10%",
        "data.loader.num_workers=2",
    ),
    "two workers": (*SMALL, "data.loader.num_workers=2"),
    "unfreezing": ("layers=gradual_unfreezing", "layers.every=15 steps", "model.widths=[16, 16]"),
    "one cycle, sharpness": (*SMALL, "schedule=one_cycle", "optimizer=momentum", "sharpness.every=20"),
    "best weights tested": (*SMALL, "task.test=best", "optimizer.lr=0.3", "trainer.val_every=3 steps"),
}
"""Words of each configuration, after those of `BASE`."""


@dataclass
class Result:
    """What became of a configuration.

    Args:
        kills: processes killed.
        unsaved: of them those that had no checkpoint yet.
        histories: runs that were killed and resumed until they ended.
        differences: what differed at the ends of histories, in words.
    """

    kills: int = 0
    unsaved: int = 0
    histories: int = 0
    differences: list[str] = field(default_factory=list)


def run_until_killed(words: Sequence[str], folder: Path, kill_at: Callable[[], Callable[[float], bool]] | None) -> bool:
    """Run lrflow; return whether it was killed.

    Args:
        words: of the command line.
        folder: working directory.
        kill_at: returns a function that says, from the seconds since the start, whether to kill it now; None: never.

    Raises:
        RuntimeError: it failed.
    """
    path = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))
    process = _copies().Process(["-m", "lrflow", *words], folder, {**os.environ, "PYTHONPATH": path}, captured=True)
    started, due = time.monotonic(), kill_at() if kill_at else None
    while process.poll() is None:
        if due and due(time.monotonic() - started):
            with suppress(ProcessLookupError):  # it has ended
                process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    out, error = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{' '.join(words)}\n{out[-2000:]}{error[-2000:]}")
    return process.returncode != 0


def _copies() -> Any:
    return importlib.import_module("copies")  # tests/support/copies.py


def random_moment(draw: random.Random, folder: Path, seconds: float, trains: float) -> Callable[[float], bool]:
    """Return a function that says when to kill a run.

    Args:
        draw: draws the moment.
        folder: working directory of the run.
        seconds: what the whole run takes.
        trains: of them those after its first row.
    """
    if draw.random() < 0.25:
        moment = draw.uniform(0.1, 1.0) * seconds
        return lambda now: now > moment
    wait, before, first = draw.uniform(0, 1.0) * trains, _metrics_of(folder), [0.0]

    def due(now: float) -> bool:
        if not first[0] and _metrics_of(folder) != before:
            first[0] = now
        return bool(first[0]) and now - first[0] > wait

    return due


def _metrics_of(folder: Path) -> list[tuple[str, int]]:
    """Return each metrics.csv and the time of its last change."""
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.glob("outputs/*/metrics.csv"))


def end_of(folder: Path) -> dict[str, Any]:
    """Return what is compared of the newest run in a folder."""
    from lrflow.runs import newest_checkpoint
    from lrflow.training.checkpoint_file import read_checkpoint
    from lrflow.training.machine import varies

    run = max(folder.glob("outputs/*"), key=lambda path: path.name)
    newest = newest_checkpoint(run)
    assert newest is not None
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if not varies(name)} for row in csv.DictReader(file)]
    summary = json.loads((run / "summary.json").read_text())
    summary.pop("seconds")
    found: dict[str, Any] = {"rows": rows, "summary": summary, "step": newest.name}
    kept = {path.name for path in newest.parent.glob("*.ckpt") if not path.name.startswith("step-")}
    for name in (newest.name, *sorted({"best.ckpt", *kept})):
        path = run / "checkpoints" / name
        found[f"checkpoint {name}"] = content = read_checkpoint(path) if path.exists() else None
        if content is not None:
            content["lrflow"]["config"].pop("resume")  # which says how the run was resumed
            content.pop("loops")  # Lightning counts some things since the last epoch or the last start
    return found


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return where two nests of plain data, tensors and arrays differ in any bit; at most a few places."""
    import numpy as np
    import torch

    if isinstance(one, torch.Tensor | np.ndarray | np.generic):
        if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
            return [where]
        return [] if _bits(one) == _bits(other) else [where]
    if type(one) is not type(other):
        return [where]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [found for key in one for found in differences(one[key], other[key], f"{where}/{key}")][:4]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for at, (a, b) in pairs for found in differences(a, b, f"{where}[{at}]")][:4]
    return [] if one == other or (one != one and other != other) else [f"{where}: {one} and {other}"]


def _bits(value: Any) -> bytes:
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return bytes(value.tobytes())


def measure(words: Sequence[str], kills: int, draw: random.Random, root: Path) -> Result:
    """Run a configuration once without and then with kills, until there were enough of them.

    Args:
        words: of the configuration, after those of `BASE`; the last of each key counts.
        kills: number of kills, at least.
        draw: draws the moments.
        root: folder that receives the runs.
    """
    words = _merged(words)
    whole = root / "whole"
    whole.mkdir(parents=True)
    if "data=stream" in words:
        importlib.import_module("shards").digit_shards(root / "shards", 600, 5)  # tests/support/shards.py
    started = time.monotonic()
    first: list[float] = []

    def watch() -> Callable[[float], bool]:
        def note(now: float) -> bool:
            if not first and _metrics_of(whole):
                first.append(now)
            return False

        return note

    run_until_killed(words, whole, watch)
    seconds = time.monotonic() - started
    trains = seconds - (first or [0.0])[0]
    wanted, result = end_of(whole), Result()
    while result.kills < kills:
        folder = root / f"killed-{result.histories}"
        folder.mkdir()
        result.histories += 1
        times = min(draw.randint(2, 5), kills - result.kills)
        trust = [word for word in words if word.startswith("trust=")]
        while True:
            saved = list(folder.glob("outputs/*/checkpoints/step-*.ckpt"))
            command = ["resume=last", *trust] if saved else words
            left = times > 0
            moment = partial(random_moment, draw, folder, seconds, trains) if left else None
            if not run_until_killed(command, folder, moment):
                break
            times -= 1
            result.kills += 1
            result.unsaved += not list(folder.glob("outputs/*/checkpoints/step-*.ckpt"))
        result.differences += [f"history {result.histories}{found}" for found in differences(wanted, end_of(folder))]
    return result


def _merged(own: Sequence[str]) -> list[str]:
    """Return the words of `BASE` and a configuration's own, the last of each key; null leaves a key to the recipe."""
    words = {word.partition("=")[0]: word for word in (*BASE, *own)}
    return [word for word in words.values() if not word.endswith("batch_size=null")]


def main() -> int:
    """Measure, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="words of which a configuration's name contains one")
    parser.add_argument("--kills", type=int, default=120, help="kills over all configurations, at least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    chosen = [one for one in CONFIGURATIONS if not options.names or any(word in one for word in options.names)]
    each, total = -(-options.kills // max(1, len(chosen))), Result()
    different = 0
    print(f"{'configuration':28}{'kills':>6}{'unsaved':>9}{'runs':>6}  ends")
    with tempfile.TemporaryDirectory() as root, _copies().ready(Path(root)):
        for number, name in enumerate(chosen):
            found = measure(
                CONFIGURATIONS[name], each, random.Random(f"{options.seed} {name}"), Path(root) / str(number)
            )
            total.kills += found.kills
            total.histories += found.histories
            wrong = {one.partition("/")[0] for one in found.differences}
            different += len(wrong)
            how = "identical" if not wrong else "; ".join(found.differences[:3])
            print(f"{name:28}{found.kills:6}{found.unsaved:9}{found.histories:6}  {how}", flush=True)
    same = total.histories - different
    print(f"{total.kills} kills of {total.histories} runs over {len(chosen)} configurations: {same} ends identical")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
