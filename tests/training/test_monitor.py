"""The interface of monitors: what they receive, preventing a save, their saved state, and their config nodes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from lrflow.config import compose, validate
from lrflow.config.packages import trust_packages
from lrflow.errors import ConfigError, LrflowError
from lrflow.health import Monitor, NonFinite, Sharpness
from lrflow.runs import RunFolder
from lrflow.tasks import train
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.vectorized.eligibility import ineligible_because

SMALL = ["model=logistic", "optimizer=sgd", "trainer.max_epochs=2", "task.test=false", "logger=none"]

MINE = '''
from lrflow.errors import DivergedError
from lrflow.health import Monitor

SEEN = {}

class Mine(Monitor):
    """Sums the losses of a run, and ends it at a step."""

    def __init__(self, ends: int | None = None, share: float = 1.0) -> None:
        self.ends, self.share = ends, share
        self.steps, self.total, self.saves = [], 0.0, []

    def on_fit_start(self, trainer, pl_module):
        SEEN[self.name] = self

    def describe(self):
        return f"{self.name} watches {self.run.plan.horizon.steps} steps with seed {self.run.seed}"

    def on_block(self, trainer, block):
        for step, loss in enumerate(block.loss.tolist(), block.first):
            self.steps.append(step)
            self.total += self.share * loss
            if step == self.ends:
                raise DivergedError(f"step {step}: enough")

    def before_save(self, trainer):
        assert self.steps[-1] == trainer.global_step - 1
        self.saves.append(trainer.global_step)

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state_dict):
        self.total = state_dict["total"]

class NoMonitor:
    pass
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's package from which the config may build monitors."""
    (tmp_path / "my_monitors.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_monitors", raising=False)
    trust_packages(["my_monitors"])
    return __import__("my_monitors")


def two(*more: str) -> list[str]:
    targets = ["health.mine._target_=my_monitors.Mine", "health.other._target_=my_monitors.Mine"]
    return [*SMALL, *targets, "health.other.share=0.5", *more]


