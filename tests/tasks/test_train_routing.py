"""Routing from the config to the trained model: the plan says it, training does it, a resumed run goes on with it."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrflow import assemble
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.optimizers import Muon, Routed
from lrflow.tasks import find, plan, train
from lrflow.training import Supervised

SHORT = ["optimizer=muon", "model.widths=[16,16]", "trainer=cpu", "trainer.max_steps=12", "trainer.progress=false"]
SHORT += ["data.batch_size=128", "trainer.checkpoint.every=4 steps", "trainer.checkpoint.keep=null", "task.test=false"]
OTHER = ["~optimizer.routes.muon", "layers.route=other"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Trains under the short options and these, the last of a key; gives what the task returns."""

    def go(*more: str, folder: Path = tmp_path) -> dict[str, Any]:
        options = {word.partition("=")[0]: word for word in (*SHORT, f"output={folder}", *more)}
        return train.run(compose(list(options.values())))

    return go


def last(result: dict[str, Any]) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return torch.load(max(Path(result["folder"]).glob("checkpoints/step-*.ckpt")), weights_only=True)


def test_the_plan_says_which_optimizer_a_group_goes_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan.run(compose(["task=plan", "optimizer=muon", f"output={tmp_path}"]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["group", "route", "tensors", "parameters", "LR", "scale", "peak", "LR", "weight", "decay"] in lines
    assert ["hidden", "muon", "2", "81,920", "1x", "0.02", "0"] in lines
    assert ["head", "1", "2,560", "1x", "0.003", "0.05"] in lines
    folder = Path(found["folder"])
    groups = json.loads((folder / "plan.json").read_text())["groups"]
    assert {group["name"]: group.get("route") for group in groups} == {"hidden": "muon", "head": None, "vectors": None}
    with (folder / "plan.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[20]["hidden"]) == pytest.approx(0.02)
    assert float(rows[20]["head"]) == pytest.approx(0.003)


def test_a_plan_without_routes_speaks_of_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan.run(compose(["task=plan", f"output={tmp_path}"]))
    (heading,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("group")]
    assert heading[:2] == ["group", "tensors"]
    assert '"route"' not in (Path(found["folder"]) / "plan.json").read_text()


def test_each_parameter_is_with_its_optimizer() -> None:
    config = compose(["optimizer=muon", "model=cnn", "optimizer.routes.muon.lr=0.05"])
    module = assemble.build_module(config)
    optimizer = assemble.make_optimizer(config, assemble.build_groups(config, module), torch.device("cpu"))
    assert isinstance(optimizer, Routed)
    assert [type(member) for member in optimizer.optimizers.values()] == [torch.optim.AdamW, Muon]
    (hidden,) = optimizer.optimizers["muon"].param_groups
    assert (hidden["lr"], hidden["ns_steps"], hidden["members"]) == (0.05, 5, ["hidden"])
    assert {parameter.ndim for parameter in hidden["params"]} == {4}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))


class GPT(nn.Module):
    """An embedding, one block of matrices and a norm, and an output layer that may be tied to the embedding."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.proj = nn.Linear(4, 7, bias=False)
        if tied:
            self.proj.weight = self.embed.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.embed(words)
        return self.proj(x + self.block(x))


@pytest.mark.parametrize("tied", [False, True])
def test_a_gpt_has_the_rates_of_the_record(tied: bool) -> None:
    config = compose(["optimizer=nanogpt", *(["layers.head=null"] if tied else [])])
    torch.manual_seed(0)
    model = GPT(tied)
    groups = assemble.build_groups(config, Supervised(model, "cross_entropy"))
    rates = {group.name: (group.route, pytest.approx(group.lr), group.weight_decay) for group in groups}
    assert rates.pop("head", None) == (None if tied else (None, 0.004, 0.001))
    assert rates == {
        "hidden": ("muon", 0.025, 0.05),
        "embedding": (None, 0.7, 0.001),
        "vectors": (None, 0.015, 0.001),
    }
    optimizer = assemble.make_optimizer(config, groups, torch.device("cpu"))
    words = torch.arange(7)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(words), words.roll(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_without_routes_it_is_the_optimizer_itself() -> None:
    config = compose([])
    groups = assemble.build_groups(config, assemble.build_module(config))
    assert type(assemble.make_optimizer(config, groups, torch.device("cpu"))) is torch.optim.AdamW


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["model=logistic"], "layers", "no hidden matrix"),
        (["layers.route=moun"], "layers.route", "did you mean muon?"),
        (["layers.head=hed.*"], "layers.head", "layers.head='head.*'"),
        (["layers=layer_decay"], "optimizer.routes.muon", "no rule in layers.rules"),
        (
            [*OTHER, "optimizer.routes.other={_target_: torch.optim.LBFGS, lr: 1.0}"],
            "optimizer.routes.other",
            "LBFGS evaluates the model several times per step",
        ),
    ],
)
def test_what_only_the_model_tells(overrides: list[str], key: str, words: str) -> None:
    config = compose(["optimizer=muon", *overrides])
    with pytest.raises(ConfigError) as caught:
        assemble.build_groups(config, assemble.build_module(config))
    assert words in {problem.key: str(problem) for problem in caught.value.problems}[key]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["trainer.gradient_clip_val=0.1", "trainer.accumulate_grad_batches=2"],
        ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1"],
        ["optimizer=airbench", "model=cnn", "model.widths=[8,8]"],
    ],
    ids=["plain", "clipped", "mixed", "airbench"],
)
def test_it_trains_and_goes_on_exactly(same: Any, run: Callable[..., Any], tmp_path: Path, options: list[str]) -> None:
    whole = run(*options)
    assert all(not torch.equal(value, torch.zeros_like(value)) for value in _momenta(last(whole)))
    checkpoint = Path(whole["folder"]) / "checkpoints" / "step-0000008.ckpt"
    again = run(*options, f"resume.from={checkpoint}", folder=tmp_path / "again")
    for part in ("state_dict", "optimizer_states"):
        assert same(last(again)[part], last(whole)[part]), part


def _momenta(checkpoint: dict[str, Any]) -> list[torch.Tensor]:
    states = checkpoint["optimizer_states"][0]["state"].values()
    return [state["momentum_buffer"] for state in states if "momentum_buffer" in state]


def test_settings_of_a_route_hold_over_those_of_the_checkpoint(run: Callable[..., Any], tmp_path: Path) -> None:
    first = run()
    checkpoint = Path(first["folder"]) / "checkpoints" / "step-0000008.ckpt"
    changed = ["optimizer.routes.muon.momentum=0.8", "optimizer.betas=[0.8,0.99]", f"resume.from={checkpoint}"]
    groups = last(run(*changed, folder=tmp_path / "again"))["optimizer_states"][0]["param_groups"]
    assert [group.get("momentum") for group in groups] == [None, None, 0.8]
    assert [group.get("betas") for group in groups] == [(0.8, 0.99), (0.8, 0.99), None]


def test_a_route_may_come_and_go_between_runs(run: Callable[..., Any], tmp_path: Path) -> None:
    """What changes its optimizer starts without momentum; everything else goes on with its own."""
    before = run("optimizer=adamw")
    checkpoint = Path(before["folder"]) / "checkpoints" / "step-0000008.ckpt"
    routed = run(f"resume.from={checkpoint}", folder=tmp_path / "routed")
    state = last(routed)["optimizer_states"][0]
    assert [group.get("route") for group in state["param_groups"]] == [None, None, "muon"]
    kinds = {
        number: "muon" if "momentum_buffer" in own else float(own["step"]) for number, own in state["state"].items()
    }
    assert sorted(map(str, kinds.values())) == ["12.0"] * 8 + ["muon"] * 2

    checkpoint = Path(routed["folder"]) / "checkpoints" / "step-0000012.ckpt"
    longer = ["trainer.max_steps=16", "resume.horizon=rescale", f"resume.from={checkpoint}"]
    state = last(run("optimizer=adamw", *longer, folder=tmp_path / "back"))["optimizer_states"][0]["state"]
    assert sorted(float(own["step"]) for own in state.values()) == [4.0] * 2 + [16.0] * 8


def test_another_optimizer_on_a_route_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    first = run(*OTHER, "optimizer.routes.other={_target_: torch.optim.SGD, lr: 0.01}")
    checkpoint = Path(first["folder"]) / "checkpoints" / "step-0000008.ckpt"
    other = "optimizer.routes.other={_target_: torch.optim.RMSprop, lr: 0.01}"
    with pytest.raises(
        ConfigError, match=r"optimizer\.routes\.other\._target_ .* another optimizer: torch\.optim\.SGD"
    ):
        run(*OTHER, other, f"resume.from={checkpoint}", folder=tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
def test_the_command_line_learns_digits_killed_in_the_middle(same: Any, python: Any, tmp_path: Path) -> None:
    options = ["optimizer=airbench", "model=cnn", "trainer=cpu", "trainer.max_epochs=6"]

    def start(*more: str) -> Any:
        return python("-m", "lrflow", *options, *more, cwd=tmp_path)

    assert start("output=whole").wait() == 0
    (folder,) = (tmp_path / "whole").iterdir()
    assert json.loads((folder / "summary.json").read_text())["metrics"]["test/accuracy"] >= 0.95

    saved = "killed/*/checkpoints/step-0000040.ckpt"
    assert start("output=killed").interrupt(signal.SIGKILL, lambda: list(tmp_path.glob(saved))) == -signal.SIGKILL
    assert start("output=killed", "resume=last").wait() == 0
    (again,) = (tmp_path / "killed").iterdir()
    left, right = last({"folder": again}), last({"folder": folder})
    assert all(same(left[part], right[part]) for part in ("state_dict", "optimizer_states"))


@pytest.mark.slow
def test_two_processes_train_alike(python: Any, tmp_path: Path) -> None:
    options = [word for word in SHORT if not word.startswith("trainer=")]
    job = python("-m", "lrflow", *options, "trainer=ddp", "trainer.accelerator=cpu", f"output={tmp_path}", cwd=tmp_path)
    _, told = job.communicate()
    assert job.returncode == 0, told
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 12
    assert len(_momenta(last({"folder": folder}))) == 2


class TestOptimizersOfOthers:
    """pytorch-optimizer's, on the route of the hidden matrices."""

    SHAMPOO = "optimizer.routes.muon={_target_: lrflow.optimizers.shampoo.Shampoo, lr: 1e-3, block_size: 8}"
    SPAM = (
        "optimizer.routes.muon="
        "{_target_: lrflow.optimizers.spam.SPAM, lr: 1e-3, update_proj_gap: 3, warmup_epoch: 5, grad_accu_steps: 1}"
    )
    STABLE = "optimizer.routes.muon={_target_: lrflow.optimizers.spam.StableSPAM, lr: 1e-3, update_proj_gap: 3}"
    NEWTON = "optimizer.routes.muon={_target_: pytorch_optimizer.AdaHessian, lr: 0.1}"
    ASKED = ("optimizer=adamw", "layers=muon")

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("pytorch_optimizer")

    @pytest.mark.parametrize("route", [SHAMPOO, SPAM, STABLE])
    def test_one_is_saved_and_goes_on_exactly(self, route: str, same: Any, run: Callable[..., dict[str, Any]]) -> None:
        whole = run(*self.ASKED, route)
        cut = Path(whole["folder"]) / "checkpoints" / "step-0000004.ckpt"
        resumed = run(*self.ASKED, route, f"resume={cut}")
        end, again = last(whole), last(resumed)
        assert same(end["state_dict"], again["state_dict"])
        assert same(end["optimizer_states"], again["optimizer_states"])

    def test_one_of_second_order_trains_and_is_searched_for(
        self, run: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> None:
        # The head's weights come first here, and the gradients of those below it are differentiated through them.
        rules = "layers.rules=[{name: head, match: 'head.*'}, {name: rest, match: '*', route: muon}]"
        asked = ("optimizer=adamw", "optimizer.fused=false", "layers=uniform", rules, self.NEWTON)
        assert "val/accuracy" in run(*asked)
        short = ("task=find", "find.steps=40", "find.sweeps=1", "model.widths=[16,16]", f"output={tmp_path}")
        assert find.run(compose([*asked, *short]))
