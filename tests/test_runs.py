"""Whole runs through the real command line: trained, killed, resumed, swept, spread over processes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import copies
import numpy as np
import pytest
import torch

from lrflow.errors import ConfigError, LrflowError
from lrflow.loggers.comet import FOLDER
from lrflow.plan import Plan
from lrflow.runs import RunFolder, find_checkpoint
from lrflow.training.machine import varies

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., copies.Process]

# Dropout and shuffling, validations and saves within epochs: everything that a resumed run can get wrong.
LONG = ("trainer.max_epochs=10", "trainer.log_every=1", "trainer.val_every=30", "trainer.checkpoint.every=7")


def only_run(folder: Path) -> Path:
    """The single run folder under `outputs`."""
    (found,) = [path for path in (folder / "outputs").iterdir() if path.name != "sweeps"]
    return found


def rows(run: Path, *without: str) -> list[dict[str, str]]:
    """metrics.csv without the step times, which no two runs share."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not varies(k)} for row in csv.DictReader(file)]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's last checkpoint."""
    last = max(run.glob("checkpoints/step-*.ckpt"))
    return torch.load(last, weights_only=True)["state_dict"]


def rows_beyond(folder: Path, count: int) -> bool:
    """Whether the run under `outputs` has written more rows than that."""
    return any(len(path.read_text().splitlines()) > count for path in folder.glob("outputs/*/metrics.csv"))


