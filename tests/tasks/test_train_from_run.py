"""optimizer.lr=from:RUN: another run's LR, adapted to the schedule, as a number in the config."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lrflow.cli import main
from lrflow.config import compose, load_config
from lrflow.config.restart import fingerprint, fingerprint_of
from lrflow.config.saved import config_text
from lrflow.errors import ConfigError
from lrflow.schedules import Constant, Cosine, Horizon, Schedule
from lrflow.schedules.bound import best_lr_ratio

SMALL = ("model=logistic", "data.batch_size=256", "trainer.progress=false", "report=false", "trainer.max_epochs=2")
WSD = ("schedule=wsd", "schedule.warmup=0", "schedule.cooldown_shape=linear")


def lrflow(*words: str) -> None:
    assert not main([*SMALL, *words])


def folder(name: str) -> Path:
    (found,) = Path("outputs").glob(f"*_{name}")
    return found


def rates(run: Path) -> list[str]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row["lr/decay"] for row in csv.DictReader(file) if row["lr/decay"]]


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lrflow("name=tuned", "schedule.warmup=0", "optimizer.lr=0.004")
    return folder("tuned")


def test_the_lr_is_scaled_for_the_schedule_saved_and_resumed(
    tuned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = json.loads((tuned / "plan.json").read_text())["horizon"]["steps"]
    words = (*WSD, f"optimizer.lr=from:{tuned}")
    capsys.readouterr()
    lrflow("task=plan", "name=plan", *words)
    before = Schedule(Cosine()), Horizon(steps)
    ratio = best_lr_ratio((Schedule(Constant(), cooldown="20%"), Horizon(steps)), before)
    assert ratio is not None
    lr = float(f"{0.004 * ratio.total:.6g}")
    line = f"optimizer.lr {lr:.3g} = 0.004 of {tuned} x {ratio.total:.3g}: the best LRs of the two schedules, by theory"
    assert line in capsys.readouterr().out
    assert json.loads((folder("plan-plan") / "plan.json").read_text())["groups"][0]["lr"] == lr

    lrflow("name=new", *words)
    new = folder("new")
    config = load_config(new / "config.yaml")
    assert config.optimizer.lr == lr
    assert config.scaling.found["from"] == str(tuned)
    assert config.scaling.found.lr == 0.004
    # The same job finds its run again (resume=auto) although the saved LR is a number.
    job = compose([*SMALL, "name=new", *words])
    assert fingerprint((new / "config.yaml").read_text()) == fingerprint(config_text(job))
    other = compose([*SMALL, "name=new", *words, "seed=1"])
    assert fingerprint((new / "config.yaml").read_text()) != fingerprint(config_text(other))

    used = rates(new)
    shutil.rmtree(tuned)  # the run needs it no more
    capsys.readouterr()
    lrflow(f"resume={new}", "trainer.max_epochs=3", "resume.horizon=rescale")
    assert "by theory (" not in capsys.readouterr().out
    assert rates(new)[: len(used)] == used
    assert load_config(new / "config.yaml").optimizer.lr == lr


def test_another_length_and_differences_are_told(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((tuned / "summary.json").read_text())
    (tuned / "summary.json").write_text(json.dumps(summary | {"status": "diverged"}))
    capsys.readouterr()
    changed = ("optimizer.weight_decay=0.2", "data.batch_size=128")
    lrflow("task=plan", *WSD, f"optimizer.lr=from:{tuned}", "trainer.max_epochs=8", *changed)
    said = capsys.readouterr().out
    assert "(schedule 0." in said
    assert "length 0.3" in said  # 8 times as many steps
    assert f"the LR of {tuned} was tuned with other settings: weight_decay=0.2 (there 0.05)" in said
    assert "had 256 examples per step, and this run has 128: the LR is not scaled" in said
    assert "did not finish: its status is diverged" in said


def test_the_lr_of_a_scaled_run_is_the_one_it_trained_with(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lrflow("name=scaled", "schedule.warmup=0", "optimizer.lr=0.004", "scaling=linear", "scaling.reference=128")
    capsys.readouterr()
    lrflow("task=plan", "schedule.warmup=0", f"optimizer.lr=from:{folder('scaled')}")
    assert f"optimizer.lr 0.008 = 0.008 of {folder('scaled')} x 1:" in capsys.readouterr().out


def test_runs_and_settings_that_do_not_fit_are_refused(tuned: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(tuned, broken)
    (broken / "plan.json").write_text('{"groups": []}')
    absolute = "layers.rules=[{name: all, match: '*', lr: 0.1}]"
    cases: list[tuple[list[str], str, str]] = [
        (["optimizer.lr=from:nothing"], "optimizer.lr", "there is none of this name"),
        ([f"optimizer.lr=from:{tmp_path / 'brokn'}"], "optimizer.lr", "did you mean"),
        (["optimizer.lr=from:"], "optimizer.lr", "there is none of this name"),
        ([f"optimizer.lr=from:{bare}"], "optimizer.lr", "it has no config.yaml"),
        ([f"optimizer.lr=from:{broken}"], "optimizer.lr", "cannot be read"),
        ([f"optimizer.lr=from:{tuned}", "optimizer=sgd"], "optimizer._target_", "trained with torch.optim.AdamW"),
        ([f"optimizer.lr=from:{tuned}", "optimizer=muon"], "optimizer.routes.muon", "had no optimizer of this route"),
        ([f"optimizer.lr=from:{tuned}", "task=find"], "optimizer.lr", "task=find does not take"),
        ([f"optimizer.lr=from:{tuned}", "find.check=true"], "find.check", "an LR that is a number"),
        ([f"optimizer.lr=from:{tuned}", "scaling=sqrt", "scaling.reference=8"], "scaling", "not scaled once more"),
        ([f"optimizer.lr=from:{tuned}", "layers=uniform", absolute], "layers.rules[0].lr", "multiple of the peak LR"),
    ]
    wrong: list[Any] = []
    for words, key, message in cases:
        order = sorted(words, key=lambda word: word.startswith("optimizer.lr"))  # an option first, then its values
        try:
            compose([*SMALL, *order])
        except ConfigError as error:
            if not any(problem.key == key and message in str(problem) for problem in error.problems):
                wrong.append((words, [str(problem) for problem in error.problems]))
        else:
            wrong.append((words, "accepted"))
    assert not wrong


def test_the_fingerprint_restores_what_was_given() -> None:
    found = {"from": "a", "given": {"optimizer.lr": "from:a", "optimizer.routes.muon.lr": 0.02}}
    saved = {"optimizer": {"lr": 1, "routes": {"muon": {"lr": 2}}}, "scaling": {"rule": "none", "found": found}}
    given = {"optimizer": {"lr": "from:a", "routes": {"muon": {"lr": 0.02}}}, "scaling": {"rule": "none"}}
    assert fingerprint_of(OmegaConf.to_container(OmegaConf.create(saved))) == fingerprint_of(given)
