"""`resume=auto`: a job goes on in its newest run folder, is not repeated once it is finished, and never runs twice."""

from __future__ import annotations

import csv
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from lrflow import files
from lrflow.cli import main
from lrflow.config import compose
from lrflow.config.restart import fingerprint
from lrflow.config.saved import config_text
from lrflow.tasks.find import _with_lr
from lrflow.tasks.prepare import build_trainer
from lrflow.training.interrupt import requeue
from lrflow.training.machine import varies

SHORT = ["data=digits", "model=logistic", "trainer.max_steps=12", "trainer.checkpoint.every=4"]
SHORT += ["trainer.val_every=6", "trainer.log_every=1", "health.sharpness=null"]


LAB = """
import os, signal
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

class Data(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.table = TensorDataset(torch.randn(96, 4, generator=torch.Generator().manual_seed(0)), torch.ones(96, 1))

    def train_dataloader(self):
        return DataLoader(self.table, 8, shuffle=True)

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1"
        if first and self.trainer.global_step == int(os.environ["KILL_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
"""


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], undrawn: None
) -> Callable[..., tuple[int | None, str, list[Path]]]:
    """Runs a command, which dies or gets a signal in a step. Returns exit code, output and run folders."""
    monkeypatch.chdir(tmp_path)
    make = build_trainer

    def go(
        *words: str, dies: int | None = None, signals: tuple[int, int] = (-1, 0)
    ) -> tuple[int | None, str, list[Path]]:
        class Die(pl.Callback):
            def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
                if trainer.global_step == dies:
                    raise Killed
                if trainer.global_step == signals[0]:
                    os.kill(os.getpid(), signals[1])

        def build(*given: object) -> pl.Trainer:
            trainer = make(*given)
            trainer.callbacks.append(Die())  # type: ignore[attr-defined]
            return trainer

        monkeypatch.setattr("lrflow.tasks.prepare.build_trainer", build)
        try:
            code = main([*SHORT, *words])
        except Killed:
            code = None
        return code, "".join(capsys.readouterr()), sorted(path for path in Path("outputs").glob("*") if path.is_dir())

    return go


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if not varies(key)} for row in csv.DictReader(file)]


@pytest.mark.parametrize("own", [[], ["name=mine"]])
def test_a_job_goes_on_until_it_is_finished_and_is_not_repeated(own: list[str], start) -> None:
    whole = start()[2][0]
    code, out, folders = start(*own, "seed=0", "resume=auto", dies=6)
    if not own:
        assert f"{whole} is finished" in out  # `seed=0` changes nothing
        assert code == 0
        return
    assert "no run of this job (name=mine) has a checkpoint yet, so it starts" in out
    code, out, folders = start(*own, "resume=auto", "trainer.progress=false", "logger=tensorboard", dies=10)
    assert "found by name=mine" in out
    code, out, again = start(*own, "resume=auto")
    assert (code, again) == (0, folders)
    (folder,) = set(folders) - {whole}
    assert rows(folder) == rows(whole)
    code, out, again = start(*own, "resume=auto")
    assert (code, again) == (0, folders)
    assert out == f"resume=auto: {folder} is finished, so this job (name=mine) is not run again\n"
    code, out, _ = start(*own, "resume=auto", "optimizer.lr=0.5")
    assert code == 2
    assert "take another name" in out


def test_a_job_is_known_by_its_config(start) -> None:
    start("resume=auto", dies=6)
    (first,) = start("optimizer.lr=0.5", "resume=auto", dies=3)[2][:1]
    code, out, folders = start("resume=auto")
    assert "found by the config" in out
    assert f"{first} resumes from step-0000006.ckpt" in out
    assert code == 0
    assert len(folders) == 2  # the other job died before its first checkpoint
    _, out, folders = start("optimizer.lr=0.5", "resume=auto")
    assert "so it starts" in out
    assert len(folders) == 3


def test_a_job_runs_once_at_a_time(start) -> None:
    start("name=mine", "resume=auto", dies=6)
    with files.lock(Path("outputs/.job-mine.lock")):
        code, out, _ = start("name=mine", "resume=auto")
    assert code == 1
    assert "is already running this job (name=mine)" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "seed=0,1"], "sweep.resume=last"),
        (["task=plan"], "only task=train can be restarted, not plan"),
        (["optimizer.lrr=1"], "did you mean optimizer.lr?"),
    ],
)
def test_it_is_refused_elsewhere(words: list[str], said: str, start) -> None:
    code, out, folders = start(*words, "resume=auto")
    assert (code, folders) == (2, [])
    assert said in out


