"""Manual optimization: several optimizers under the plan, each in its own steps, resumed exactly."""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lrflow.config import compose
from lrflow.errors import ConfigError, LrflowError
from lrflow.tasks import plan, train

LR, STEPS = 0.02, 21
SOURCE = Path(__file__)
ROUTES = [
    "optimizer=adam",
    f"optimizer.lr={LR}",
    "optimizer.every=2",
    "+optimizer.routes.judge={_target_: torch.optim.SGD, lr: 0.1, momentum: 0.9}",
    "layers={rules: [{name: judge, match: 'judge.*', route: judge, lr: 2x, schedule: "
    "{_target_: lrflow.schedules.Schedule, shape: {_target_: lrflow.schedules.Constant}, warmup: 5}}, "
    "{name: artist, match: '*'}]}",
    "schedule=linear",
    "schedule.warmup=3",
]


class Duel(pl.LightningModule):
    """A GAN on digits; it remembers what its training steps used."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.artist = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 64))
        self.judge = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))
        self.used: list[tuple[Tensor, Tensor]] = []
        self.before: Any = None

    def on_train_start(self) -> None:
        self.before = {name: one.clone() for name, one in self.state_dict().items()}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        artist, judge = self.optimizers()  # type: ignore[misc, union-attr]
        real, noise = batch[0].flatten(1), torch.randn(len(batch[0]), 3)
        self.used.append((real, noise))
        made = self.artist(noise)
        loss = softplus(-self.judge(real)).mean() + softplus(self.judge(made.detach())).mean()
        judge.zero_grad()
        self.manual_backward(loss)
        judge.step()
        if artist.is_due:
            self.toggle_optimizer(artist)
            artist.zero_grad()
            self.manual_backward(softplus(-self.judge(made)).mean())
            artist.step()
            self.untoggle_optimizer(artist)
        return self.result(loss)

    def result(self, loss: Tensor) -> Any:
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", softplus(self.judge(batch[0])).mean())


class ReturnsNothing(Duel):
    def result(self, loss: Tensor) -> Any:
        return None


class Always(Duel):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()


class Once(Duel):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers()[1].step()  # type: ignore[index]


class Twice(Once):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        super().training_step(batch, batch_idx)


class Schedules(Duel):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.lr_schedulers()


class Turns(Duel):
    def on_fit_start(self) -> None:
        self.automatic_optimization = True


class Alone(pl.LightningModule):
    """Accumulates gradients: a step of its one optimizer at every third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.head = nn.Linear(64, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = nn.functional.cross_entropy(self.head(batch[0].flatten(1)), batch[1])
        self.manual_backward(loss / 3)
        if optimizer.is_due:
            optimizer.step()
            optimizer.zero_grad()
        return loss


class Automatic(pl.LightningModule):
    """One loss, whose parts have optimizers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.artist, self.judge = nn.Linear(64, 8), nn.Linear(8, 10)
        self.used: list[Any] = []
        self.before: Any = None

    def on_train_start(self) -> None:
        self.before = {name: one.clone() for name, one in self.state_dict().items()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.used.append(batch)
        return nn.functional.cross_entropy(self.judge(self.artist(batch[0].flatten(1)).relu()), batch[1])


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    module = ModuleType("duels")
    for one in (Duel, ReturnsNothing, Always, Once, Twice, Schedules, Turns, Alone, Automatic):
        monkeypatch.setattr(one, "__module__", "duels")
        setattr(module, one.__name__, one)
    monkeypatch.setitem(sys.modules, "duels", module)
    monkeypatch.setenv("LRFLOW_TRUST", "duels")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every module that is built."""
    found: list[Any] = []
    build = pl.LightningModule.__init__
    monkeypatch.setattr(pl.LightningModule, "__init__", lambda self: (build(self), found.append(self))[0])
    return found


def words(folder: Path | str, *more: str, kind: str = "Duel") -> list[str]:
    given = ["model=custom", f"model._target_=duels.{kind}", "trainer=cpu", f"trainer.max_steps={STEPS}"]
    given += ["data.batch_size=64", "trainer.progress=false", f"output={folder}", "trainer.val_every=50%", *more]
    given += [] if any(word.startswith("task=") for word in more) else ["task.test=false"]
    return list({word.partition("=")[0].lstrip("+"): word for word in given}.values())


def run(folder: Path, *more: str, kind: str = "Duel") -> Path:
    return Path(train.run(compose(words(folder, *more, kind=kind)))["folder"])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["train/step_time"]]


def last(folder: Path) -> dict[str, Any]:
    return torch.load(max(folder.glob("checkpoints/step-*.ckpt")), weights_only=True)


