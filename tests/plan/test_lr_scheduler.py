"""The scheduler writes the plan's LRs bit for bit, through real optimizers, resumed or not."""

import cProfile
import json
import pstats
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lrflow.plan.lr_scheduler as module
from lrflow.errors import ConfigError
from lrflow.layers import Rule, resolve
from lrflow.optimizers import build_optimizer
from lrflow.plan import Plan, PlanChangedWarning, PlanScheduler
from lrflow.schedules import Constant, Cosine, Horizon, Linear, Schedule


def steps_made(optimizer, scheduler, steps):
    """Return the LRs of `steps` optimizer steps, [steps, groups]."""
    used = []
    hook = optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: used.append([float(group["lr"]) for group in optimizer.param_groups])
    )
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()
    hook.remove()
    return np.array(used).reshape(steps, len(optimizer.param_groups))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
def test_every_step_is_made_with_the_planned_lr(plan_of, optimizer_of, schedule, horizon, kind):
    plan = plan_of(schedule, horizon, 0.1, 1 / 3, 0.0007)
    optimizer = optimizer_of(plan, kind)
    used = steps_made(optimizer, PlanScheduler(optimizer, plan), horizon.steps)
    assert np.array_equal(used, plan.lr(np.arange(horizon.steps)))


def test_the_weights_move_by_the_planned_lr(plan_of, optimizer_of, schedule, horizon):
    plan = plan_of(schedule, horizon, 0.1, 0.7)
    optimizer = optimizer_of(plan)
    steps_made(optimizer, PlanScheduler(optimizer, plan), horizon.steps)
    weights = np.array([1.0, 1.0])
    for step in range(horizon.steps):
        weights = weights - plan.lr(step)  # SGD on a gradient of one, in float64
    assert [group["params"][0].item() for group in optimizer.param_groups] == weights.tolist()


def test_blocks_leave_no_seam(plan_of, optimizer_of, schedule, horizon, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 7)
    plan = plan_of(schedule, horizon, 0.1)
    optimizer = optimizer_of(plan)
    used = steps_made(optimizer, PlanScheduler(optimizer, plan), horizon.steps + 30)
    assert np.array_equal(used, plan.lr(np.arange(horizon.steps + 30)))


@settings(max_examples=8)
@given(stop=st.integers(0, 200), block=st.integers(1, 60))
def test_resumed_equals_uninterrupted(plan_of, optimizer_of, schedule, horizon, stop, block):
    plan = plan_of(schedule, horizon, 0.1, 0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        first = optimizer_of(plan)
        scheduler = PlanScheduler(first, plan)
        before = steps_made(first, scheduler, stop)
        saved = json.loads(json.dumps(scheduler.state_dict()))

        second = optimizer_of(plan)
        scheduler = PlanScheduler(second, Plan.from_dict(plan.to_dict()))
        second.load_state_dict(first.state_dict())
        scheduler.load_state_dict(saved)
        after = steps_made(second, scheduler, horizon.steps - stop)
    assert np.array_equal(np.concatenate([before, after]), plan.lr(np.arange(horizon.steps)))


def test_merged_groups_of_a_real_model_follow_their_column(horizon):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    own = Schedule(Linear(), warmup=5)
    rules = [
        Rule("a", match="0.weight"),
        Rule("frozen_norm", match="1.weight", freeze=True),
        Rule("b", match="0.bias", lr="3x"),
        Rule("c", match="1.*"),
        Rule("d", match="*", schedule=own),
    ]
    groups = resolve(model, rules, lr=0.1)
    plan = Plan.compile(groups, Schedule(Cosine()), horizon)
    optimizer = build_optimizer(groups, {"lr": 0.1}, torch.optim.SGD)
    scheduler = PlanScheduler(optimizer, plan)
    assert [group["members"] for group in optimizer.param_groups] == [["a", "c"], ["b"], ["d"]]
    used = steps_made(optimizer, scheduler, 50)
    a, b, c, d = plan.lr(np.arange(50)).T
    assert np.array_equal(a, c)
    assert np.array_equal(used, np.stack([a, b, d], axis=1))


class TestSideEffects:
    def test_there_are_none_but_the_lr(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine(), warmup=10), horizon, 0.1)
        optimizer = optimizer_of(plan, torch.optim.AdamW)
        before = {key: value for key, value in optimizer.param_groups[0].items() if key != "lr"}
        PlanScheduler(optimizer, plan).step()
        after = {key: value for key, value in optimizer.param_groups[0].items() if key != "lr"}
        assert after == before
        assert "step" not in vars(optimizer)

    def test_the_first_lr_is_written_at_once(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine(), warmup=10), horizon, 0.1)
        optimizer = optimizer_of(plan)
        PlanScheduler(optimizer, plan)
        assert optimizer.param_groups[0]["lr"] == plan.lr(0)[0] == 0.1 / 11

    def test_it_is_torchs_and_warns_of_no_order(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine()), horizon, 0.1)
        optimizer = optimizer_of(plan)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler = PlanScheduler(optimizer, plan)
            scheduler.step()
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        assert scheduler.optimizer is optimizer
        assert scheduler.last_epoch == 1
        assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
        assert scheduler.base_lrs == [0.1]

    def test_a_step_can_be_jumped_to(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine()), horizon, 0.1)
        optimizer = optimizer_of(plan)
        scheduler = PlanScheduler(optimizer, plan)
        scheduler.step(120)
        assert optimizer.param_groups[0]["lr"] == plan.lr(120)[0]

    def test_groups_that_were_replaced_under_it_are_written(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine()), horizon, 0.1)
        optimizer = optimizer_of(plan)
        scheduler = PlanScheduler(optimizer, plan)
        optimizer.load_state_dict(optimizer.state_dict())
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == plan.lr(1)[0]


