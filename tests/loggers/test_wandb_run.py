"""A run on W&B, read back from W&B's own file and held against its folder: what it is, what it has, how it ended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lrflow.errors import ConfigError, DivergedError, PrunedError, StoppedError
from lrflow.finding import Finding
from lrflow.loggers.dashboard import About
from lrflow.loggers.loggers import build_loggers, close_loggers, describe_run, log_rows
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from tests.support.wandb_files import Logged

wandb = pytest.importorskip("wandb")

ABOUT = About(
    "mlp lr=0.1",
    {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}},
    {"recipe": "mine", "optimizer": "sgd", "clip": "none", "task": "train"},
    group="monday",
    metric="val/acc",
    mode="max",
)
FINDING = Finding("too_high", 1, 0, "the loss rose", {"loss": 2.0}, 0.9, "optimizer.lr=0.01")


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Keep W&B's process from the processes of other tests, which would share it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def settings(**more: Any) -> dict[str, Any]:
    return {"wandb": {"mode": "offline", "project": "p", "settings": {"silent": True}, **more}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The folder of a run that has ended, with a file of each kind."""
    from PIL import Image

    place = RunFolder.at(tmp_path / "run")
    for name in ("plan", "find", "sharpness"):
        Image.new("RGB", (30, 20)).save(place.path / f"{name}.png")
    steps = "".join(f"{step},{step / 1000}\n" for step in range(1000))
    (place.path / "plan.csv").write_text(f"step,all\n{steps}")
    (place.path / "find.csv").write_text("lr,seed 0\n0.1,2.5\n1.0,\n")
    (place.path / "find.json").write_text(json.dumps({"lr": 0.2, "interval": [0.1, 0.4], "monitor": "train/loss"}))
    (place.path / "metrics.csv").write_text("step,train/loss,val/acc\n0,2.0,0.5\n1,1.5,0.75\n2,3.0,0.25\n")
    (place.path / "findings.jsonl").write_text(json.dumps(FINDING.record()) + "\n")
    for name in (
        "checkpoints/best.ckpt",
        "checkpoints/step-0000003.ckpt",
        "export/best-onnx/model.onnx",
        "config.yaml",
    ):
        (place.path / name).parent.mkdir(parents=True, exist_ok=True)
        (place.path / name).write_text(name)
    return place


