"""Every option of conf/optimizer uses the plan's LR, trains digits, and resumes exactly."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrflow.assemble import make_optimizer
from lrflow.config import compose
from lrflow.config.composition.options import Catalogue
from lrflow.layers import Rule, resolve
from lrflow.tasks import train

OPTIONS = sorted(Catalogue().options("optimizer").keys() - {"module"})
ONE_LR = {
    "lbfgs": "trains all parameters as one vector",
    "dadapt_adam": "estimates one step size for all parameters",
    "prodigy": "estimates one step size for all parameters",
    "rprop": "takes the LR for its first step size and adapts that",
}
"""Options that do not scale a group's step by the group's LR."""
FOR_OTHER_MODELS = {"airbench": ["model=cnn"], "nanogpt": ["layers.head=head.*"]}
"""Options whose layer rules are written for a kind of model."""

pytestmark = pytest.mark.usefixtures("undrawn")


class Twins(nn.Module):
    """Two equal matrices, of which the second is trained with ten times the LR of the first."""

    def __init__(self) -> None:
        super().__init__()
        start = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.slow, self.fast = nn.Parameter(start.clone()), nn.Parameter(start.clone())

    def loss(self, step: int) -> torch.Tensor:
        inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        return sum((weight @ inputs).tanh().square().mean() for weight in (self.slow, self.fast))  # type: ignore[return-value]


def build(option: str, twins: Twins) -> torch.optim.Optimizer:
    config = compose([f"optimizer={option}"])
    rules = [Rule("slow", match="slow"), Rule("fast", match="fast", lr="10x")]
    groups = resolve(twins, rules, config.optimizer.lr, config.optimizer.node().get("weight_decay"))
    return make_optimizer(config, groups, torch.device("cpu"))


def step(twins: Twins, optimizer: torch.optim.Optimizer, number: int, lr: float) -> None:
    """One step; the LR of the second group is ten times as high."""
    for group, factor in zip(optimizer.param_groups, (1, 10), strict=True):
        group["lr"] = lr * factor
    torch.manual_seed(number)  # the same estimate of the Hessian for both
    optimizer.zero_grad()
    # A graph of the gradients costs the others nothing but time.
    twins.loss(number).backward(create_graph=True)
    optimizer.step()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in ONE_LR])
def test_each_step_uses_its_groups_lr(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step uses the LR written for it, not an earlier one."""
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.ones_like(like))
    monkeypatch.setattr(torch, "randint_like", lambda like, *_: torch.ones_like(like))
    twins = Twins()
    optimizer = build(option, twins)
    if hasattr(optimizer, "train"):
        optimizer.train()
    start = twins.slow.detach().clone()
    for number in range(4):  # some options move nothing at their first step; the moments of both grow alike
        step(twins, optimizer, number, lr=0.0)
    assert torch.equal(twins.slow, start)
    assert torch.equal(twins.fast, start)
    step(twins, optimizer, 4, lr=1e-7)
    slow, fast = twins.slow.detach() - start, twins.fast.detach() - start
    assert slow.abs().max() > 0
    torch.testing.assert_close(fast, 10 * slow, rtol=1e-4, atol=0.0)


def run(option: str, folder: Path, *overrides: str) -> dict[str, Any]:
    length = ("trainer.max_epochs=3", "trainer.val_every=30 steps", "trainer.progress=false")
    saves = ("trainer.checkpoint.every=50 steps", "trainer.checkpoint.keep=null")
    asked = [f"optimizer={option}", f"output={folder}", *length, *saves, *overrides]
    asked += FOR_OTHER_MODELS.get(option, [])
    return train.run(compose(asked))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Train with an option once."""
    return cache(lambda option: run(option, tmp_path_factory.mktemp(option)))


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS, scope="class")
class TestDigits:
    """The default model and data, with the options' own defaults, in 60 steps."""

    def test_it_trains(self, option: str, whole: Callable[[str], dict[str, Any]]) -> None:
        assert whole(option)["test/accuracy"] >= 0.80

    def test_interrupted_it_resumes_exactly(
        self, same: Any, option: str, whole: Callable[[str], dict[str, Any]], tmp_path: Path
    ) -> None:
        folder = Path(whole(option)["folder"])
        cut = folder / "checkpoints" / "step-0000050.ckpt"
        resumed = Path(run(option, tmp_path, f"resume={cut}", "task.test=false")["folder"])
        assert resumed != folder
        end, again = (load(place / "checkpoints" / "step-0000060.ckpt") for place in (folder, resumed))
        assert same(end["state_dict"], again["state_dict"])
        assert same(end["optimizer_states"], again["optimizer_states"])
        assert not same(end["state_dict"], load(cut)["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize("option", ["asgd", "adamw"])
def test_compiled_it_steps_as_it_does_otherwise(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The LR changes at every step."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    asked = ("schedule=linear", "schedule.warmup=3", "trainer.max_steps=5", "task.test=false")
    losses = []
    for compiled in ("false", "true"):
        torch._dynamo.reset()
        folder = run(option, tmp_path, *asked, f"trainer.compile={compiled}")["folder"]
        with (Path(folder) / "metrics.csv").open(newline="") as file:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert len(losses[0]) == 5
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)
