"""Runs on shards, from the files to predictions: killed and resumed, on two devices, and used without the shards."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copies
import numpy as np
import pytest
from shards import digit_shards, digit_tables

from lrflow.runs import newest_checkpoint
from lrflow.training.checkpoint_file import read_checkpoint

Command = Callable[..., subprocess.CompletedProcess[str]]

SHORT = ["data=stream", "data.shards=digits", "trainer=cpu", "trainer.progress=false", "name=run", "model=mlp",
         "model.widths=[16]"]  # fmt: skip
TAR = [*SHORT, "data.mode=L", "data.size=8", "data.check=20"]
PARQUET = [*SHORT, "data.input=pixels"]


def ends(folders: list[Path]) -> list[dict[str, Any]]:
    return [dict(read_checkpoint(newest_checkpoint(one))) for one in folders]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(
    kind: str,
    lrflow: Command,
    killed: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With workers and a bad sample; it is resumed with another number of workers."""
    (digit_shards if kind == "tar" else digit_tables)(tmp_path / "digits")
    own = [*(TAR if kind == "tar" else PARQUET), "trainer.max_steps=14", "trainer.checkpoint.every=2 steps",
           "data.shuffle=150", "data.shards_at_once=2", "data.loader={num_workers: 2, persistent_workers: true}",
           "data.bad_files=skip", "trainer.val_every=8 steps"]  # fmt: skip
    if kind == "tar":
        own.append("augment=[flip_crop,mixup]")
        shard = tmp_path / "digits/train-001.tar"
        shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x89QNG", 30).replace(b"\x89QNG", b"\x89PNG", 29))
    assert lrflow(*own, "output=whole").returncode == 0
    monkeypatch.chdir(tmp_path)
    killed(*own, "output=killed", name="step-*.ckpt", number=4, before=False)  # in the middle of the second epoch
    folders = [next((tmp_path / output).iterdir()) for output in ("whole", "killed")]
    assert newest_checkpoint(folders[1]).name == "step-0000008.ckpt"  # type: ignore[union-attr]
    done = lrflow(
        *own, "output=killed", f"resume={folders[1]}", "data.loader={num_workers: 1, persistent_workers: true}"
    )
    assert done.returncode == 0, done.stderr
    if kind == "tar":
        assert "left out of training: 1 sample: digits/train-001.tar: 000109.png" in caplog.messages
    whole, resumed = ends(folders)
    for name in ("state_dict", "optimizer_states", "global_step"):
        assert same(whole[name], resumed[name])
    assert same(whole["lrflow"]["preprocessing"], resumed["lrflow"]["preprocessing"])
    metrics = [json.loads((one / "summary.json").read_text())["metrics"] for one in folders]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_two_devices_train_on_unequal_shards(python: Callable[..., copies.Process], tmp_path: Path) -> None:
    digit_shards(tmp_path / "digits", 210, 3)
    digit_shards(tmp_path / "digits", 10, 1)  # its first shard has 10 samples now, the others have 70
    own = [*TAR, "data.batch_size=16", "trainer.max_epochs=2", "trainer.devices=2", "data.val_size=15"]
    process = python("-m", "lrflow", *own, "output=runs", cwd=tmp_path, leads=True)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "digits: 3 shards, 150 samples (train 135, val 15, test 0)" in out
    summary = json.loads((next((tmp_path / "runs").iterdir()) / "summary.json").read_text())
    assert summary["steps"] == 2 * 5, "135 samples: five batches of at most 16 on each device"


def test_shards_are_predicted_and_exported_from_the_run_alone(lrflow: Command, tmp_path: Path) -> None:
    digit_tables(tmp_path / "digits", 600)
    done = lrflow(
        *PARQUET, "data.target=name", "data.test_size=100", "optimizer.lr=0.02", "trainer.max_epochs=20", "output=runs"
    )
    assert done.returncode == 0, done.stderr
    assert "digits: 5 shards, 600 samples (train 440, val 60, test 100)" in done.stdout
    (run,) = (tmp_path / "runs").iterdir()
    new = tmp_path / "new.parquet"
    shutil.move(tmp_path / "digits/part-4.parquet", new)
    shutil.rmtree(tmp_path / "digits")
    for more in (["task=predict", "task.inputs=new.parquet"], ["task=export", "task.to=torch_export"]):
        done = lrflow(*more, "output=runs", "task.weights=last")
        assert done.returncode == 0, done.stderr
    with (run / "predictions/new-last.csv").open() as file:
        found = [row["class"] for row in csv.DictReader(file)]
    from pyarrow import parquet

    assert np.mean([a == b for a, b in zip(found, parquet.read_table(new)["name"].to_pylist(), strict=True)]) > 0.7
    card = json.loads((run / "export/last-torch_export/export.json").read_text())
    assert card["inputs"] == [{"kind": "array", "shape": [64], "dtype": "float32"}]
    assert card["classes"] == [f"digit {number}" for number in range(10)]


def test_bad_shards_end_a_sweep_before_its_first_job(lrflow: Command, tmp_path: Path) -> None:
    path = digit_shards(tmp_path / "digits") / "train-002.tar"
    path.write_bytes(path.read_bytes()[:30_000])
    done = lrflow("-m", *TAR, "optimizer.lr=0.1,0.2")
    assert (done.returncode, "digits/train-002.tar: is cut off" in " ".join(done.stderr.split())) == (2, True)
    assert not (tmp_path / "outputs").exists()


def test_a_run_by_samples_and_by_steps_has_its_length(lrflow: Command, tmp_path: Path) -> None:
    digit_shards(tmp_path / "digits", 200, 2)
    for words, steps in ((["trainer.max_samples=1000"], 15), (["trainer.max_steps=7"], 7)):
        done = lrflow("task=plan", *TAR, *words, "trainer.max_epochs=null")
        assert f"run       {steps} steps" in done.stdout, done.stdout + done.stderr