def test_a_run_is_described_whole(folder: RunFolder) -> None:
    notes = "Batch of 64."
    loggers = build_loggers(settings(notes=notes, tags=["mine"], artifacts=True), folder.path, lambda: ABOUT)
    describe_run(loggers, folder.path, {"samples": lambda steps: 64.0 * steps})
    log_rows(loggers[0], ["train/loss", "val/acc", "lr/all"], [[0, 2.0, 0.5, 0.1], [1, 1.5, 0.75, 0.1]])
    log_rows(loggers[0], ["train/loss", "val/acc", "lr/all"], [[2, 3.0, 0.25, 0.1]])
    close_loggers(loggers, Outcome.from_error(DivergedError("the loss is inf"), steps=3, planned=9, seconds=1.234))
    found = Logged(folder.path)
    run = found.run
    assert (run.run_id, run.display_name, run.run_group) == (folder.run_id, ABOUT.name, "monday")
    assert (run.job_type, run.notes, run.project) == ("train", notes, "p")
    assert {*run.tags} == {"recipe=mine", "optimizer=sgd", "task=train", "mine"}
    assert found.config["options"] == {**ABOUT.options}
    assert found.config["optimizer"] == ABOUT.config["optimizer"]
    axes = {one.name or one.glob_name: one for one in found.of["metric"]}
    assert (axes["*"].step_metric, axes["samples"].options.hidden) == ("step", True)
    best = {name: (axes[name].summary.min, axes[name].summary.max, axes[name].summary.last) for name in axes}
    assert best["train/loss"] == (True, False, True)
    assert best["val/acc"] == (False, True, True)
    assert "lr/all" not in axes
    rows = [{"/".join(item.nested_key): item.value_json for item in row.item} for row in found.of["history"]]
    assert [(row["step"], row["samples"]) for row in rows] == [("0", "64"), ("1", "128"), ("2", "192")]
    assert {name: media.get("nrows") for name, media in found.media.items()} == {
        "plan/picture": None,
        "plan/table": 201,  # every fifth row, and the last
        "find/picture": None,
        "find/table": 2,
        "sharpness/picture": None,
        "findings/table": 1,
    }
    expected = {
        "status": "diverged", "reason": "the loss is inf", "error": "the loss is inf", "best/val/acc": 0.75,
        "best/step": 1, "find/lr": 0.2, "find/low": 0.1, "find/high": 0.4, "findings": [FINDING.line],
        "findings/kinds": "too_high", "steps": 3, "planned_steps": 9, "seconds": 1.23,
    }  # fmt: skip
    assert {name: found.summary[name] for name in expected} == expected
    assert found.artifacts == {
        "model": ["best.ckpt", "config.yaml", "step-0000003.ckpt"],
        "export": ["model.onnx"],
    }
    (model,) = (one for one in found.of["artifact"] if one.type == "model")
    assert {*model.aliases} == {"best", "latest", "diverged"}
    for artifact in found.of["artifact"]:  # from where `wandb sync` uploads them
        assert all(Path(file.local_path).is_relative_to(folder.path) for file in artifact.manifest.contents)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.from_error(PrunedError("behind")), 0),
        (Outcome.from_error(StoppedError("as asked", 143)), 143),
        (Outcome.from_error(ValueError("oh")), 1),
    ],
    ids=["pruned", "stopped", "failed"],
)
def test_a_run_ends_as_it_ended(outcome: Outcome, code: int, tmp_path: Path) -> None:
    loggers = build_loggers(settings(), tmp_path, lambda: ABOUT)
    close_loggers(loggers, outcome)
    found = Logged(tmp_path)
    assert [one.exit_code for one in found.of["exit"]] == [code]
    assert (found.summary["status"], found.summary["reason"]) == (outcome.status, outcome.reason)


def test_what_cannot_be_read_ends_no_run(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    (folder.path / "plan.png").write_text("no picture")
    (folder.path / "plan.csv").write_bytes(b"step,all\n0,\xff\n")
    loggers = build_loggers(settings(), folder.path, lambda: ABOUT)
    describe_run(loggers, folder.path)
    log_rows(loggers[0], ["train/loss"], [[0, 2.0]])
    close_loggers(loggers, Outcome.finished())
    assert "logger.wandb: cannot log plan: 'utf-8' codec" in caplog.text
    found = Logged(folder.path)
    assert found.summary["status"] == "finished"
    assert "plan/picture" not in found.media
    assert "find/picture" in found.media


def test_under_an_agent_the_run_has_the_id_of_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()  # it has read the environment
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agent-run")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    loggers = build_loggers(settings(), tmp_path, lambda: ABOUT)
    describe_run(loggers, tmp_path)
    log_rows(loggers[0], ["train/loss", "val/acc"], [[0, 2.0, 0.5]])
    close_loggers(loggers, Outcome.finished())
    found = Logged(tmp_path)
    assert (found.run.run_id, found.run.project) == ("agent-run", "theirs")
    assert RunFolder(tmp_path).run_id == "agent-run"
    named = {one.name for one in found.of["metric"]}
    assert "train/loss" in named
    assert "val/acc" not in named, "the sweep reads it from the summary as a number"
    assert found.summary["val/acc"] == 0.5
    wandb.teardown()


def test_a_value_that_wandb_refuses_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"logger\.wandb\.settings\.console"):
        build_loggers(settings(settings={"console": "loud"}), tmp_path, lambda: ABOUT)
