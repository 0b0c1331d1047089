"""Any module trains with the configured optimizer; a compiled optimizer compiles once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from lrflow.errors import LrflowError
from lrflow.layers import Rule, resolve
from lrflow.optimizers import Muon, Routed, build_optimizer
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Cosine, Horizon, Schedule
from lrflow.training.configure_optimizers import compile_step, supply_optimizer

TWO = [Rule("head", match="net.head.*", lr="10x"), Rule("rest", match="*")]


class Users(pl.LightningModule):
    """A user's module, with an optimizer and a scheduler that lrflow replaces."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.net = network

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("own/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        raise AssertionError("the module's own optimizer is not asked for")


class TestUsersModule:
    def test_it_follows_the_plan(self, train: Any, network_of_points: Any, tmp_path: Path) -> None:
        run = train(tmp_path, module=Users(network_of_points()), rules=TWO)
        assert run.record.rates == run.plan.lr(np.arange(21)).tolist()
        assert run.plan.names == ("head", "rest")
        assert type(run.trainer.optimizers[0]) is torch.optim.AdamW
        assert isinstance(run.trainer.lr_scheduler_configs[0].scheduler, PlanScheduler)
        assert run.checkpoints.best is not None

    def test_its_own_metrics_are_in_the_same_rows(self, train: Any, network_of_points: Any, tmp_path: Path) -> None:
        run = train(tmp_path, module=Users(network_of_points()), rules=TWO, log_every=4)
        own = {int(row["step"]): row["own/loss"] for row in run.rows() if row["own/loss"]}
        assert sorted(own) == [3, 7, 11, 15, 19]
        steps = {int(row["step"]): row["train/loss"] for row in run.rows() if row["train/loss"]}
        assert all(float(value) == pytest.approx(float(steps[step])) for step, value in own.items())

    def test_an_interrupted_run_resumes_exactly(self, train: Any, network_of_points: Any, tmp_path: Path) -> None:
        def go(folder: Path, **options: Any) -> Any:
            torch.manual_seed(5)
            return train(folder, module=Users(network_of_points()), rules=TWO, save_every="5 steps", **options)

        whole = go(tmp_path / "whole")
        broken = go(tmp_path / "run", interrupt=12)
        resumed = go(tmp_path / "run", resume=broken.newest)
        assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())
        assert sorted_rows(resumed) == sorted_rows(whole)

    def test_without_validation_step_and_data(self, train: Any, network_of_points: Any, tmp_path: Path) -> None:
        class Bare(pl.LightningDataModule):
            def train_dataloader(self) -> Any:
                draw = torch.Generator().manual_seed(1)
                data = torch.utils.data.TensorDataset(
                    torch.randn(40, 6, generator=draw), torch.randint(0, 3, (40,), generator=draw)
                )
                return DataLoader(data, batch_size=8, shuffle=True)

        run = train(tmp_path, module=Users(network_of_points()), rules=TWO, data=Bare(), max_epochs=2)
        assert run.trainer.global_step == 10
        assert run.newest.name == "step-0000010.ckpt"

    def test_it_is_built_for_the_device_of_the_parameters(self, network_of_points: Any) -> None:
        module = Users(network_of_points())
        groups = resolve(module, TWO, 0.1)
        plan = Plan.compile(groups, Schedule(Cosine()), Horizon(10, 5))
        asked: list[torch.device] = []

        def make(device: torch.device) -> torch.optim.Optimizer:
            asked.append(device)
            return build_optimizer(groups, {"lr": 0.1}, torch.optim.SGD, device)

        supply_optimizer(module, plan, make, {})
        assert asked == []  # the optimizer is built later, when the parameters are on their device
        configured: Any = module.configure_optimizers()
        assert asked == [torch.device("cpu")]
        assert configured["lr_scheduler"]["interval"] == "step"
        assert [group["lr"] for group in configured["optimizer"].param_groups] == plan.lr(0).tolist()


def sorted_rows(run: Any) -> list[tuple[tuple[str, str], ...]]:
    """The rows of metrics.csv in any order: signals are written some steps at a time, a module's own at once."""
    rows = [{key: value for key, value in row.items() if value} for row in run.rows()]
    return sorted(tuple(sorted(row.items())) for row in rows)


