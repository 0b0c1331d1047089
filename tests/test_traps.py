"""What others get wrong, each shown on them first where they are installed, and lrflow not doing it.

A test that fails in its first half says that the other has mended it: then the half goes, and the promise stays. Traps
whose test lies with the code that keeps clear of them are listed at the end.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.tuner.lr_finder import _LRFinder
from torch import nn
from torch.optim import SGD, Muon, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

import lrflow.optimizers
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.layers import Rule, resolve
from lrflow.optimizers import build_optimizer
from lrflow.optimizers.muon import orthogonalise
from lrflow.plan import Plan, PlanScheduler
from lrflow.schedules import Continued, Cosine, Cyclical, Horizon, Linear, OneCycle, Schedule, Shape, WarmRestarts
from lrflow.tuning.suggestion import steepest

# torch warns of schedulers inside schedulers, and of optimizers stepped without gradients.
pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parent.parent


def optimizer(*lrs: float) -> Optimizer:
    """One of torch's with a parameter group for each LR."""
    return SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs], lr=1.0)


def run(target: Optimizer, scheduler: LRScheduler, steps: int) -> np.ndarray:
    """The LRs of each group, [steps, groups], that `steps` optimizer steps are made with."""
    rates = []
    for _ in range(steps):
        rates.append([float(group["lr"]) for group in target.param_groups])
        target.step()
        scheduler.step()
    return np.array(rates)


