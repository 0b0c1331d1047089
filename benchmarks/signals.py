"""Send signals to real runs at every phase; count those that were saved, had the right exit code and resumed exactly.

    python benchmarks/signals.py                          # ten runs per cell; the table takes about two hours
    python benchmarks/signals.py --runs 2 --phases step save --devices 2
    python benchmarks/signals.py --cold --phases start    # new interpreters, which also import everything

A run of a small model is sent one signal, to its first process alone or to its whole process group, as terminals and
schedulers do. Then it is resumed, and its metrics.csv and last checkpoint are compared with those of an uninterrupted
run, bit for bit. Phases: `start`, at a random time before the first step of the uninterrupted run; `setup`, in a hook
of the module before the training; `step`; `accumulation`, between two batches of one step, with loader workers; `save`,
while a checkpoint is written; `validation`; and `test`.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lrflow.training.machine import varies

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

copies: Any = importlib.import_module("copies")  # tests/support/copies.py

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
PHASES = ("start", "setup", "step", "accumulation", "save", "validation", "test")
LAB = '''
import os, time
from pathlib import Path
import pytorch_lightning as pl
import torch

from lrflow.training.machine import varies
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def at(phase, seconds=0.15):
    """Tells that the run is at this phase, and stays there for a while."""
    if phase == os.environ.get("PHASE") and os.environ.get("LOCAL_RANK", "0") == "0" and not Path("there").exists():
        Path("there").touch()
        time.sleep(seconds)


class Data(pl.LightningDataModule):
    facts = {}

    def __init__(self, workers=0):
        super().__init__()
        self.workers = workers
        self.table = TensorDataset(torch.randn(192, 4, generator=torch.Generator().manual_seed(0)), torch.ones(192, 1))

    def train_dataloader(self):
        return DataLoader(self.table, 8, shuffle=True, num_workers=self.workers)

    def val_dataloader(self):
        return DataLoader(self.table, 64)

    test_dataloader = val_dataloader


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))

    def setup(self, stage):
        at("setup", 0.5)

    def loss(self, batch):
        return functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        Path("trains").touch()
        time.sleep(0.005)
        if self.trainer.global_step == 9:
            at("step")
        if self.trainer.global_step == 9 and batch_idx % 2 == 0:
            at("accumulation")
        return self.loss(batch)

    def on_save_checkpoint(self, checkpoint):
        at("save")

    def validation_step(self, batch, batch_idx):
        if self.trainer.global_step > 0:
            at("validation")
        self.log("val/loss", self.loss(batch), sync_dist=True)

    def test_step(self, batch, batch_idx):
        at("test")
        self.log("test/loss", self.loss(batch), sync_dist=True)
'''

OPTIONS = [
    "trust=lab", "model=custom", "model._target_=lab.Net", "data=custom", "data._target_=lab.Data", "optimizer.lr=0.01",
    "trainer.max_epochs=2", "trainer.checkpoint.every=5", "trainer.progress=false", "health.sharpness=null",
]  # fmt: skip


@dataclass
class Cell:
    """The counts of one cell of the table."""

    runs: int = 0
    saved: int = 0
    code: int = 0
    clean: int = 0
    exact: int = 0
    failures: list[str] = field(default_factory=list)


def options(phase: str, devices: int) -> list[str]:
    """Return the overrides of a run; one for the phase `accumulation` has windows of two batches and two workers."""
    found = [*OPTIONS, f"trainer.devices={devices}", "trainer.accelerator=cpu"]
    if devices > 1:
        found.append("trainer=ddp")
    if phase == "accumulation":
        found += ["trainer.accumulate_grad_batches=2", "data.workers=2", "trainer.max_epochs=3"]
    return found


class Cold:
    """A run in a new interpreter, with the methods of `copies.Process`."""

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str]) -> None:
        self._files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115
        out, err = self._files
        command = [sys.executable, *words]
        self._process = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=err, process_group=0)
        self.pid, self.poll = self._process.pid, self._process.poll

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to its group."""
        os.killpg(self.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Return its output once it has ended."""
        try:
            self._process.wait(timeout)
        finally:
            self._process.kill()
        for file in self._files:
            file.seek(0)
        out, err = (file.read().decode() for file in self._files)
        return out, err

    @property
    def returncode(self) -> int | None:
        """The exit code."""
        return self._process.returncode


def start(words: list[str], cwd: Path, cold: bool, **environment: str) -> Any:
    """Start `python -m lrflow WORDS` as the leader of a process group."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **environment}
    if cold:
        return Cold(["-m", "lrflow", *words], cwd, env)
    return copies.Process(["-m", "lrflow", *words], cwd, env, captured=True, leads=True)


def state(folder: Path) -> tuple[Any, dict[str, torch.Tensor], str]:
    """Return what two equal runs have in common: rows without times, the last weights, the status."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if not varies(key)} for row in csv.DictReader(file)]
    last = torch.load(max(folder.glob("checkpoints/step-*.ckpt")), weights_only=True)
    return (
        rows,
        {**last["state_dict"], **_tensors(last["optimizer_states"])},
        (folder / "summary.json").read_text()[:30],
    )


def _tensors(states: Any) -> dict[str, torch.Tensor]:
    moments = states[0]["state"]
    return {
        f"{at}.{name}": value for at, own in moments.items() for name, value in own.items() if torch.is_tensor(value)
    }


def equal(one: Any, other: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    same = one[1].keys() == other[1].keys() and all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    return bool(same and one[0] == other[0] and one[2] == other[2])


def run_folder(folder: Path) -> Path | None:
    """Return the only run folder that has a checkpoint, or None."""
    found = {path.parent.parent for path in folder.glob("outputs/*/checkpoints/step-*.ckpt")}
    return found.pop() if len(found) == 1 else None


def attempt(
    cell: Cell, whole: Any, folder: Path, number: int, phase: str, devices: int, group: bool, cold: bool, first: float
) -> None:
    """Start a run, send it a signal, resume it, and count; `first` are the seconds until its first step."""
    words = options(phase, devices)
    cell.runs += 1
    began = time.monotonic()
    run = start(words, folder, cold, PHASE=phase)
    if phase == "start":
        time.sleep(random.uniform(0.1 * first, first))
    while phase != "start" and not (folder / "there").exists() and run.poll() is None:
        time.sleep(0.01)
    sent = time.monotonic() - began
    (run.signal_group if group else run.send_signal)(number)
    _, err = run.communicate(timeout=180)
    right = run.returncode == 128 + number
    cell.code += right
    clean = not any(word in err for word in ("Traceback", "bug", "Connection", "Error"))
    cell.clean += clean
    found = run_folder(folder)
    cell.saved += found is not None or phase in ("start", "setup")
    again = start([*words, *([f"resume={found}"] if found else [])], folder, cold)
    _, again_err = again.communicate(timeout=180)
    found = run_folder(folder)
    exact = again.returncode == 0 and found is not None and equal(state(found), whole)
    cell.exact += exact
    if not (right and clean and exact):
        cell.failures.append(
            f"{signal.Signals(number).name} {phase} devices={devices} group={group} after {sent:.2f} s: exit "
            f"{run.returncode}, then {again.returncode}, exact {exact}, in {folder}\n{err[-1500:]}\n{again_err[-800:]}"
        )


@contextmanager
def ready(cold: bool) -> Iterator[None]:
    """Within, processes can be started."""
    if cold:
        yield
        return
    with tempfile.TemporaryDirectory() as folder, copies.ready(Path(folder)):
        yield


def main() -> None:
    """Run the matrix and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--signals", nargs="+", default=[number.name for number in NUMBERS])
    parser.add_argument("--targets", nargs="+", choices=("parent", "group"), default=["parent", "group"])
    parser.add_argument("--cold", action="store_true", help="start new interpreters instead of forks of a warm one")
    args = parser.parse_args()
    numbers = [signal.Signals[name] for name in args.signals]
    for number in numbers:  # under nohup or in the background some are ignored, and so in the runs
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    cells: dict[tuple[str, int, str, str], Cell] = {}
    base = Path(tempfile.mkdtemp(prefix="signals-"))

    with ready(args.cold):
        for devices in args.devices:
            for phase in args.phases:
                folder = _laboratory(base / f"whole-{phase}-{devices}")
                began, run = time.monotonic(), start(options(phase, devices), folder, args.cold)
                while not (folder / "trains").exists() and run.poll() is None:
                    time.sleep(0.01)
                first = time.monotonic() - began
                _, err = run.communicate(timeout=180)
                found = run_folder(folder)
                assert run.returncode == 0, err
                assert found is not None
                whole = state(found)
                for number in numbers:
                    for target in args.targets:
                        cell = cells[phase, devices, number.name, target] = Cell()
                        for count in range(args.runs):
                            where = _laboratory(base / f"{phase}-{devices}-{number.name}-{target}-{count}")
                            attempt(cell, whole, where, number, phase, devices, target == "group", args.cold, first)
                            if not cell.failures:
                                shutil.rmtree(where)
                        print(phase, devices, number.name, target, cell, file=sys.stderr, flush=True)
    print("| phase | processes | signal | to | saved | exit code | no noise | resumed bit-equal |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (phase, devices, name, target), cell in cells.items():
        counts = " | ".join(f"{count} of {cell.runs}" for count in (cell.saved, cell.code, cell.clean, cell.exact))
        print(f"| {phase} | {devices} | {name} | {target} | {counts} |")


def _laboratory(folder: Path) -> Path:
    folder.mkdir()
    (folder / "lab.py").write_text(LAB)
    return folder


if __name__ == "__main__":
    main()