class TestCompiled:
    """Counts how often torch compiles a step, with a backend that only counts."""

    @pytest.fixture(autouse=True)
    def _fresh(self) -> Any:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def compiled_steps(
        self, tensor_lr: bool, kind: type[torch.optim.Optimizer], **settings: Any
    ) -> tuple[list[int], list[torch.Tensor]]:
        """The number of compilations before the end of each of 20 steps, and the weights after them."""
        compilations = 0

        def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            nonlocal compilations
            compilations += 1
            return graph.forward

        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        groups = resolve(model, [Rule("bias", select="bias", lr="10x"), Rule("rest", match="*")], 0.01)
        plan = Plan.compile(groups, Schedule(Cosine(), warmup=5), Horizon(20, 20))
        optimizer = build_optimizer(groups, {"lr": 0.01, **settings}, kind, tensor_lr=tensor_lr)
        compile_step(optimizer, backend=backend)
        scheduler = PlanScheduler(optimizer, plan)
        inputs = torch.randn(8, 4)
        counts = []
        for _ in range(20):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
            scheduler.step()
            counts.append(compilations)
        return counts, [parameter.detach().clone() for parameter in model.parameters()]

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            (torch.optim.SGD, {"fused": False, "momentum": 0.9}),
            (torch.optim.SGD, {"fused": True}),
            (torch.optim.AdamW, {"fused": False}),
            (torch.optim.AdamW, {"fused": True}),
        ],
    )
    def test_a_new_lr_does_not_recompile(self, kind: type[torch.optim.Optimizer], settings: dict[str, Any]) -> None:
        counts, weights = self.compiled_steps(True, kind, **settings)
        assert counts[1:] == [counts[1]] * 19  # SGD compiles twice, because its first step has no momentum buffer
        assert (counts[0] == 1) != settings["fused"]  # the fused kernel is not compiled
        torch._dynamo.reset()
        _, plain = self.compiled_steps(False, kind, **settings)
        for weight, other in zip(weights, plain, strict=True):
            assert torch.allclose(weight, other, atol=1e-6)

    def test_a_float_lr_would_recompile(self) -> None:
        """It recompiles at least once; in versions of torch that treat numbers as constants, at every step."""
        counts, _ = self.compiled_steps(False, torch.optim.AdamW, fused=False)
        assert counts[-1] > counts[0] == 1

    def test_the_closure_is_not_compiled(self) -> None:
        """Lightning passes the whole forward and backward pass to `step` as a closure."""
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.5))
        compile_step(optimizer, backend="eager")
        calls = []

        def closure() -> torch.Tensor:
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = weight.sum()
            loss.backward()
            return loss

        with torch.no_grad():
            assert float(optimizer.step(closure)) == 2.0
        assert calls == [True]
        assert weight.tolist() == [0.5, 0.5]


class TestRouted:
    """Each of several optimizers keeps its own settings, and is checked and compiled separately."""

    ROUTES: ClassVar = {"muon": {"lr": 0.02, "momentum": 0.8}}
    SETTINGS: ClassVar = {"lr": 0.1, "betas": (0.8, 0.9)}

    def made(self, tensor_lr: bool = False, muon: Any = Muon, **settings: Any) -> tuple[Any, torch.nn.Module, Plan]:
        """Return an optimizer as in a run, its model and its plan."""
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        rules = [Rule("hidden", match="0.weight", route="muon"), Rule("rest", match="*")]
        groups = resolve(model, rules, 0.1, routes=self.ROUTES)
        plan = Plan.compile(groups, Schedule(Cosine()), Horizon(10, 5))

        def make(device: torch.device) -> torch.optim.Optimizer:
            rest = build_optimizer(groups[1:], {**self.SETTINGS, **settings}, torch.optim.AdamW, device, tensor_lr)
            return Routed(
                {None: rest, "muon": build_optimizer(groups[:1], self.ROUTES["muon"], muon, device, tensor_lr)}
            )

        module = Users(model)
        supply_optimizer(module, plan, make, self.SETTINGS, routes=self.ROUTES)
        return module.configure_optimizers()["optimizer"], model, plan

    def test_configured_settings_override_the_checkpoint(self) -> None:
        optimizer, _, _ = self.made()
        state = optimizer.state_dict()
        rest, hidden = state["param_groups"]
        rest["betas"], rest["eps"] = (0.1, 0.1), 0.5
        hidden["momentum"], hidden["ns_steps"] = 0.1, 9
        optimizer.load_state_dict(state)
        rest, hidden = optimizer.param_groups
        assert (rest["betas"], rest["eps"]) == ((0.8, 0.9), 0.5)  # eps is not configured
        assert (hidden["momentum"], hidden["ns_steps"]) == (0.8, 9)

    def test_a_checkpoint_of_another_optimizer_on_the_route_is_rejected(self) -> None:
        state = self.made()[0].state_dict()
        other, _, _ = self.made(muon=torch.optim.RMSprop)
        with pytest.raises(LrflowError, match="of another optimizer than RMSprop: it has no alpha, centered"):
            other.load_state_dict(state)

    def test_the_plan_sets_the_lr_of_all_optimizers(self) -> None:
        optimizer, model, plan = self.made()
        scheduler = PlanScheduler(optimizer, plan)
        for step in range(3):
            assert [group["lr"] for group in optimizer.param_groups] == plan.lr(step)[::-1].tolist()
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            scheduler.step()

    def test_a_new_lr_recompiles_no_route(self) -> None:
        compilations = 0

        def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            nonlocal compilations
            compilations += 1
            return graph.forward

        torch._dynamo.reset()
        optimizer, model, plan = self.made(tensor_lr=True, fused=False)
        plain, reference, _ = self.made(fused=False)
        schedulers = [PlanScheduler(one, plan) for one in (optimizer, plain)]
        for member in optimizer.optimizers.values():
            compile_step(member, backend=backend)
        counts = []
        for _ in range(6):
            for one, network in ((optimizer, model), (plain, reference)):
                one.zero_grad()
                network(torch.ones(3, 4)).square().mean().backward()
                one.step()
            for scheduler in schedulers:
                scheduler.step()
            counts.append(compilations)
        torch._dynamo.reset()
        assert counts[0] >= 2
        assert counts[1:] == [counts[1]] * 5
        for weight, other in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.allclose(weight, other, atol=1e-6)
