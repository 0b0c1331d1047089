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