def test_the_default_run_learns_the_digits(lrflow: Run, tmp_path: Path) -> None:
    done = lrflow()
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["metrics"]["test/accuracy"] >= 0.97
    for name in ("config.yaml", "environment.json", "plan.json", "plan.csv", "plan.png", "metrics.csv"):
        assert (run / name).stat().st_size > 0, name
        assert name in done.stdout or name in ("environment.json", "plan.json", "plan.csv")
    assert "\x1b" not in done.stdout, "colours belong on a terminal only"

    plan = Plan.from_dict(json.loads((run / "plan.json").read_text()))
    steps = [row for row in rows(run) if row["lr/decay"]]
    assert [int(row["step"]) for row in steps] == list(range(plan.horizon.steps))
    planned = plan.lr(np.arange(plan.horizon.steps))
    for column, name in enumerate(plan.names):
        assert [float(row[f"lr/{name}"]) for row in steps] == planned[:, column].tolist()
        assert [float(row[f"lr_planned/{name}"]) for row in steps] == planned[:, column].tolist()

    written = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    refused = lrflow("resume=last", "trainer.max_epochs=30")
    assert refused.returncode == 2
    assert "resume.horizon" in refused.stderr
    again = lrflow("resume=last", "optimizer.lr=0.01")
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout
    assert {path: path.read_bytes() for path in written} == written, "nothing is left to do, so nothing is touched"

    evaluated = lrflow("task=evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"{summary['metrics']['test/loss']:.6g}" in evaluated.stdout


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_nothing_had_happened(python: Start, lrflow: Run, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert lrflow(*LONG, cwd=whole).returncode == 0
    process = python("-m", "lrflow", *LONG, cwd=killed)
    assert process.interrupt(signal.SIGKILL, lambda: rows_beyond(killed, 30)) == -signal.SIGKILL
    stopped_at = len(rows(only_run(killed)))
    # A process from scratch: its hashes of strings, and so the order of its sets, are others.
    command = [sys.executable, "-m", "lrflow", "resume=last"]
    done = subprocess.run(command, cwd=killed, check=True, capture_output=True, text=True)
    assert "resumed from" in done.stdout
    first, second = only_run(whole), only_run(killed)
    assert stopped_at < len(rows(first)), "the run was over before it was killed"
    assert rows(second) == rows(first)
    weights = final_weights(first)
    for name, tensor in final_weights(second).items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.slow
def test_sigterm_saves_at_a_step_boundary_and_exits_with_143(python: Start, lrflow: Run, tmp_path: Path) -> None:
    process = python("-m", "lrflow", *LONG, cwd=tmp_path)
    assert process.interrupt(signal.SIGTERM, lambda: rows_beyond(tmp_path, 20)) == 143
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "stopped"
    last = max(run.glob("checkpoints/step-*.ckpt"))
    assert torch.load(last, weights_only=True)["global_step"] == int(rows(run)[-1]["step"]) + 1
    assert str(run.name) in summary["error"]
    assert lrflow("resume=last").returncode == 0
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_the_newest_whole_checkpoint_is_resumed(
    lrflow_here: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert lrflow_here("trainer.max_epochs=2").returncode == 0
    run = only_run(tmp_path)
    earlier, last = sorted(run.glob("checkpoints/step-*.ckpt"))
    last.write_bytes(last.read_bytes()[:-1000])
    refused = lrflow_here(f"resume={last}")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    message = "".join(refused.stderr.split())  # however the lines were broken
    assert last.name in message
    assert f"thenewestwholeoneis{earlier}" in message
    for wanted in ("last", str(run.relative_to(tmp_path)), str(earlier)):
        last.write_bytes(b"")
        (run / "summary.json").unlink()
        caplog.clear()
        done = lrflow_here(f"resume={wanted}")
        assert done.returncode == 0, done.stderr
        assert "is an empty file; the run resumes from" in caplog.text
        assert json.loads((only_run(tmp_path) / "summary.json").read_text())["status"] == "finished"


def test_a_sweep_checks_all_jobs_first_and_survives_a_failing_one(lrflow_here: Run, tmp_path: Path) -> None:
    refused = lrflow_here("-m", "optimizer=sgd,adamw", "optimizer.lr=0.01,-1")
    assert refused.returncode == 2
    assert "optimizer.lr" in refused.stderr
    assert not list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv")), "nothing may run before every job is sound"

    swept = lrflow_here("-m", "optimizer=sgd", "optimizer.lr=0.01,900,0.05", "trainer.max_epochs=2")
    assert swept.returncode == 1
    folders = {path.name: path for path in tmp_path.glob("outputs/sweeps/*/[0-9]")}
    status = {name: json.loads((path / "summary.json").read_text())["status"] for name, path in folders.items()}
    assert status == {"0": "finished", "1": "diverged", "2": "finished"}
    assert "LR" in json.loads((folders["1"] / "summary.json").read_text())["error"]
    assert not list(folders["1"].glob("checkpoints/*.ckpt")), "weights that are not finite are never saved"


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_stops(python: Start, tmp_path: Path) -> None:
    job = "outputs/sweeps/*/0"
    words = ("-m", "trainer.max_epochs=200", *LONG[1:], "optimizer.lr=0.01,0.001")
    process = python("-m", "lrflow", *words, cwd=tmp_path)
    assert process.interrupt(signal.SIGTERM, lambda: list(tmp_path.glob(f"{job}/checkpoints/step-*.ckpt"))) == 143
    said, _ = process.communicate()
    assert "stopped" in said
    (first,) = tmp_path.glob(f"{job}/summary.json")
    assert json.loads(first.read_text())["status"] == "stopped"
    assert not list(tmp_path.glob("outputs/sweeps/*/1/metrics.csv")), "the second job never began"


def test_a_run_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "one")
    with (
        folder.locked(),
        pytest.raises(LrflowError, match=f"process {os.getpid()} is already running"),
        folder.locked(),
    ):
        pass
    with folder.locked():
        pass


@pytest.mark.parametrize("content", [b"", b"\n", b"3f2", b"\0" * 13, b"\xff\xfe"])
def test_a_torn_run_id_is_made_anew(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run_id").write_bytes(content)
    made = RunFolder(tmp_path).run_id
    assert re.fullmatch("[0-9a-f]{12}", made)
    assert RunFolder(tmp_path).run_id == made
    assert made in caplog.text


def test_a_run_id_is_made_once(tmp_path: Path) -> None:
    first, second = RunFolder.create(tmp_path, "one"), RunFolder.create(tmp_path, "one")
    made = first.run_id
    assert re.fullmatch(r"[0-9a-f]{12}", made)
    assert made != second.run_id
    moved = first.path.rename(tmp_path / "moved")
    assert RunFolder(moved).run_id == made, "it does not hang on the folder's name"
    with pytest.raises(LrflowError), RunFolder(moved).restored_unless(lambda: False):
        raise LrflowError("before the first step")
    assert RunFolder(moved).run_id == made
    RunFolder(moved).discard()
    assert not moved.exists(), "of a run that never began nothing is left"


def test_a_run_that_is_resumed_has_not_ended_from_its_first_step_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_summary({"status": "stopped"})
    folder.stage().write_environment(resumed={"step": 3})
    assert folder.read_summary()
    folder.commit()
    assert not folder.read_summary()
    assert "resumed" in (tmp_path / "environment.json").read_text()


def test_a_run_that_starts_over_takes_no_dashboard_of_the_one_before(tmp_path: Path) -> None:
    """Comet's archives would count as rows that the new run has logged already."""
    kept = RunFolder(tmp_path)
    kept.metrics.write_text("step\n0\n")
    for name in (FOLDER, "tensorboard", "wandb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events").touch()
    kept.start_over()
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize(("name", "kept"), [("2026-11-29_mlp-digits", True), ("0", False), ("17", False)])
def test_a_run_of_the_version_before_keeps_the_id_that_dashboards_know(name: str, kept: bool, tmp_path: Path) -> None:
    """Unless it is the job of a sweep: every sweep's job of that number had the same one."""
    folder = RunFolder(tmp_path / name)
    folder.path.mkdir()
    folder.config.touch()
    before = hashlib.sha256(name.encode()).hexdigest()[:12]
    assert (folder.run_id == before) is kept
    assert RunFolder(folder.path).run_id == folder.run_id


def test_a_plan_needs_no_data_and_is_compared_with_a_run(lrflow_here: Run, tmp_path: Path) -> None:
    planned = lrflow_here("task=plan", "horizon.steps=1000", "data=fashion_mnist", "data.root=nowhere", "model=cnn")
    assert planned.returncode == 0, planned.stderr
    run = only_run(tmp_path)
    assert json.loads((run / "plan.json").read_text())["horizon"]["steps"] == 1000
    with (run / "plan.csv").open() as file:
        assert len(list(csv.reader(file))) == 1001
    other = lrflow_here("task=plan", "horizon.steps=1000", "data=fashion_mnist", "model=cnn", "optimizer.lr=0.01",
                   f"against={run}", "output=other")  # fmt: skip
    assert other.returncode == 0, other.stderr
    (compared,) = (tmp_path / "other").iterdir()
    before, now = (json.loads((path / "plan.json").read_text())["fingerprint"][:12] for path in (run, compared))
    assert f"Plan {before} → {now}" in other.stdout


@pytest.mark.slow
def test_two_processes_share_a_run(tmp_path: Path) -> None:
    """Both from scratch, and the second started by Lightning."""
    command = [sys.executable, "-m", "lrflow", "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    plan = Plan.from_dict(json.loads((run / "plan.json").read_text()))
    # 1,257 examples: 629 a process, ten batches of 64, three epochs
    assert (plan.horizon.steps, plan.horizon.steps_per_epoch) == (30, 10)
    steps = [row for row in rows(run) if row["lr/decay"]]
    assert [float(row["lr/decay"]) for row in steps] == plan.lr(np.arange(30))[:, plan.names.index("decay")].tolist()
    assert done.stdout.count("Plan ") == 1, "only the first process speaks"


def test_a_module_and_data_of_ones_own(lrflow: Run, tmp_path: Path) -> None:
    package = tmp_path / "my_pkg"
    package.mkdir()
    (package / "__init__.py").write_text(
        """
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Line(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = torch.nn.Linear(4, width)
        self.head = torch.nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.body(x))


class Lit(pl.LightningModule):
    def __init__(self, width=8):
        super().__init__()
        self.net = Line(width)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x).squeeze(-1), y)

    def configure_optimizers(self):
        raise AssertionError("lrflow supplies the optimizer")


class Data(pl.LightningDataModule):
    def setup(self, stage):
        x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        self.examples = TensorDataset(x, x.sum(1))

    def train_dataloader(self):
        return DataLoader(self.examples, 10, shuffle=True)
"""
    )
    own = ("data=custom", "data._target_=my_pkg.Data", "model=custom", "trainer.max_epochs=2", "layers=uniform")
    refused = lrflow(*own, "model._target_=my_pkg.Lit")
    assert refused.returncode == 2
    assert "trust=my_pkg" in refused.stderr
    module = lrflow(*own, "model._target_=my_pkg.Lit", "trust=my_pkg", "name=lit")
    assert module.returncode == 0, module.stderr
    plain = lrflow(
        *own, "model._target_=my_pkg.Line", "model.loss=mse", "model.width=16", "name=line", LRFLOW_TRUST="my_pkg"
    )
    assert plain.returncode == 0, plain.stderr
    for name in ("lit", "line"):
        (run,) = tmp_path.glob(f"outputs/*{name}")
        assert len(rows(run)) == 20


def test_no_secret_is_written(lrflow: Run, tmp_path: Path) -> None:
    secret = "sk-4f1c9a77e2"
    refused = lrflow(f"name={secret}", MY_API_KEY=secret)
    assert refused.returncode == 2
    assert secret not in refused.stdout + refused.stderr

    done = lrflow("logger=wandb", "logger.wandb.mode=offline", "logger.wandb.group=${oc.env:MY_API_KEY}",
                  "trainer.max_epochs=1", MY_API_KEY=secret)  # fmt: skip
    assert done.returncode == 2
    assert "MY_API_KEY" in done.stderr

    done = lrflow("logger=wandb", "logger.wandb.mode=offline", "trainer.max_epochs=1", MY_API_KEY=secret)
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    held = [str(path) for path in written if secret.encode() in path.read_bytes()]
    assert not held, done.stderr
    assert secret not in done.stdout + done.stderr


def test_the_wheel_brings_its_configuration_and_recipes(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, root],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("lrflow-*.whl")
    installed, nowhere = tmp_path / "installed", tmp_path / "nowhere"
    nowhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = "import sys, lrflow, lrflow.cli; print(lrflow.__path__); sys.exit(lrflow.cli.main())"
    shown = subprocess.run(
        [sys.executable, "-c", code, "recipe=cnn", "--cfg", "job"],
        cwd=nowhere, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert str(installed) in shown.stdout
    assert str(root) not in shown.stdout.splitlines()[0]
    assert "lrflow.data.FashionMNIST" in shown.stdout


def test_a_run_that_is_not_there_has_the_nearest_spelling(tmp_path: Path) -> None:
    (tmp_path / "baseline").mkdir()
    cases = {
        ("lst", "resume"): "last",
        ("AUTO", "resume"): "auto",
        ("auto", "task.checkpoint"): None,
        (f"{tmp_path}/basline", "resume"): f"{tmp_path}/baseline",
        ("", "resume"): None,
    }
    for (wanted, key), near in cases.items():
        with pytest.raises(ConfigError, match="expected `last`") as raised:
            find_checkpoint(wanted, tmp_path, key)
        assert raised.value.problems[0].hint == (near and f"did you mean {near}?"), wanted


def test_the_last_run_is_an_older_one_where_the_newest_has_no_checkpoint(
    python: Start, lrflow: Run, tmp_path: Path
) -> None:
    short = ("trainer.max_steps=4", "trainer.checkpoint.every=2", "trainer.progress=false")
    assert lrflow(*short, "name=older").returncode == 0
    (older,) = (tmp_path / "outputs").iterdir()
    assert "is newer" not in lrflow("resume=last").stderr
    long = ("trainer.max_epochs=1000", "trainer.log_every=1", "trainer.checkpoint.every=1000 epochs", "name=newer")
    process = python("-m", "lrflow", *long, cwd=tmp_path)
    begun = lambda: any(path.stat().st_size for path in tmp_path.glob("outputs/*newer/metrics.csv"))  # noqa: E731
    assert process.interrupt(signal.SIGKILL, begun) == -signal.SIGKILL
    (newer,) = (tmp_path / "outputs").glob("*newer")
    for words, key in ((["resume=last"], "resume"), (["task=evaluate"], "task.from")):
        done = lrflow(*words)
        assert done.returncode == 0, done.stderr
        message = f"{key}=last is {older.relative_to(tmp_path)}; {newer.relative_to(tmp_path)} is newer, but has no"
        assert done.stderr.count(message) == 1