def test_the_lr_that_a_run_has_found_does_not_change_its_job() -> None:
    config = compose(["optimizer.lr=auto"])
    config.attach(config.source, config.choices, ["optimizer.lr=auto"], None, True)
    found = _with_lr(config, {"lr": 0.02, "low": 0.01, "high": 0.04, "steps": 500})
    assert config_text(found) != config_text(config)
    assert fingerprint(config_text(found)) == fingerprint(config_text(config))


def test_the_config_is_printed_without_a_lock(start) -> None:
    code, out, folders = start("resume=auto", "--cfg", "job")
    assert (code, folders, list(Path().glob("outputs/.*"))) == (0, [], [])
    assert "requeue: true" in out


@pytest.mark.slow
def test_torchrun_starts_a_killed_rank_again_and_the_run_ends_as_if_uninterrupted(python, tmp_path: Path) -> None:
    options = "trust=lab model=custom model._target_=lab.Net data=custom data._target_=lab.Data trainer=ddp"
    options += " trainer.accelerator=cpu trainer.devices=2 trainer.max_epochs=3 trainer.checkpoint.every=4 resume=auto"
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3", "--master-port"]
    ends = []
    for kill_at in ("9", "-1"):
        (folder := tmp_path / kill_at).mkdir()
        (folder / "lab.py").write_text(LAB)
        job = python(*command, str(_free_port()), "-m", "lrflow", *options.split(), cwd=folder, KILL_AT=kill_at)
        out, err = job.communicate(timeout=200)
        assert job.returncode == 0, err
        assert out.count("resumes from step-0000008.ckpt") == (kill_at == "9")
        (run,) = (path for path in (folder / "outputs").iterdir() if path.is_dir())
        last = max((run / "checkpoints").glob("step-*.ckpt"))
        ends.append((rows(run), torch.load(last, weights_only=True)["state_dict"]))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][name], tensor) for name, tensor in ends[1][1].items())


SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NODELIST": "127.0.0.1",
}


@pytest.mark.parametrize(("launcher", "source"), [("torchrun", "auto"), ("torchrun", "folder"), ("srun", "last")])
def test_nodes_without_a_shared_folder_fail_at_once(launcher: str, source: str, start, python, tmp_path: Path) -> None:
    (run,) = start("resume=auto", dies=6)[2]
    (tmp_path / "other").mkdir()
    port, jobs = str(_free_port()), []
    for rank, folder in (("0", tmp_path), ("1", tmp_path / "other")):
        given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if launcher == "torchrun":
            given |= {"RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        else:
            given |= SLURM | {"SLURM_PROCID": rank, "SLURM_LOCALID": "0", "SLURM_NODEID": rank}
        words = [*SHORT, f"resume={run if source == 'folder' else source}"]
        jobs.append(python("-m", "lrflow", *words, cwd=folder, **given))
    for job in jobs:
        _, err = job.communicate(timeout=60)
        assert job.returncode == 2, err
        assert "does not, so none of them resumes" in " ".join(err.split()), err


def test_slurm_requeues_a_job_that_sigusr1_stops(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    asked = tmp_path / "asked"
    cases = {
        "resume=auto": ["requeue 77"],
        "resume=auto seed=1 resume.requeue=false": [],
        "seed=2": [],
        "seed=3 resume.requeue=true": ["requeue 77"],
    }
    for words, expected in cases.items():
        asked.write_text("")
        scontrol.write_text(f"#!/bin/sh\necho $* >> {asked}\n")
        scontrol.chmod(0o755)
        code, out, _ = start(*words.split(), signals=(6, signal.SIGUSR1))
        assert (code, asked.read_text().splitlines()) == (138, expected), words
        assert "saved as" in out
    code, out, folders = start("resume=auto")
    assert (code, len(folders)) == (0, len(cases))
    scontrol.write_text("#!/bin/sh\necho no such job >&2; exit 1\n")
    with monkeypatch.context() as context:
        context.setenv("SLURM_ARRAY_JOB_ID", "70")
        context.setenv("SLURM_ARRAY_TASK_ID", "7")
        requeue()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