def calls(act: Callable[[], object]) -> int:
    """How many functions are called when this is done, which is the same on every machine."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    act()  # the first time, state is made
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


# --- Schedules ---


def test_cosine_does_not_climb_again_past_its_end() -> None:
    theirs = optimizer(1.0)
    rates = run(theirs, CosineAnnealingLR(theirs, T_max=10), 21)[:, 0]
    assert rates[10] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(rates[10:]) > 0)
    assert rates[20] == pytest.approx(1)

    ours = Schedule(Cosine())(np.arange(21), Horizon(10))
    assert ours[10:].tolist() == [0.0] * 11


def test_the_length_is_the_configs_and_not_the_checkpoints() -> None:
    first = optimizer(1.0)
    scheduler = CosineAnnealingLR(first, T_max=10)
    run(first, scheduler, 5)
    resumed = CosineAnnealingLR(optimizer(1.0), T_max=20)  # the config now says 20
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.T_max == 10

    # lrflow has no state to load: the horizon is what the config says, and how to go on is chosen by name.
    schedule = Schedule(Cosine())
    assert schedule(15, Horizon(20)) > 0
    assert Continued(schedule, 5, Horizon(10), "rescale")(15, Horizon(20)) == schedule(15, Horizon(20))
    assert Continued(schedule, 5, Horizon(10), "keep")(15, Horizon(20)) == schedule(15, Horizon(10)) == 0


def test_a_floor_never_raises_a_group() -> None:
    lrs = [1.0, 1e-4]  # a head, and a backbone that should move slowly
    theirs = optimizer(*lrs)
    rates = run(theirs, CosineAnnealingLR(theirs, T_max=10, eta_min=1e-3), 11)
    assert rates[10, 1] == pytest.approx(1e-3)  # ten times the LR it was given

    ours = np.outer(Schedule(Cosine(), floor=1e-3)(np.arange(11), Horizon(10)), lrs)
    assert np.all(np.diff(ours, axis=0) < 0)
    assert np.allclose(ours[:, 0] / ours[:, 1], 1e4)  # and the groups keep their ratio


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda target: OneCycleLR(target, max_lr=1.0, total_steps=20), OneCycle()),
        (lambda target: CyclicLR(target, 0.1, 1.0, 5, cycle_momentum=False), Cyclical(10)),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
def test_cycles_keep_the_ratio_of_groups(make: Callable[[Optimizer], LRScheduler], shape: Shape) -> None:
    lrs = [1.0, 1e-4]
    theirs = optimizer(*lrs)
    rates = run(theirs, make(theirs), 20)
    assert rates[:, 0].tolist() == rates[:, 1].tolist()

    ours = np.outer(Schedule(shape)(np.arange(20), Horizon(20)), lrs)
    assert np.allclose(ours[:, 0] / ours[:, 1], 1e4)


def test_restarts_do_not_end_a_run_on_a_high_lr() -> None:
    theirs = optimizer(1.0)
    rates = run(theirs, CosineAnnealingWarmRestarts(theirs, 40), 100)[:, 0]
    assert rates[-1] > 0.5  # half-way through the third cosine

    ours = Schedule(WarmRestarts(40))(np.arange(100), Horizon(100))
    assert ours[:40].tolist() == pytest.approx(rates[:40].tolist())
    assert ours[-1] < 0.01


def test_resuming_in_the_middle_of_a_sequence() -> None:
    def warmup_then_cosine(target: Optimizer, last_epoch: int = -1) -> SequentialLR:
        parts = [LinearLR(target, 0.2, total_iters=4), CosineAnnealingLR(target, 16)]
        return SequentialLR(target, parts, milestones=[4], last_epoch=last_epoch)

    whole = optimizer(1.0)
    uninterrupted = run(whole, warmup_then_cosine(whole), 20)[:, 0]
    again = optimizer(1.0)
    again.param_groups[0]["initial_lr"] = 1.0  # as torch asks for before it resumes
    resumed = run(again, warmup_then_cosine(again, last_epoch=9), 10)[:, 0]
    assert not np.allclose(resumed, uninterrupted[10:], rtol=0.1)  # pytorch#162591
    assert resumed[0] == pytest.approx(0.2)  # it is back at the start of the warmup

    schedule = Schedule(Cosine(), warmup=4, warmup_start=0.2)
    np.testing.assert_allclose(schedule(np.arange(20), Horizon(20)), uninterrupted, rtol=1e-9, atol=1e-12)
    assert schedule(np.arange(10, 20), Horizon(20)).tolist() == schedule(np.arange(20), Horizon(20))[10:].tolist()


def test_a_warmup_survives_restarts() -> None:
    theirs = optimizer(1.0)
    parts = [LinearLR(theirs, 0.1, total_iters=5), CosineAnnealingWarmRestarts(theirs, 10)]
    rates = run(theirs, ChainedScheduler(parts, optimizer=theirs), 10)[:, 0]
    without = optimizer(1.0)
    assert rates.tolist() == run(without, CosineAnnealingWarmRestarts(without, 10), 10)[:, 0].tolist()

    ours = Schedule(WarmRestarts(10), warmup=5, warmup_start=0.1)(np.arange(25), Horizon(25))
    np.testing.assert_allclose(ours[:6], [0.1, 0.28, 0.46, 0.64, 0.82, 1.0])
    assert ours[15] == 1.0  # the restart


def test_a_warmup_never_exceeds_the_peak() -> None:
    theirs = optimizer(1.0)
    parts = [CosineAnnealingWarmRestarts(theirs, 10), LinearLR(theirs, 0.1, total_iters=5)]
    rates = run(theirs, ChainedScheduler(parts, optimizer=theirs), 10)[:, 0]
    assert rates.max() > 2.5

    assert Schedule(Cosine(), warmup=5)(np.arange(10), Horizon(10)).max() == 1.0


def test_building_a_scheduler_leaves_the_optimizer_alone() -> None:
    theirs = optimizer(1.0)
    LinearLR(theirs, start_factor=0.1)
    assert theirs.param_groups[0]["lr"] == pytest.approx(0.1)  # pytorch#72874
    LambdaLR(theirs, lambda step: 0.5)  # a second one, never stepped
    assert theirs.param_groups[0]["lr"] == pytest.approx(0.5)

    # A schedule knows no optimizer: to make it, to check it and to evaluate it change nothing.
    ours = optimizer(1.0)
    schedule = Schedule(Linear(), warmup=5)
    schedule.check(Horizon(10))
    schedule(np.arange(10), Horizon(10))
    assert ours.param_groups[0]["lr"] == 1.0
    assert "initial_lr" not in ours.param_groups[0]


# --- Groups and optimizers ---


def stack(depth: int) -> tuple[nn.Module, list[Rule]]:
    """A model of many layers, and a rule for each, all with the same settings."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth)))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return model, [Rule(f"layer{index}", match=f"{index}.*") for index in range(depth)]


def test_200_groups_with_equal_settings_are_one() -> None:
    model, rules = stack(200)
    theirs = SGD([{"params": list(layer.parameters())} for layer in model.children()], lr=0.1, foreach=True)
    assert len(theirs.param_groups) == 200

    groups = resolve(model, rules, lr=0.1)
    assert len(groups) == 200  # each with its name in the plan
    ours = build_optimizer(groups, {"foreach": True}, SGD)
    assert len(ours.param_groups) == 1
    assert calls(theirs.step) > 5 * calls(ours.step)


