"""A frozen group has no gradient, decay, state or statistics updates; it trains from its first step on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy
from torch import nn
from torch._dynamo.utils import counters

from lrflow.errors import ConfigError
from lrflow.layers import Group, Rule, resolve
from lrflow.optimizers import build_optimizer
from lrflow.schedules import Constant, Schedule
from lrflow.training import Freezing, Supervised

HEAD = Rule("head", match="head.*", lr="10x")
LATE = (HEAD, Rule("body", match="*", unfreeze=5, unfreeze_warmup=3))


class Watch(pl.Callback):
    """Records the state of a run before each batch: parameters, buffers, gradients and optimizer state."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self.trained: list[set[str]] = []  # parameters with a gradient in the step
        self.remembered: list[set[str]] = []  # parameters with optimizer state

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(copy.deepcopy(pl_module.model.state_dict()))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = dict(pl_module.model.named_parameters())
        self.trained.append({name for name, parameter in named.items() if parameter.grad is not None})
        self.remembered.append({name for name, parameter in named.items() if optimizer.state.get(parameter)})


def moved(seen: list[dict[str, torch.Tensor]], first: int, last: int) -> set[str]:
    """Return the names of values that differ before the batches `first` and `last`."""
    return {name for name, tensor in seen[first].items() if not torch.equal(tensor, seen[last][name])}


def test_a_frozen_group_is_unchanged_until_its_first_step(train: Any, tmp_path: Path) -> None:
    watch = Watch()
    train(tmp_path, rules=LATE, callbacks=[watch], settings={"weight_decay": 0.5, "fused": "auto"})
    head, everything = {"head.weight", "head.bias"}, {name for name, _ in watch.seen[0].items()}
    parameters = {name for name in everything if "running" not in name and "tracked" not in name}
    assert moved(watch.seen, 0, 5) == head
    assert moved(watch.seen, 5, 6) == everything
    assert watch.trained == [head] * 5 + [parameters] * 16
    assert watch.remembered == [set()] + [head] * 5 + [parameters] * 15


def test_it_equals_a_plain_loop_in_torch(train: Any, tmp_path: Path) -> None:
    """With clipping, momentum and weight decay the weights equal those of plain torch, bit for bit."""
    batches: list[Any] = []

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batches.append(batch)

    def made() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    schedule = Schedule(Constant(), warmup=4, warmup_start=0.5)
    settings = {"momentum": 0.9, "weight_decay": 0.1, "fused": False}
    first = Rule("first", match="0.*", lr="0.5x", unfreeze=6, unfreeze_warmup=3, freeze_after=15)
    rules = (Rule("last", match="2.*", settings={"momentum": 0.5}), first)
    module = Supervised(made(), "cross_entropy")
    run = train(
        tmp_path,
        module=module,
        rules=rules,
        schedule=schedule,
        optimizer=torch.optim.SGD,
        settings=settings,
        clip=0.1,
        val_size=0,
        callbacks=[Keep()],
    )
    model = made()
    groups = [{"params": list(model[2].parameters()), "momentum": 0.5}, {"params": list(model[0].parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=0.1)
    model[0].requires_grad_(False)
    for step, (inputs, target) in enumerate(batches):
        model[0].requires_grad_(6 <= step < 15)
        multiplier = 0.5 + 0.5 * min(step / 4, 1.0)
        optimizer.param_groups[0]["lr"] = multiplier * run.options.lr
        optimizer.param_groups[1]["lr"] = multiplier * min((step - 5) / 4, 1.0) * 0.5 * run.options.lr
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), target).backward()
        nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], 0.1)
        optimizer.step()
    assert len(batches) == 21
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, run.module.model.state_dict()[name]), name


