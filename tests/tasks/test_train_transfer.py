"""scaling=transfer: LR, weight decay and beta2 of a tuned run, for another schedule, length and batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lrflow.cli import main
from lrflow.config import compose, load_config
from lrflow.config.restart import fingerprint
from lrflow.config.saved import config_text
from lrflow.errors import ConfigError
from lrflow.sweeps.folders import read_sweep
from lrflow.tasks import plan

SMALL = ("model=logistic", "trainer.progress=false", "report=false", "schedule.warmup=0")
TUNED = ("data.batch_size=256", "trainer.max_epochs=2")
LARGER = ("data.batch_size=128", "trainer.max_epochs=4")  # half the batch, twice the samples


def lrflow(*words: str) -> None:
    assert not main([*SMALL, *words])


def folder(name: str) -> Path:
    (found,) = Path("outputs").glob(f"*_{name}")
    return found


def planned(name: str, *words: str) -> tuple[float, float, Any]:
    """The peak LR and the weight decay of the plan, and the rest of plan.json."""
    lrflow("task=plan", f"name={name}", *words)
    plan = json.loads((folder(f"plan-{name}") / "plan.json").read_text())
    (group,) = (group for group in plan["groups"] if group["name"] == "decay")
    return group["lr"], group["weight_decay"], plan


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lrflow("name=tuned", "optimizer.lr=0.004", "optimizer.weight_decay=0.1", *TUNED)
    return folder("tuned")


def test_each_factor_is_applied_printed_and_saved(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("scaling=transfer", f"scaling.from={tuned}", *LARGER)
    steps = json.loads((tuned / "plan.json").read_text())["horizon"]["steps"]
    lr, decay, plan = planned("all", *words)
    batch, samples = 0.5, plan["horizon"]["steps"] * 128 / (steps * 256)
    shape = plan["transfer"]["factors"]["optimizer"][0]["value"]  # a cosine of 40 steps is not quite one of 10
    assert 1 < shape < 1.3
    assert lr == pytest.approx(0.004 * shape * samples**-0.32 * batch**0.5, rel=1e-5)
    assert decay == pytest.approx(0.1 * batch / (lr / 0.004 * samples), rel=1e-4)
    assert plan["timescale"]["optimizer"] / plan["horizon"]["steps"] == pytest.approx(
        1 / (0.004 * 0.1) / steps, rel=1e-5
    )
    said = capsys.readouterr().out
    timescale = round(1 / (lr * decay))
    assert f"1 / (optimizer.lr x weight decay) = {timescale:,} steps, " in said
    for source in ("2310.07831", "2409.19913", "2205.10287", "2405.13698", "2507.07101"):
        assert f"arXiv {source}" in said

    off = ("schedule", "horizon", "batch", "weight_decay", "betas")
    one = {part: planned(part, *words, f"scaling.without=[{','.join(set(off) - {part})}]") for part in off}
    assert one["horizon"][0] == pytest.approx(0.004 * samples**-0.32, rel=1e-5)
    assert one["batch"][0] == pytest.approx(0.004 * batch**0.5, rel=1e-5)
    assert one["weight_decay"][:2] == pytest.approx((0.004, 0.1 * batch / samples), rel=1e-5)
    assert one["betas"][:2] == (0.004, 0.1)
    assert planned("typed", *words, "optimizer.lr=0.04")[0] == pytest.approx(10 * lr)
    assert planned("sharper", *words, "scaling.exponent=0")[0] == pytest.approx(lr * samples**0.32, rel=1e-4)

    lrflow("name=new", *words)
    new = folder("new")
    config = load_config(new / "config.yaml")
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (lr, decay)
    assert list(config.optimizer.betas) == [0.9, pytest.approx(0.999**batch)]
    assert config.scaling.found["from"] == str(tuned)
    assert fingerprint((new / "config.yaml").read_text()) == fingerprint(
        config_text(compose([*SMALL, "name=new", *words]))
    )
    shutil.rmtree(tuned)  # the run needs it no more
    lrflow(f"resume={new}", "trainer.max_epochs=5", "resume.horizon=rescale")
    assert load_config(new / "config.yaml").optimizer.lr == lr


def test_sgd_scales_linearly_and_has_no_timescale(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lrflow("name=sgd", "optimizer=sgd", "optimizer.lr=0.1", *TUNED)
    only = "scaling.without=[schedule,horizon]"
    lr, decay, plan = planned(
        "larger", "optimizer=sgd", "scaling=transfer", f"scaling.from={folder('sgd')}", only, *LARGER
    )
    assert lr == pytest.approx(0.05)
    assert decay == load_config(folder("sgd") / "config.yaml").optimizer.weight_decay
    assert "timescale" not in plan
    assert "linear for SGD" in capsys.readouterr().out


def test_several_optimizers_and_the_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    narrow = ("model=mlp", "model.widths=[8,8]", "optimizer=muon", "layers=mup", "layers.base.widths=[8,8]", *TUNED)
    lrflow("name=narrow", *narrow, "optimizer.routes.muon.lr=0.04")
    wide = ("model=mlp", "model.widths=[32,32]", "optimizer=muon", "layers=mup", "scaling=transfer", *LARGER)
    words = (*wide, f"scaling.from={folder('narrow')}", "scaling.without=schedule")
    lrflow("name=wide", *words)
    said = capsys.readouterr().out
    assert said.count("width 1: layers=mup scales each group from its base, widths [8, 8] (arXiv 2203.03466)") == 2
    assert "batch: not scaled, since no rule is known for Muon" in said
    config = load_config(folder("wide") / "config.yaml")
    samples = 40 * 128 / (10 * 256)
    assert config.optimizer.lr == pytest.approx(0.003 * 0.5**0.5 * samples**-0.32, rel=1e-5)
    assert config.optimizer.routes.muon.lr == pytest.approx(0.04 * samples**-0.32, rel=1e-5)
    assert config.layers.base == {"widths": [8, 8]}
    with pytest.raises(ConfigError, match=r"holds for model.widths=\[8,8\], by its layers=mup"):
        compose([*SMALL, *words, "layers=muon"])
    with pytest.raises(ConfigError, match=r"holds for model.widths=\[8,8\]"):
        compose([*SMALL, *words, "layers.base.widths=[4,4]"])
    compose([*SMALL, *words, "model.widths=[8,8]", "layers=muon"])  # the base itself


def test_a_run_without_mup_is_the_base_of_one_with_it(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lrflow("name=plain", "model=mlp", "model.widths=[8]", *TUNED)
    config = compose([*SMALL, "model=mlp", "model.widths=[16]", "layers=mup", "scaling=transfer",
                      f"scaling.from={folder('plain')}"])  # fmt: skip
    assert config.layers.plain()["base"] == {"widths": [8]}


def test_another_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("To be, or not to be, that is the question. " * 200)
    text = ("data=text", "data.file=text.txt", "data.tokenizer=characters", "data.length=8", "model.width=8",
            "trainer.max_epochs=1", "trainer.limit_train_batches=4", "optimizer.eps=1e-6")  # fmt: skip
    lrflow("name=shallow", "model=transformer", *text, "model.depth=1")
    capsys.readouterr()
    deep = ("model=transformer", *text, "model.depth=4", "layers=mup", "scaling=transfer",
            f"scaling.from={folder('shallow')}")  # fmt: skip
    assert main([*SMALL, "task=plan", *deep])
    said = " ".join(capsys.readouterr().err.split())
    assert "model.residual_multiplier = 1.0 expected 0.25, since blocks has 4 blocks, 1 in the base" in said
    lrflow("name=deep", *deep, "model.residual_multiplier=0.25")
    said = capsys.readouterr().out
    assert "depth 1: 4x the blocks, whose branches are multiplied by 0.25 (CompleteP, arXiv 2505.01618)" in said
    assert "depth: blocks 4 over 1; branches x 0.25, inside them eps x 0.25" in said
    assert "had another model" not in said
    config = load_config(folder("deep") / "config.yaml")
    assert (config.optimizer.lr, config.layers.base) == (0.003, {"depth": 1})
    groups = json.loads((folder("deep") / "plan.json").read_text())["groups"]
    assert {group.get("settings", {}).get("eps", 1e-6) for group in groups} == {1e-6, 2.5e-7}
    lrflow("name=deeper", *deep, "model.depth=8", "model.residual_multiplier=0.125", f"scaling.from={folder('deep')}")
    assert "depth 1: 2x the blocks" in capsys.readouterr().out  # and layers.base is that of the run, of one block
    with pytest.raises(ConfigError, match="no width, by which hidden matrices are known"):
        plan.run(compose([*SMALL, "task=plan", *deep[:-2], "optimizer=muon", "layers.base={depth: 1}",
                          "model.residual_multiplier=0.25"]))  # fmt: skip


def test_jobs_of_a_population_that_take_the_lr_of_a_run_train_alone(
    tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lrflow("-m", "hydra/launcher=vectorized", f"optimizer.lr=from:{tuned}", "seed=1,2", *TUNED)
    assert "jobs 0 to 1 run one after the other: the LR is taken from another run" in capsys.readouterr().out
    saved = [load_config(path) for path in Path("outputs").glob("sweeps/*/*/config.yaml")]
    assert [config.optimizer.lr for config in saved] == [0.004, 0.004]


def test_the_lr_of_a_run_counts_in_a_sweep_over_lrs(tuned: Path) -> None:
    lrflow("-m", f"optimizer.lr=from:{tuned},0.002", *TUNED)
    (folder,) = Path("outputs").glob("sweeps/*")
    sweep = read_sweep(folder)
    assert (sweep.lr_key, [trial.rate(sweep.lr_key) for trial in sweep.trials]) == ("optimizer.lr", [0.004, 0.002])


def test_what_does_not_fit_is_refused(tuned: Path) -> None:
    transfer = ["scaling=transfer", f"scaling.from={tuned}"]
    cases: list[tuple[list[str], str, str]] = [
        (["scaling=transfer", "scaling.from=nothing"], "scaling.from", "there is none of this name"),
        ([*transfer, "optimizer=sgd"], "optimizer._target_", "trained with torch.optim.AdamW"),
        ([*transfer, f"optimizer.lr=from:{tuned}"], "optimizer.lr", "takes the LR of a run already"),
        ([*transfer, "scaling.without=[width]"], "scaling.without", "expected one of schedule, horizon"),
        ([*transfer, "scaling.reference=3"], "scaling.reference", "has no effect with scaling=transfer"),
        ([*transfer, "task=find"], "scaling.from", "task=find does not take"),
    ]
    wrong: list[Any] = []
    for words, key, message in cases:
        try:
            compose([*SMALL, *words])
        except ConfigError as error:
            if not any(problem.key == key and message in problem.message for problem in error.problems):
                wrong.append((words, [str(problem) for problem in error.problems]))
        else:
            wrong.append((words, "accepted"))
    assert not wrong