def test_a_tensor_lr_does_not_recompile() -> None:
    from torch._dynamo.testing import CompileCounter

    def compilations(target: Optimizer, move: Callable[[], object]) -> int:
        torch._dynamo.reset()
        counter = CompileCounter()
        step = torch.compile(target.step, backend=counter)
        for _ in range(6):
            step()
            move()
        return counter.frame_count

    model, rules = stack(2)
    theirs = SGD(model.parameters(), lr=1.0)
    schedule = LambdaLR(theirs, lambda step: 1.0 / (1 + step))
    assert compilations(theirs, schedule.step) > 1  # a float is a guard, and a second LR compiles the step again

    groups = resolve(model, rules, lr=1.0)
    ours = build_optimizer(groups, {"fused": False}, SGD, tensor_lr=True)
    scheduler = PlanScheduler(ours, Plan.compile(groups, Schedule(Linear()), Horizon(10)))
    assert compilations(ours, scheduler.step) == 1


def test_muon_takes_convolution_kernels() -> None:
    kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
    with pytest.raises(ValueError, match="2D"):
        Muon([kernel])

    before = kernel.detach().clone()
    kernel.grad = torch.randn_like(kernel)
    lrflow.optimizers.Muon([kernel], lr=0.1).step()
    assert not torch.equal(kernel, before)