def test_until_then_it_equals_a_run_with_the_group_frozen(train: Any, tmp_path: Path) -> None:
    late = train(tmp_path / "late", rules=LATE, clip=0.05, accumulate=2)
    never = train(tmp_path / "never", rules=(HEAD, Rule("body", match="*", freeze=True)), clip=0.05, accumulate=2)
    assert late.record.losses[:9] == never.record.losses[:9]  # 5 steps: the last of an epoch has one batch
    assert late.record.losses[9:] != never.record.losses[9:]
    assert late.column("train/grad_norm")[:5] == never.column("train/grad_norm")[:5]
    assert late.column("lr_planned/body")[:5] == [0.0] * 5
    assert all(rate > 0 for rate in late.column("lr/body")[5:])


def test_a_group_that_is_frozen_later_stays_as_it_is(train: Any, tmp_path: Path) -> None:
    """No decay, no momentum, no statistics; its state is kept."""
    watch = Watch()
    body = Rule("body", match="*", freeze_after=5)
    settings = {"weight_decay": 0.5, "fused": "auto"}
    run = train(tmp_path, rules=(HEAD, body), callbacks=[watch], settings=settings, accumulate=2)
    head, everything = {"head.weight", "head.bias"}, {*watch.seen[0]}
    first = len(watch.seen) - len(watch.seen[9:])  # five steps are nine batches: the last of an epoch has one
    assert moved(watch.seen, 0, first) == everything
    assert moved(watch.seen, first, len(watch.seen) - 1) == head
    assert [len(names) for names in watch.trained[4:7]] == [len(watch.trained[0]), 2, 2]
    assert watch.remembered[-1] == watch.remembered[4]
    assert run.column("lr_planned/body")[4] > 0
    assert run.column("lr/body")[5:] == [0.0] * (len(watch.trained) - 5)


@pytest.mark.parametrize("frozen", [{"freeze": True}, {"unfreeze": 5}])
@pytest.mark.parametrize("fixed", [True, False])
def test_batch_norms_of_a_frozen_group_keep_their_statistics(
    frozen: dict[str, Any], fixed: bool, train: Any, tmp_path: Path
) -> None:
    """This holds across a validation too, and dropout stays active."""
    watch = Watch()
    rules = (HEAD, Rule("body", match="*", freeze_statistics=fixed, **frozen))
    run = train(tmp_path, rules=rules, callbacks=[watch], val_every="2 steps")
    statistics = {"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"}
    assert moved(watch.seen, 0, 5) & statistics == (set() if fixed else statistics)
    still = set() if frozen.get("freeze") and fixed else statistics
    assert moved(watch.seen, 5, 20) & statistics == still
    assert run.module.model.body[3].training


def test_a_batch_norm_with_a_trainable_parameter_trains(train: Any, tmp_path: Path) -> None:
    """fastai freezes like this: everything except the norms."""
    watch = Watch()
    rules = (HEAD, Rule("norms", select="norm"), Rule("body", match="*", freeze=True))
    train(tmp_path, rules=rules, callbacks=[watch])
    assert {"body.1.running_mean", "body.1.weight"} <= moved(watch.seen, 0, 5)
    assert "body.0.weight" not in moved(watch.seen, 0, 20)


def test_layers_frozen_by_the_model_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].requires_grad_(False)
    groups = resolve(model, [Rule("rest", match="*")], lr=0.1)
    Freezing(model, groups, {"rest": 0}).setup(None, None, "fit")  # type: ignore[arg-type]
    assert model[1].training
    assert not model[1].weight.requires_grad


OPTIMIZERS = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "RMSprop", "Rprop", "Adamax", "Adadelta", "ASGD"]