def test_a_step_costs_few_calls(plan_of, optimizer_of):
    plan = plan_of(Schedule(Cosine(), warmup="5%"), Horizon(100_000), 0.1, 0.2)
    optimizer = optimizer_of(plan)
    scheduler = PlanScheduler(optimizer, plan)
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(3 * module.BLOCK):
        scheduler.step()
    profile.disable()
    assert pstats.Stats(profile).total_calls / (3 * module.BLOCK) <= 6  # type: ignore[attr-defined]


class TestTensorLR:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_it_is_filled_in_place(self, plan_of, optimizer_of, horizon, dtype):
        plan = plan_of(Schedule(Cosine(), warmup=10), horizon, 0.1, 0.3)
        optimizer = optimizer_of(plan)
        tensors = [torch.tensor(5.0, dtype=dtype) for _ in plan.names]
        for group, tensor in zip(optimizer.param_groups, tensors, strict=True):
            group["lr"] = tensor
        scheduler = PlanScheduler(optimizer, plan)
        for step in range(30):
            expected = torch.tensor(plan.lr(step)).to(dtype)
            assert [tensor.item() for tensor in tensors] == expected.tolist()
            scheduler.step()
        assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))

    def test_the_returned_lrs_are_copies(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine()), horizon, 0.1)
        optimizer = optimizer_of(plan)
        optimizer.param_groups[0]["lr"] = torch.tensor(1.0)
        read = PlanScheduler(optimizer, plan).get_last_lr()[0]
        read.fill_(7.0)
        assert optimizer.param_groups[0]["lr"].item() == pytest.approx(0.1)


class TestFeedback:
    def test_it_multiplies_the_plan_and_applies_at_once(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine(), warmup=10), horizon, 0.1, 0.3)
        optimizer = optimizer_of(plan)
        scheduler = PlanScheduler(optimizer, plan)
        scheduler.step()
        scheduler.feedback = 0.25
        for step in range(1, 30):
            assert scheduler.planned() == plan.lr(step).tolist()
            assert [group["lr"] for group in optimizer.param_groups] == (plan.lr(step) * 0.25).tolist()
            assert scheduler.get_lr() == scheduler.get_last_lr() == (plan.lr(step) * 0.25).tolist()
            scheduler.step()
        scheduler.feedback = 1.0
        assert [group["lr"] for group in optimizer.param_groups] == plan.lr(30).tolist()

    def test_it_is_not_the_schedulers_state(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine()), horizon, 0.1)
        scheduler = PlanScheduler(optimizer_of(plan), plan)
        scheduler.step()
        scheduler.feedback = 0.5
        assert scheduler.state_dict() == {"step": 1, "fingerprint": plan.fingerprint}


class TestState:
    def test_another_plans_state_is_taken_with_a_warning(self, plan_of, optimizer_of, horizon):
        old = plan_of(Schedule(Cosine()), horizon, 0.1)
        new = plan_of(Schedule(Cosine()), horizon, 0.2)
        state = PlanScheduler(optimizer_of(old), old).state_dict() | {"step": 30}
        optimizer = optimizer_of(new)
        scheduler = PlanScheduler(optimizer, new)
        with pytest.warns(PlanChangedWarning, match=old.fingerprint[:12]):
            scheduler.load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == new.lr(30)[0]

    def test_its_own_plans_state_is_taken_without(self, plan_of, optimizer_of, horizon):
        plan = plan_of(Schedule(Cosine()), horizon, 0.1)
        optimizer = optimizer_of(plan)
        scheduler = PlanScheduler(optimizer, plan)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler.load_state_dict({"step": 30, "fingerprint": plan.fingerprint})
        assert optimizer.param_groups[0]["lr"] == plan.lr(30)[0]


class TestMisfits:
    def optimizer(self, *groups):
        return torch.optim.SGD([{"params": [torch.zeros(1)], **group} for group in groups], lr=0.1)

    def test_a_name_does_for_a_group_without_members(self, plan_of, horizon):
        plan = plan_of(Schedule(Constant()), horizon, 0.1, 0.2)
        optimizer = self.optimizer({"name": "b"})
        PlanScheduler(optimizer, plan)
        assert optimizer.param_groups[0]["lr"] == 0.2

    def test_every_unknown_group_is_named(self, group, horizon):
        plan = Plan(
            (group("head", 0.1, Schedule(Constant())), group("stem", 0.1, Schedule(Constant()), frozen=True)), horizon
        )
        optimizer = self.optimizer({"members": ["haed"]}, {}, {"members": ["stem"]}, {"members": ["head"]})
        with pytest.raises(ConfigError) as caught:
            PlanScheduler(optimizer, plan)
        problems = caught.value.problems
        assert [problem.key for problem in problems] == [f"optimizer.param_groups[{i}]" for i in range(3)]
        assert problems[0].hint == "did you mean head?"

    def test_groups_that_the_plan_sets_apart_cannot_share(self, group, horizon):
        constant = Schedule(Constant())
        plan = Plan(
            (group("a", 0.1, constant), group("b", 0.2, constant), group("c", 0.1, Schedule(Cosine()))), horizon
        )
        for other in "bc":
            with pytest.raises(ConfigError, match=f"a and {other} share it"):
                PlanScheduler(self.optimizer({"members": ["a", other]}), plan)