def test_muon_runs_in_single_precision_on_a_cpu() -> None:
    """bfloat16 takes a CPU four to five times as long, with the same result."""
    from torch.optim import _muon

    gradient = torch.randn(8, 16)
    theirs = _muon._zeropower_via_newtonschulz(gradient, (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert theirs.dtype == torch.bfloat16

    assert orthogonalise(gradient).dtype == torch.float32


# --- Lightning and Hydra ---


class TwoGroups(pl.LightningModule):
    """A backbone and a head at ten times its LR, and the LRs that each step is made with."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 1e-3
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
        self.used: list[list[float]] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        target = self.optimizers()
        self.used.append([group["lr"] for group in target.param_groups])  # type: ignore[union-attr]
        return self.head(self.body(batch)).square().mean()

    def configure_optimizers(self) -> Optimizer:
        return SGD(
            [{"params": self.body.parameters()}, {"params": self.head.parameters(), "lr": 10 * self.lr}], self.lr
        )


def test_groups_keep_their_ratio_when_the_lr_is_looked_for(tmp_path: Path) -> None:
    theirs = TwoGroups()
    trainer = pl.Trainer(
        default_root_dir=tmp_path, max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    data = torch.utils.data.DataLoader(torch.randn(16, 4))
    Tuner(trainer).lr_find(theirs, data, num_training=8, update_attr=False)
    assert all(body == head for body, head in theirs.used)  # one LR for all, and what is found is found for that

    # lrflow's peak is one number, from which each group has its own: whatever it is set to, the ratio stays.
    rules = [Rule("head", match="head.*", lr="10x"), Rule("body", match="*")]
    for peak in (1e-3, 0.3):
        head, body = resolve(TwoGroups(), rules, lr=peak)
        assert head.lr == pytest.approx(10 * body.lr)


def test_the_steepest_fall_is_steepest_on_the_axis_that_is_swept() -> None:
    rates = np.geomspace(1e-6, 10.0, 200)
    losses = 2.3 / (1 + np.exp(4 * (np.log10(rates) + 2)))  # steepest at 0.01, in decades
    theirs = _LRFinder("exponential", 1e-6, 10.0, 200)
    theirs.results = {"lr": rates.tolist(), "loss": losses.tolist()}
    suggestion = theirs.suggestion()
    assert suggestion is not None
    assert suggestion < 0.005  # lightning#21141: the slope by the LR itself, which favours small ones

    assert steepest(rates, losses) == pytest.approx(0.01, rel=0.1)


def test_an_lr_that_was_found_is_not_lost_at_the_next_step() -> None:
    theirs = optimizer(1.0)
    scheduler = LambdaLR(theirs, lambda step: 1.0)
    theirs.param_groups[0]["lr"] = 0.01  # what a finder writes
    assert run(theirs, scheduler, 2)[:, 0].tolist() == [0.01, 1.0]

    # The peak is in the plan, and the plan is where every LR comes from.
    model, rules = stack(1)
    groups = resolve(model, rules, lr=0.01)
    ours = build_optimizer(groups, {}, SGD)
    plan = Plan.compile(groups, Schedule(Linear()), Horizon(4))
    assert run(ours, PlanScheduler(ours, plan), 4)[:, 0].tolist() == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_a_typo_is_told_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("optimizer: {_target_: torch.optim.SGD, lr: 0.1}")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        with pytest.raises(Exception, match=r"use \+optimizer\.lrr=1"):
            hydra.compose("config", ["optimizer.lrr=1"])
        config = hydra.compose("config", ["+optimizer.lrr=1"])  # as advised
    with pytest.raises(Exception, match="unexpected keyword argument 'lrr'"):
        instantiate(config.optimizer, params=[torch.zeros(1)])

    with pytest.raises(ConfigError) as caught:
        compose(["optimizer.lrr=1", "schedule=cosin"])
    told = {problem.key: str(problem.hint) for problem in caught.value.problems}  # both at once
    assert "optimizer.lr" in told["optimizer.lrr"]
    assert "cosine" in told["schedule"]


# --- Installing ---


def test_nothing_replaces_the_torch_that_is_there() -> None:
    """A package that asks for torchvision, or for a newer torch, brings gigabytes of CUDA or a torch that breaks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {extra: {re.split(r"[\[<>=]", name)[0] for name in given} for extra, given in extras.items()}
    refused = {"torchvision", "timm", "fastai", "mup", "curvlinops-for-pytorch"}
    assert not set().union(*names.values()) & refused
    # Its classes are not those of pytorch_lightning; only the tests of modules that import it have it.
    assert [extra for extra, given in names.items() if "lightning" in given] == ["dev"]
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_tests_run_on_one_thread() -> None:
    """Two on a busy machine of two cores can be many times slower."""
    assert os.environ["OMP_NUM_THREADS"] == "1"


# --- Elsewhere ---

ELSEWHERE = {
    "a multirun stops at the first job that raises":
        "cli/test_sweep_check.py::test_one_failure_does_not_stop_the_others",
    "a checkpoint runs code when it is read": "training/test_checkpoint_file.py::test_objects_are_never_unpickled",
    "logging each step doubles what it costs":
        "training/test_trainer_step_calls.py::test_a_step_makes_no_more_calls_than_a_bare_loop_that_records_the_same",
    "Schedule-Free is evaluated, saved and resumed at the wrong weights unless it is switched by hand":
        "training/test_evaluation_weights.py::test_its_evaluation_equals_that_of_the_run",
    "Prodigy wants an LR of 1": "optimizers/test_prodigy.py::test_another_lr_is_reported",
    "Prodigy raises at its first step where groups have their own LRs":
        "optimizers/test_prodigy.py::test_groups_with_their_own_lrs_are_an_error_before_the_run",
    "L-BFGS wants a closure, and one parameter group":
        "optimizers/test_factory_closures.py::test_groups_that_differ_in_lr_are_an_error_unlike_weight_decay",
    "Hessian methods leave the graph of a step in memory":
        "optimizers/test_factory_closures.py::test_nothing_of_a_step_stays_in_memory",
    "a plateau takes a worse negative metric for a better one":
        "feedback/test_metric.py::test_what_torch_gets_wrong_a_worse_negative_metric_is_no_improvement",
    "GreedyLR never leaves its lower bound": "feedback/test_metric_greedy.py::test_bounds_are_kept_and_left_again",
    "a range test smooths its losses so that they lag": "tuning/test_suggestion_rules.py::test_smoothing_does_not_lag",
    "a range test suggests an LR without its uncertainty": "tuning/test_suggestion.py::test_doubts",
    "ASGD keeps an average that nothing reads":
        "optimizers/test_formulas.py::test_its_weights_are_those_of_sgd_at_any_lr_and_its_average_is_theirs",
    "Shampoo's checkpoints hold Python objects":
        "optimizers/test_formulas.py::test_its_state_is_plain_and_resumes_exactly",
}  # fmt: skip
"""The trap, and the test that lies with the code."""


@pytest.mark.parametrize(("trap", "test"), ELSEWHERE.items())
def test_traps_whose_test_is_elsewhere(trap: str, test: str) -> None:
    path, _, name = test.rpartition("::")
    assert re.search(rf"^ *def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE), trap