def planned() -> tuple[list[float], list[float]]:
    """The LRs of the steps of artist and judge, each counted from 0: 10 steps with a warmup of 3, 21 with one of 5."""
    artist = [LR * (step + 1) / 4 if step < 3 else LR * (10 - step) / 7 for step in range(10)]
    return artist, [0.2 * min((step + 1) / 6, 1) for step in range(STEPS)]


def test_it_trains_as_a_loop_of_torch_with_both_lrs_of_the_plan(tmp_path: Path, made: list[Any]) -> None:
    folder = run(tmp_path, *ROUTES)
    (module,), found = made, rows(folder)
    artist_lrs, judge_lrs = planned()
    assert [float(row["lr/judge"]) for row in found] == pytest.approx(judge_lrs)
    assert [float(row["lr/artist"]) for row in found][:20] == pytest.approx(
        [artist_lrs[step // 2] for step in range(20)]
    )
    assert all(row[f"lr/{name}"] == row[f"lr_planned/{name}"] for row in found for name in ("artist", "judge"))

    other = Duel()
    other.load_state_dict(module.before)
    artist = torch.optim.Adam(other.artist.parameters(), fused=True)
    judge = torch.optim.SGD(other.judge.parameters(), momentum=0.9)
    for step, ((real, noise), row) in enumerate(zip(module.used, found, strict=True)):
        for optimizer, name in ((artist, "artist"), (judge, "judge")):
            optimizer.param_groups[0]["lr"] = float(row[f"lr/{name}"])
        made_up = other.artist(noise)
        judge.zero_grad()
        loss = softplus(-other.judge(real)).mean() + softplus(other.judge(made_up.detach())).mean()
        loss.backward()
        norms = [one.grad.norm() for one in other.judge.parameters() if one.grad is not None]
        judge.step()
        if step % 2 == 1:
            artist.zero_grad()
            softplus(-other.judge(made_up)).mean().backward()
            norms += [one.grad.norm() for one in other.artist.parameters() if one.grad is not None]
            artist.step()
        assert float(row["train/loss"]) == pytest.approx(loss.item(), rel=1e-6)
        assert float(row["train/grad_norm"]) == pytest.approx(float(torch.stack(norms).norm()), rel=1e-5)
    assert same(last(folder)["state_dict"], other.state_dict())


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return all(map(same, one, other)) if isinstance(one, list | tuple) else bool(one == other)


def test_a_loss_is_not_needed_and_an_average_takes_each_step_of_the_run(tmp_path: Path) -> None:
    folder = run(tmp_path, *ROUTES, "average=ema", "trainer.batch_norm_batches=0", kind="ReturnsNothing")
    assert {row["train/loss"] for row in rows(folder)} == {""}
    assert last(folder)["global_step"] == STEPS


def test_a_single_optimizer_accumulates_over_its_every(tmp_path: Path) -> None:
    folder = run(tmp_path, "optimizer=sgd", "optimizer.every=3", "schedule=linear", "schedule.warmup=0", kind="Alone")
    found = rows(folder)
    assert [float(row["lr/no_decay"]) for row in found] == pytest.approx(
        [0.1 * (7 - step // 3) / 7 for step in range(21)]
    )
    assert [float(row["train/grad_norm"]) > 0 for row in found] == [step % 3 == 2 for step in range(21)]


def test_an_automatic_module_steps_a_route_at_every_other_step(tmp_path: Path, made: list[Any]) -> None:
    folder = run(tmp_path, *ROUTES[:3], "optimizer.every=1", ROUTES[3].replace("momentum", "every: 2, momentum"),
                 "layers={rules: [{name: judge, match: 'judge.*', route: judge}, {name: artist, match: '*'}]}",
                 "schedule=constant", kind="Automatic")  # fmt: skip
    (module,) = made
    other = Automatic()
    other.load_state_dict(module.before)
    artist = torch.optim.Adam(other.artist.parameters(), lr=LR, fused=True)
    judge = torch.optim.SGD(other.judge.parameters(), lr=0.1, momentum=0.9)
    for step, batch in enumerate(module.used[:STEPS]):
        other.zero_grad()
        other.training_step(batch, step).backward()
        artist.step()
        if step % 2 == 1:
            judge.step()
    assert same(last(folder)["state_dict"], other.state_dict())


def test_it_is_killed_and_goes_on_exactly(python: Callable[..., Any], tmp_path: Path) -> None:
    source = SOURCE.read_text()
    cut = source.index("class Duel"), source.index("class ReturnsNothing")
    imports = (
        "from __future__ import annotations\nfrom typing import Any\nimport pytorch_lightning as pl\nimport torch\n"
    )
    imports += "from torch import Tensor, nn\nfrom torch.nn.functional import softplus\n"
    (tmp_path / "duels.py").write_text(imports + source[slice(*cut)])
    # An odd number of steps between checkpoints: the run goes on between two steps of the artist.
    options = [*ROUTES, "trainer.checkpoint.every=3 steps", "trainer.checkpoint.keep=null", "trainer.max_steps=120"]

    def start(output: str, *more: str) -> Any:
        return python("-m", "lrflow", *words(output, *options, *more), cwd=tmp_path, LRFLOW_TRUST="duels")

    whole = start("whole")
    assert whole.wait() == 0, whole.communicate()
    saved = "killed/*/checkpoints/step-0000009.ckpt"
    assert start("killed").interrupt(signal.SIGKILL, lambda: list(tmp_path.glob(saved))) == -signal.SIGKILL
    (cut_folder,) = (tmp_path / "killed").iterdir()
    assert len(rows(cut_folder)) < 120
    assert start("killed", "resume=last").wait() == 0
    (expected,), (again,) = (tmp_path / "whole").iterdir(), (tmp_path / "killed").iterdir()
    left, right = last(again), last(expected)
    assert left["global_step"] == right["global_step"] == 120
    assert all(same(left[part], right[part]) for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"))
    assert [row["train/loss"] for row in rows(again)] == [row["train/loss"] for row in rows(expected)]


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (
            "Always",
            [],
            r"step 0: Always\.training_step stepped optimizer, which has a step at every 2 steps of the run",
        ),
        ("Once", [], r"step 1: Once\.training_step did not step optimizer, and the plan has a step of it here"),
        ("Twice", [], r"step 0: Twice\.training_step stepped optimizer\.routes\.judge twice"),
        ("Schedules", [], r"lrflow steps the schedules of the plan: leave out self\.lr_schedulers\(\)"),
        ("Turns", [], r"step 0: Turns has switched to another optimization \(automatic_optimization = True\)"),
        ("Duel", ["~optimizer.routes.judge", "layers=uniform"], r"takes several optimizers .*, and the run has one"),
    ],
)
def test_a_module_that_does_not_make_the_steps_of_the_plan_ends(
    kind: str, more: list[str], message: str, tmp_path: Path
) -> None:
    routes = [word for word in ROUTES if not more or "judge" not in word]
    with pytest.raises(LrflowError, match=message):
        run(tmp_path, *routes, *more[1:], kind=kind)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["optimizer.every=0"], r"optimizer\.every = 0"),
        (["optimizer.every=half"], r"optimizer\.every = 'half'"),
        (["+optimizer.routes.judge.every=-1"], r"optimizer\.routes\.judge\.every = -1"),
        (["optimizer.every=22"], r"optimizer\.every = 22: is more than the 21 steps of the run"),
        (
            ["+optimizer.routes.judge.evry=2"],
            r"optimizer\.routes\.judge\.evry = 2.*did you mean .*judge\.every",
        ),
        (["schedule.warmup=10"], r"warmup.*is 10 steps.*10 \(counted in the optimizer's own steps, one at every 2"),
        (["layers={rules: [{name: all, match: '*', route: juge}]}"], r"there is no such route.*did you mean judge"),
        (
            ["trainer.gradient_clip_val=1"],
            r"trainer\.gradient_clip_val.*Duel uses manual optimization.*clips gradients itself",
        ),
        (["trainer.accumulate_grad_batches=2"], r"accumulate_grad_batches.*adds up gradients itself"),
        (["feedback=hypergradient"], r"feedback.*needs one gradient per step"),
        (["sharpness.every=5"], r"sharpness"),
        (["task=find"], r"Duel uses manual optimization"),
        (["average=ema"], r"trainer\.batch_norm_batches.*cannot estimate the statistics of BatchNorm"),
        (["optimizer.routes.judge._target_=torch.optim.LBFGS"], r"LBFGS"),
    ],
)
def test_what_does_not_work_is_refused_before_the_run(more: list[str], message: str, tmp_path: Path) -> None:
    task = plan if "task=find" in more else train
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        task.run(compose(words(tmp_path, *ROUTES, *more)))


def test_other_optimizers_are_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimizer = 'module'.*Duel uses manual optimization.*cannot be planned"):
        run(tmp_path, "optimizer=module")
    with pytest.raises(ConfigError, match=r"optimizer\.every = 2.*no optimizer steps at every step of the run"):
        run(tmp_path, "optimizer=sgd", "optimizer.every=2", kind="Automatic")