@pytest.mark.parametrize("name", [*OPTIMIZERS, "Adafactor", "SGD fused", "Adam fused", "AdamW fused", "Adagrad fused"])
def test_optimizers_skip_parameters_without_gradients(name: str) -> None:
    """The frozen group is in the optimizer from the start, so its state is loaded with the same indices."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    groups = resolve(model, [Rule("head", match="1.*"), Rule("body", match="*", unfreeze=2)], lr=0.1, weight_decay=0.1)
    kind, _, fused = name.partition(" ")
    config = {"lr": 0.1, "weight_decay": 0.1, **({"fused": True} if fused else {})}
    if kind == "Rprop":
        groups = resolve(model, [Rule("head", match="1.*"), Rule("body", match="*", unfreeze=2)], lr=0.1)
        del config["weight_decay"]
    optimizer = build_optimizer(groups, config, getattr(torch.optim, kind))
    model[0].requires_grad_(False)
    before, at_first = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"].get(2))
    for step in range(4):
        model[0].requires_grad_(step >= 2)
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        assert torch.equal(model[0].weight, before["0.weight"]) == (step < 2)
        if step < 2:
            state = optimizer.state_dict()["state"].get(2)
            assert str(state) == str(at_first)  # empty, except for Adagrad, which creates it in advance


class Tower(nn.Module):
    """Ten layers and a head, in its own class: torch does not compile a plain `Sequential`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(6, 6) for _ in range(10))
        self.head = nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for layer in self.body:
            inputs = layer(inputs).relu()
        return self.head(inputs)


def test_a_compiled_model_is_compiled_again_for_each_group(train: Any, tmp_path: Path) -> None:
    """Torch alone would stop compiling after eight variants of a function."""
    torch.compiler.reset()
    counters.clear()
    module = Supervised(Tower(), "cross_entropy")
    module.model.compile(backend="eager")
    rules = [Rule(f"body{i}", match=f"body.{i}.*", unfreeze=10 - i) for i in range(10)]
    watch = Watch()
    train(tmp_path, module=module, rules=[HEAD, *rules], compiled=True, callbacks=[watch], val_size=0, drop_last=True)
    assert [len(names) for names in watch.trained[:12]] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 22]
    assert counters["stats"]["unique_graphs"] == 11
    torch.compiler.reset()


def test_a_strategy_that_shards_parameters_is_rejected() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = resolve(model, [Rule("head", match="1.*"), Rule("body", match="*", unfreeze=5)], lr=0.1)

    class Sharded:
        strategy = object.__new__(FSDPStrategy)

    with pytest.raises(ConfigError, match="FSDPStrategy cannot freeze or unfreeze") as caught:
        Freezing(model, groups, {"head": 0, "body": 5}).setup(Sharded(), None, "fit")  # type: ignore[arg-type]
    assert [problem.key for problem in caught.value.problems] == ["trainer.strategy"]
    Freezing(model, groups, {"head": 0, "body": 5}, step=5).setup(Sharded(), None, "fit")  # type: ignore[arg-type]


def test_groups_with_the_same_start_are_unfrozen_together() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    rules = [Rule(str(i), match=f"{i}.*", unfreeze=start) for i, start in enumerate((6, 6, 0))]
    groups: list[Group] = resolve(model, rules, lr=0.1)
    for step, trained in [(0, 2), (5, 2), (6, 6), (7, 6)]:
        Freezing(model, groups, {"0": 6, "1": 6, "2": 0}, step).setup(
            type("Trainer", (), {"strategy": pl.strategies.SingleDeviceStrategy("cpu")})(),  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            "fit",
        )
        assert sum(parameter.requires_grad for parameter in model.parameters()) == trained


def test_a_resumed_run_of_another_length_freezes_nothing_again(train: Any, prepare: Any, tmp_path: Path) -> None:
    """Half of the run is now a later step, but the group has trained since the earlier one."""
    rules = (HEAD, Rule("body", match="*", unfreeze="50%"))
    broken = train(tmp_path, interrupt=14, rules=rules, save_every="1 step")
    assert broken.plan.first_steps == {"head": 0, "body": 11}
    longer = {"rules": rules, "max_epochs": 6, "resume": broken.newest}
    refused = prepare(tmp_path / "rescaled", how="rescale", **longer)
    (problem,) = refused.plan.trainable[1].schedule.check(refused.horizon)
    assert problem.message.endswith("would be frozen again until step 21")
    watch = Watch()
    run = train(tmp_path / "extended", how="extend", callbacks=[watch], **longer)
    assert run.plan.first_steps == {"head": 0, "body": 11}
    assert "body.0.weight" in watch.trained[0]