def test_it_receives_every_step_once_in_order(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    done = train.run(compose(two()))
    steps = RunFolder(Path(done["folder"])).read_summary()["steps"]
    first, second = mine.SEEN["mine"], mine.SEEN["other"]
    assert first.steps == second.steps == list(range(steps))
    assert first.saves[-1] == steps
    assert second.total == pytest.approx(0.5 * first.total)
    assert f"other watches {steps} steps with seed 0" in " ".join(capsys.readouterr().out.split())
    saved = sorted((Path(done["folder"]) / "checkpoints").glob("step-*.ckpt"))[-1]
    states = read_checkpoint(saved)["callbacks"]
    assert states["health.mine"] == {"total": first.total}
    assert states["health.other"] == {"total": second.total}


def test_a_resumed_run_restores_the_state_exactly(mine: Any) -> None:
    whole = train.run(compose(two("output=whole")))
    total = mine.SEEN["mine"].total
    with pytest.raises(Exception, match="step 30: enough"):
        train.run(compose(two("output=cut", "health.mine.ends=30", "trainer.checkpoint.every=7 steps")))
    folder = next(Path("cut").glob("2*"))
    done = train.run(
        compose(two("output=cut", "trainer.checkpoint.every=7 steps", "health.mine.ends=null", f"resume.from={folder}"))
    )
    assert mine.SEEN["mine"].steps[0] == 28
    assert mine.SEEN["mine"].total == total
    assert done["val/loss"] == whole["val/loss"]


def test_the_example_of_the_documentation_trains_and_resumes(mine: Any, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "health.md").read_text()
    example = next(one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Spikes" in one)
    Path("my_spikes.py").write_text(example)
    trust_packages(["my_spikes"])
    options = [*SMALL, "health.spikes._target_=my_spikes.Spikes", "health.spikes.factor=1.05"]
    states = {}
    for output, epochs in (("whole", 2), ("cut", 1)):
        train.run(compose([*options, f"output={output}", f"trainer.max_epochs={epochs}"]))
    folder = next(Path("cut").glob("2*"))
    resumed = ["trainer.max_epochs=2", "resume.horizon=rescale", f"resume.from={folder}"]
    train.run(compose([*options, "output=cut", *resumed]))
    for output in ("whole", "cut"):
        saved = sorted(Path(output).glob("*/checkpoints/step-*.ckpt"))[-1]
        states[output] = read_checkpoint(saved)["callbacks"]["health.spikes"]
    assert states["cut"].keys() == {"lowest", "spikes"}
    assert states["whole"]["spikes"] > 0
    assert type(states["cut"]["lowest"]) is type(states["whole"]["lowest"])


def test_the_detector_of_the_documentation_finds_what_it_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "health.md").read_text()
    names: dict[str, Any] = {}
    exec(next(one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Clipping" in one), names)
    history = SimpleNamespace(recent={"grad_norm": np.full(150, 2.0)}, recent_steps=np.arange(150, 300), step=300)
    found = names["Clipping"](limit=1.0).judge(history)
    assert (found.step, found.since, found.evidence) == (300, 200, {"share": 1.0})
    assert names["Clipping"](limit=3.0).judge(history) is None


def test_an_unsavable_state_ends_the_run_at_its_first_save(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mine.Mine, "state_dict", lambda self: {"total": mine.NoMonitor()})
    with pytest.raises(LrflowError, match=r'checkpoint\["callbacks"\]\["health.mine"\]\["total"\]: .*NoMonitor'):
        train.run(compose([*SMALL, "health.mine._target_=my_monitors.Mine"]))
    summary = RunFolder(next(Path("outputs").glob("2*"))).read_summary()
    assert (summary["status"], summary["steps"]) == ("failed", 20)
    assert not list(Path("outputs").glob("*/checkpoints/*"))


def test_an_error_of_a_monitor_ends_the_run_with_its_message(mine: Any) -> None:
    with pytest.raises(Exception, match="step 3: enough"):
        train.run(compose(two("health.mine.ends=3")))
    summary = RunFolder(next(Path("outputs").glob("2*"))).read_summary()
    assert summary["status"] == "diverged"
    assert not list(Path("outputs").glob("*/checkpoints/*"))


def test_a_run_that_did_not_finish_records_its_last_metrics(mine: Any) -> None:
    finished = train.run(compose([*SMALL, "output=whole"]))
    with pytest.raises(Exception, match="step 30: enough"):
        train.run(compose([*SMALL, "health.mine._target_=my_monitors.Mine", "health.mine.ends=30"]))
    summary = RunFolder(next(Path("outputs").glob("2*"))).read_summary()
    assert summary["metrics"].keys() == finished.keys() - {"folder"}
    (saved,) = Path("outputs").glob("2*/checkpoints/best.ckpt")
    (best,) = (state["best"] for state in read_checkpoint(saved)["callbacks"].values() if "best" in state)
    assert summary["metrics"]["val/loss"] == pytest.approx(best)


@pytest.mark.parametrize(
    ("options", "key", "told"),
    [
        (["health.mine._target_=my_monitors.NoMonitor"], "health.mine._target_", "is no lrflow.health.Monitor"),
        (["health.mine._target_=my_monitors.Mine", "health.mine.shre=1"], "health.mine.shre", "health.mine.share?"),
        (
            ["health.mine._target_=pytorch_lightning.callbacks.LambdaCallback"],
            "health.mine._target_",
            "configure_callbacks",
        ),
        (["health.mine._target_=elsewhere.Mine"], "health.mine._target_", "trust=elsewhere"),
        (["health.mine._target_=lrflow.health.NonFinit"], "health.mine._target_", "did you mean NonFinite?"),
        (["health.mine.ends=3"], "health.mine._target_", "the dotted name of a lrflow.health.Monitor"),
        (["health.nonfinit=warn"], "health.nonfinit", "did you mean health.nonfinite?"),
        (["health.nonfinit.action=warn"], "health.nonfinit", "did you mean health.nonfinite?"),
        (["health.nonfinte=null"], "health.nonfinte", "did you mean health.nonfinite?"),
        (["health.nonfinite=stopp"], "health.nonfinite.action", "did you mean stop?"),
        (["health.nonfinite.acton=warn"], "health.nonfinite.acton", "did you mean health.nonfinite.action?"),
        (["health.sharpness.evry=3"], "health.sharpness.evry", "did you mean health.sharpness.every?"),
        (["health.sharpness.every=0"], "health.sharpness.every", "above 0"),
    ],
)
def test_mistakes_are_reported_before_the_first_step(mine: Any, options: list[str], key: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train.run(compose([*SMALL, *options]))
    assert key in [problem.key for problem in caught.value.problems]
    assert told in str(caught.value)
    assert not list(Path("outputs").glob("*/checkpoints"))


NONFINITE, SHARPNESS = "lrflow.health.NonFinite", "lrflow.health.Sharpness"


@pytest.mark.parametrize(
    ("options", "nonfinite", "every"),
    [
        ([], "stop", None),
        (["health.nonfinite=warn"], "warn", None),
        (["health.nonfinite.action=warn"], "warn", None),
        (["health=none"], None, None),
        (["health.nonfinite=null"], None, None),
        (["sharpness.every=20 steps"], "stop", "20 steps"),
        (["health.sharpness.every=20 steps"], "stop", "20 steps"),
        (["health=none", "sharpness.every=20 steps"], None, "20 steps"),
    ],
)
def test_spellings_of_lrflows_own_monitors(options: list[str], nonfinite: str | None, every: str | None) -> None:
    nodes = compose(options).monitors
    assert nodes.get("nonfinite", {}).get("action") == nonfinite
    found = nodes.get("sharpness", {}).get("every")
    assert (None if found is None else str(found)) == every
    assert all(node["_target_"].startswith("lrflow.health.") for node in nodes.values())


def test_a_config_that_was_saved_before_monitors_had_nodes() -> None:
    saved = OmegaConf.create(OmegaConf.to_container(compose([]).source))
    saved.health = {"nonfinite": "warn"}
    saved.sharpness = {"every": "20 steps", "batches": 2, "products": 20}
    nodes = validate(saved, {}, ()).monitors
    assert nodes["nonfinite"] == {"_target_": NONFINITE, "action": "warn"}
    assert str(nodes["sharpness"].pop("every")) == "20 steps"
    assert nodes["sharpness"] == {"_target_": SHARPNESS, "batches": 2, "products": 20}


def test_an_inactive_monitor_is_left_out() -> None:
    assert [NonFinite("ignore").active, NonFinite("warn").active] == [False, True]
    assert [Sharpness().active, Sharpness("5%").active, Monitor().active] == [False, True, True]


def test_a_population_rejects_monitors(mine: Any) -> None:
    assert ineligible_because(compose(SMALL[:-1])) is None
    assert ineligible_because(compose(two())) == "health.mine, health.other may read each step when it is made"


def test_state_keys_outside_a_configured_run_are_lightnings() -> None:
    assert Monitor().state_key == "Monitor"
