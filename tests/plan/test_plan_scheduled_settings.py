"""Scheduled settings: equal to torch's and to published formulas, executed, shown and compared."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

import lrflow.plan.lr_scheduler as module
from lrflow.config import compose
from lrflow.config.composition.options import home
from lrflow.config.schemas import objects
from lrflow.errors import ConfigError
from lrflow.layers import Rule, resolve
from lrflow.optimizers import build_optimizer
from lrflow.plan import Plan, PlanScheduler
from lrflow.plan.figure import draw
from lrflow.plan.lr_scheduler import read_setting
from lrflow.schedules import Constant, Continued, Cosine, Curve, Cyclical, Horizon, Linear, Schedule, Step
from lrflow.schedules.serialization import from_spec

STEPS = 1000
RUN = Horizon(STEPS, 100)
ADAMW = {"lr": 0.1, "betas": [0.9, 0.999], "weight_decay": 0.05}
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
RULES = (
    Rule("no_decay", select="bias", weight_decay=0.0),
    Rule("head", match="1.*", weight_decay=0.1),
    Rule("rest", match="*"),
)
CYCLE = {"low": 0.85, "high": 0.95, "inverse": True}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))


def plan_of(schedule: Curve, config: dict[str, Any] = ADAMW, rules: Any = RULES, run: Horizon = RUN) -> Plan:
    groups = resolve(network(), rules, 0.1, config.get("weight_decay"))
    return Plan.compile(groups, schedule, run, config)


def ready(
    schedule: Curve, kind: Any = torch.optim.AdamW, config: dict[str, Any] = ADAMW, run: Horizon = RUN
) -> tuple[torch.nn.Module, torch.optim.Optimizer, PlanScheduler]:
    model = network()
    groups = resolve(model, RULES, 0.1, config.get("weight_decay"))
    optimizer = build_optimizer(groups, config, kind)
    return model, optimizer, PlanScheduler(optimizer, Plan.compile(groups, schedule, run, config))


def used(optimizer: torch.optim.Optimizer, scheduler: Any, setting: str, steps: int = STEPS) -> np.ndarray:
    """Return the LR and a setting of the first group at each step, [steps, 2]."""
    rows = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        rows.append([float(group["lr"]), read_setting(group, setting)])
        optimizer.step()
        scheduler.step()
    return np.array(rows)


def moving(name: str, schedule: Curve, config: dict[str, Any] = ADAMW) -> np.ndarray:
    """A setting of the group `rest` over the run."""
    return plan_of(schedule, config).setting(name, np.arange(STEPS))[:, -1]


class TestAgainstTorch:
    """Both the LR and the momentum, through a real optimizer, at every step."""

    @pytest.mark.parametrize(
        ("kind", "config", "setting"),
        [(torch.optim.SGD, SGD, "momentum"), (torch.optim.Adam, {"lr": 0.1, "betas": [0.9, 0.999]}, "beta1")],
    )
    @pytest.mark.parametrize("curve", ["cosine", "linear"])
    def test_one_cycle_as_it_ships(self, kind: Any, config: dict[str, Any], setting: str, curve: str) -> None:
        option = OmegaConf.load(home("conf") / "schedule" / "one_cycle.yaml")
        option.shape.curve = curve
        spec: Any = OmegaConf.to_container(option, resolve=True)
        _, optimizer, scheduler = ready(from_spec(objects.Schedule.spec_of(spec)), kind, config)
        theirs = kind([torch.zeros(1, requires_grad=True)], lr=0.1, **{k: v for k, v in config.items() if k != "lr"})
        # torch's run of n steps ends at step n - 1, lrflow's at n.
        reference = OneCycleLR(
            theirs,
            0.1,
            STEPS + 1,
            pct_start=301 / (STEPS + 1),
            anneal_strategy="cos" if curve == "cosine" else "linear",
        )
        np.testing.assert_allclose(
            used(optimizer, scheduler, setting), used(theirs, reference, setting), rtol=1e-9, atol=1e-15
        )

    @pytest.mark.parametrize(("mode", "gamma"), [("triangular", 1.0), ("triangular2", 0.5)])
    def test_cycles(self, mode: Any, gamma: float) -> None:
        momentum = {"shape": Cyclical("20%", 0.0, gamma=gamma), "low": 0.8, "high": 0.9, "inverse": True}
        schedule = Schedule(Cyclical("20%", 0.1, gamma=gamma), also={"momentum": momentum})
        _, optimizer, scheduler = ready(schedule, torch.optim.SGD, SGD)
        theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
        reference = CyclicLR(theirs, 0.01, 0.1, 100, mode=mode, base_momentum=0.8, max_momentum=0.9)
        np.testing.assert_allclose(
            used(optimizer, scheduler, "momentum"), used(theirs, reference, "momentum"), rtol=1e-9
        )


class TestAgainstPublishedFormulas:
    def test_the_weight_decay_of_dino(self) -> None:
        """final + (start - final) (1 + cos(pi i / N)) / 2, from 0.04 to 0.4 (Caron et al., 2104.14294)."""
        schedule = Schedule(
            Cosine(), "5%", also={"weight_decay": {"shape": Cosine(), "low": 0.04, "high": 0.4, "inverse": True}}
        )
        published = [0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * i / STEPS)) for i in range(STEPS)]
        np.testing.assert_allclose(moving("weight_decay", schedule), published, rtol=1e-12)

    def test_the_momentum_warmup_of_the_nanogpt_records(self) -> None:
        """(1 - f) 0.85 + f 0.95 with f = min(step / 300, 1)."""
        schedule = Schedule(Constant(), also={"momentum": {"warmup": 300, "low": 0.85, "high": 0.95}})
        shares = [min(step / 300, 1) for step in range(STEPS)]
        published = [(1 - share) * 0.85 + share * 0.95 for share in shares]
        np.testing.assert_allclose(moving("momentum", schedule, SGD), published, rtol=1e-12)

    def test_the_other_way_at_the_end(self) -> None:
        """The momentum falls again over the last 50 steps, as in later records."""
        schedule = Schedule(Constant(), also={"momentum": {"warmup": 300, "cooldown": 50, "low": 0.85, "high": 0.95}})
        values = moving("momentum", schedule, SGD)
        np.testing.assert_allclose(values[950:], [0.95 - 0.1 * i / 50 for i in range(50)], rtol=1e-12)


class TestGroups:
    def test_groups_keep_their_ratios_and_zeros(self) -> None:
        plan = plan_of(Schedule(Cosine(), also={"weight_decay": {"low": 0.01, "high": 0.4}}))
        assert plan.names == ("no_decay", "head", "rest")
        values = plan.setting("weight_decay", [0, STEPS // 2, STEPS])
        assert np.isnan(values[:, 0]).all()
        np.testing.assert_allclose(values[:, 2], [0.4, 0.205, 0.01])
        np.testing.assert_allclose(values[:, 1], 2 * values[:, 2])

    def test_without_a_high_each_starts_from_its_own(self) -> None:
        plan = plan_of(Schedule(Cosine(), also={"weight_decay": {}}))
        assert plan.setting("weight_decay", 0)[1:].tolist() == [0.1, 0.05]
        assert plan.setting("weight_decay", STEPS)[1:].tolist() == [0.0, 0.0]

    def test_momentum_is_beta1_where_there_are_betas(self) -> None:
        (moved, columns), *others = plan_of(Schedule(Cosine(), also={"momentum": CYCLE})).scheduled_settings
        assert (moved.name, moved.setting, moved.title, columns, others) == (
            "momentum",
            "beta1",
            "momentum (beta1)",
            (0, 1, 2),
            [],
        )

    def test_of_several_optimizers_only_those_with_a_momentum_are_changed(self) -> None:
        rules = [Rule("hidden", match="0.weight", route="muon"), Rule("rest", match="*")]
        config = {**ADAMW, "routes": {"muon": {"lr": 0.02, "momentum": 0.95}}}
        groups = resolve(network(), rules, 0.1, 0.05, routes={"muon": {"lr": 0.02, "weight_decay": 0.0}})
        plan = Plan.compile(groups, Schedule(Cosine(), also={"momentum": {"warmup": 300, "low": 0.85}}), RUN, config)
        assert [[moved.setting for moved in group.also] for group in plan.groups] == [["momentum"], []]
        assert plan.setting("momentum", STEPS).tolist()[0] == 0.95

    def test_a_groups_own_schedule_replaces_the_runs(self) -> None:
        own = Schedule(Constant(), also={"beta2": {"warmup": 10, "low": 0.9}})
        rules = [Rule("head", match="1.*", schedule=own), Rule("plain", match="0.bias", schedule=Schedule(Linear()))]
        plan = plan_of(Schedule(Cosine(), also={"momentum": CYCLE}), rules=[*rules, Rule("rest", match="*")])
        assert [[moved.name for moved in group.also] for group in plan.groups] == [["beta2"], [], ["momentum"]]
        assert np.isnan(plan.setting("momentum", 0)).tolist() == [True, True, False]

    def test_a_frozen_group_has_none(self) -> None:
        plan = plan_of(
            Schedule(Cosine(), also={"momentum": CYCLE}),
            rules=[Rule("stem", match="0.*", freeze=True), Rule("rest", match="*")],
        )
        assert [len(group.also) for group in plan.groups] == [0, 1]

    @pytest.mark.parametrize(
        ("also", "config", "reported"),
        [
            ({"momentun": CYCLE}, SGD, r"schedule\.also\.momentun.*\n.*did you mean momentum\?"),
            ({"momentum": CYCLE}, {"lr": 0.1}, r"schedule\.also\.momentum: the optimizer has no such setting"),
            ({"weight_decay": {}}, {**SGD, "weight_decay": 0.0}, None),
            (
                {"momentum": CYCLE, "beta1": {}},
                ADAMW,
                r"schedule\.also\.beta1: is beta1, which momentum schedules already",
            ),
            ({"momentum": CYCLE}, {"lr": 0.1, "momentum": 0.0}, r"momentum is 0, which switches it off"),
        ],
    )
    def test_invalid_settings_are_reported(
        self, also: dict[str, Any], config: dict[str, Any], reported: str | None
    ) -> None:
        if reported is None:  # the head has the setting, the other groups do not
            plan = plan_of(Schedule(Cosine(), also=also), config)
            assert [bool(group.also) for group in plan.groups] == [False, True, False]
            return
        with pytest.raises(ConfigError, match=reported):
            plan_of(Schedule(Cosine(), also=also), config)

    def test_optional_settings_are_skipped_if_absent(self) -> None:
        optional = Schedule(Cosine(), also={"momentum": {**CYCLE, "optional": True}})
        assert plan_of(optional, {"lr": 0.1}) == plan_of(Schedule(Cosine()), {"lr": 0.1})
        assert plan_of(optional, {"lr": 0.1, "momentum": 0.0}).scheduled_settings == ()
        assert plan_of(optional, SGD).also == ("momentum",)

    @given(
        low=st.floats(0, 0.9),
        more=st.floats(0, 0.09),
        inverse=st.booleans(),
        steps=st.lists(st.floats(0, STEPS + 5), min_size=1, max_size=20),
    )
    @settings(max_examples=60, deadline=None)
    def test_no_value_is_outside_its_range(self, low: float, more: float, inverse: bool, steps: list[float]) -> None:
        entry = {"low": low, "high": low + more, "inverse": inverse}
        plan = plan_of(Schedule(Step(), "10%", also={"momentum": entry}), SGD)
        values = plan.setting("momentum", steps)
        assert (values >= low).all()
        assert (values <= low + more).all()
        assert values[:, 0].tolist() == [float(plan.setting("momentum", step)[0]) for step in steps]


class TestContinued:
    def test_the_curves_of_settings_continue_with_the_lr(self) -> None:
        """The settings are at the same fraction as the LR, whose curve they follow."""
        schedule = Schedule(Cosine(), "5%", also={"momentum": {**CYCLE, "inverse": False}})
        for how in ("keep", "rescale", "extend", "decay_now"):
            plan = plan_of(Continued(schedule, 300, Horizon(500, 100), how))
            share = (plan.setting("momentum", np.arange(STEPS))[:, -1] - 0.85) / 0.1
            np.testing.assert_allclose(share, plan.lr(np.arange(STEPS))[:, -1] / 0.1, atol=1e-9)

    def test_up_to_there_nothing_changes(self) -> None:
        schedule = Schedule(Cosine(), also={"weight_decay": {"shape": Linear(), "low": 0.01}})
        before = plan_of(schedule, run=Horizon(500, 100)).setting("weight_decay", np.arange(300))
        plan = plan_of(Continued(schedule, 300, Horizon(500, 100), "extend"))
        assert np.array_equal(plan.setting("weight_decay", np.arange(300)), before, equal_nan=True)
        assert plan.setting("weight_decay", STEPS)[-1] == 0.01


class TestExecuted:
    ALSO: dict[str, Any] = {  # noqa: RUF012
        "momentum": CYCLE,
        "beta2": {"warmup": 10, "low": 0.9},
        "weight_decay": {"shape": Cosine(), "low": 0.01, "high": 0.4, "inverse": True},
    }

    def test_every_step_uses_the_planned_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BLOCK", 7)
        _, optimizer, scheduler = ready(Schedule(Cosine(), "5%", also=self.ALSO))
        plan, rows = scheduler.plan, []
        for _ in range(50):
            rows.append([(*group["betas"], group["weight_decay"]) for group in optimizer.param_groups])
            scheduler.step()
        momentum, beta2, decay = (plan.setting(name, np.arange(50)) for name in ("momentum", "beta2", "weight_decay"))
        expected = np.stack([momentum, beta2, np.nan_to_num(decay)], axis=2)  # 0 for groups without it
        assert np.array_equal(np.array(rows), expected)

    def test_the_weights_are_those_of_settings_written_by_hand(self) -> None:
        model, optimizer, scheduler = ready(Schedule(Cosine(), "5%", also=self.ALSO))
        other = network()
        plain = build_optimizer(resolve(other, RULES, 0.1, 0.05), ADAMW, torch.optim.AdamW)
        inputs = torch.randn(8, 4)
        for step in range(20):
            for group, lr, momentum, beta2, decay in zip(
                plain.param_groups,
                scheduler.plan.lr(step),
                *(scheduler.plan.setting(name, step) for name in scheduler.plan.also),
                strict=True,
            ):
                group |= {"lr": float(lr), "betas": (float(momentum), float(beta2))}
                group |= {} if np.isnan(decay) else {"weight_decay": float(decay)}
            for net, each in ((model, optimizer), (other, plain)):
                each.zero_grad()
                net(inputs).square().mean().backward()
                each.step()
            scheduler.step()
        for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    @settings(max_examples=8, deadline=None)
    @given(stop=st.integers(0, 60), block=st.integers(1, 30))
    def test_resumed_equals_uninterrupted(self, stop: int, block: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "BLOCK", block)
            schedule = Schedule(Cosine(), "5%", also=self.ALSO)
            run = Horizon(60, 10)
            _, first, scheduler = ready(schedule, run=run)
            for _ in range(stop):
                scheduler.step()
            saved = json.loads(json.dumps(scheduler.state_dict()))
            assert saved.keys() == {"step", "fingerprint"}
            _, second, again = ready(schedule, run=run)
            again.load_state_dict(saved)
            for _ in range(60 - stop):
                assert [group["betas"] for group in second.param_groups] == [g["betas"] for g in first.param_groups]
                assert [g["weight_decay"] for g in second.param_groups] == [
                    g["weight_decay"] for g in first.param_groups
                ]
                again.step()
                scheduler.step()

    def test_feedback_does_not_act_on_them(self) -> None:
        _, optimizer, scheduler = ready(Schedule(Cosine(), also={"momentum": CYCLE}))
        before = optimizer.param_groups[0]["betas"]
        scheduler.feedback = 0.1
        assert optimizer.param_groups[0]["betas"] == before
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)

    def test_a_tensor_stays_the_same_one(self) -> None:
        schedule = Schedule(Cosine(), also={"momentum": CYCLE})
        _, optimizer, scheduler = ready(schedule, torch.optim.SGD, SGD)
        optimizer.param_groups[0]["momentum"] = held = torch.tensor(0.9, dtype=torch.float64)
        scheduler.step()
        assert optimizer.param_groups[0]["momentum"] is held
        assert held.item() == scheduler.plan.setting("momentum", 1)[0]

    def test_an_optimizer_without_the_setting_is_an_error(self) -> None:
        groups = resolve(network(), RULES, 0.1, 0.05)
        plan = Plan.compile(groups, Schedule(Cosine(), also={"momentum": CYCLE}), RUN, SGD)
        optimizer = build_optimizer(groups, {"lr": 0.1}, torch.optim.Adagrad)
        with pytest.raises(ConfigError, match=r"schedule\.also\.momentum: Adagrad has no momentum"):
            PlanScheduler(optimizer, plan)


class TestShown:
    @pytest.fixture(scope="class")
    def plan(self) -> Plan:
        decay = {"shape": Cosine(), "low": 0.04, "high": 0.4, "inverse": True}
        return plan_of(Schedule(Cosine(), "5%", also={"momentum": {"warmup": 300, "low": 0.85}, "weight_decay": decay}))

    def printed(self, output: Any, width: int = 100) -> str:
        file = io.StringIO()
        Console(file=file, width=width).print(output)
        return file.getvalue()

    def test_it_survives_json(self, plan: Plan) -> None:
        again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
        assert again == plan
        assert again.fingerprint == plan.fingerprint
        assert plan.fingerprint != plan_of(Schedule(Cosine(), "5%")).fingerprint

    def test_a_plan_without_settings_does_not_mention_them(self) -> None:
        plan = plan_of(Schedule(Cosine()))
        assert all("also" not in group for group in plan.to_dict()["groups"])
        assert "settings" not in self.printed(plan.table())
        assert len(draw(plan).axes) == 1

    def test_a_wrong_setting_in_a_file_is_reported(self, plan: Plan) -> None:
        data = plan.to_dict()
        data["groups"][0]["also"][0] |= {"curve": {"_target_": "lrflow.schedules.Schedul"}, "lw": 1}
        with pytest.raises(ConfigError) as caught:
            Plan.from_dict(data)
        keys = [problem.key for problem in caught.value.problems]
        assert keys == ["plan.groups[0].also[0].curve._target_", "plan.groups[0].also[0].lw"]

    def test_the_table(self, plan: Plan) -> None:
        text = self.printed(plan.table(), 140)
        assert "momentum (beta1) 0.85 to 0.9, constant, warmup 300 steps" in text
        assert "weight decay 0.08 to 0.8, inverse to cosine (head)" in text
        assert "weight decay 0.04 to 0.4, inverse to cosine (rest)" in text
        landmark = next(line for line in text.splitlines() if "warmup of momentum ends" in line)
        assert landmark.split()[:2] == ["300", "3"]
        assert f"{plan.setting('weight_decay', 300)[1]:.3g}" in landmark
        assert "settings move" in text

    def test_a_narrow_table_has_them_in_rows(self, plan: Plan) -> None:
        rows = [line.split() for line in self.printed(plan.table(), 60).splitlines()]
        assert any(row[:2] == ["momentum", "(beta1)"] and "0.85" in row for row in rows)

    def test_a_setting_that_follows_the_lr_is_described_so(self) -> None:
        text = self.printed(plan_of(Schedule(Cosine(), also={"momentum": CYCLE})).table())
        assert "momentum (beta1) 0.85 to 0.95, inverse to the LR" in text

    def test_a_setting_that_never_moves_fails_its_check(self) -> None:
        plan = plan_of(Schedule(Constant(), also={"momentum": {"low": 0.85}}))
        (check,) = [check for check in plan.check() if check.name == "settings move"]
        assert not check.ok
        assert check.detail == "momentum (beta1) 0.9 to 0.9 throughout, in no_decay, head, rest"

    def test_the_files(self, plan: Plan, tmp_path: Any) -> None:
        plan.write(tmp_path)
        with (tmp_path / "plan.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == [
            "step",
            *plan.names,
            *(f"momentum/{name}" for name in plan.names),
            "weight_decay/head",
            "weight_decay/rest",
        ]
        written = [float(row["weight_decay/head"]) for row in rows]
        assert np.array_equal(written, plan.setting("weight_decay", np.arange(STEPS))[:, 1])
        content = json.loads((tmp_path / "plan.json").read_text())
        assert content["landmarks"][0]["momentum/rest"] == plan.setting("momentum", 0)[-1]
        assert Plan.from_dict(content) == plan

    def test_the_picture_has_a_panel_for_each(self, plan: Plan) -> None:
        from matplotlib.patches import StepPatch

        lr, momentum, decay = (axes for axes in draw(plan).axes if axes.get_xlabel() != "epoch")
        assert momentum.get_ylabel() == "momentum\n(beta1)"
        assert (lr.get_xlabel(), decay.get_xlabel()) == ("", "optimizer step")
        curves = [patch for patch in decay.patches if isinstance(patch, StepPatch)]
        assert len(curves) == 2
        assert np.array_equal(curves[0].get_data()[0], plan.setting("weight_decay", np.arange(STEPS))[:, 1])

    def test_changes_are_reported(self, plan: Plan) -> None:
        diff = plan.diff(plan_of(Schedule(Cosine(), "5%", also={"momentum": {"warmup": 300, "low": 0.85}})))
        assert {(change.group, change.setting) for change in diff.changes} == {
            ("head", "weight decay"),
            ("rest", "weight decay"),
        }
        assert diff.same_rates
        assert not diff.same
        assert "the optimizer's → 0.04 to 0.4, inverse to cosine" in self.printed(diff, 140)


def test_the_decay_of_adamc_is_also_on_the_lrs_curve() -> None:
    """AdamC (Defazio, 2025, arXiv 2506.02285): the decay of a step is wd * lr / lr_max, times lr in AdamW."""
    config = compose(["+schedule.also.weight_decay={}"])
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    groups = resolve(model, config.layers.compiled(), lr=3e-3, weight_decay=0.05)
    plan = Plan.compile(groups, config.schedule.curve(), Horizon(200), config.optimizer.node())
    steps = np.arange(200)
    decays, rates = plan.setting("weight_decay", steps), plan.lr(steps)
    for column, group in enumerate(plan.trainable):
        expected = np.full(200, np.nan) if not group.weight_decay else 0.05 * rates[:, column] / rates[:, column].max()
        assert decays[:, column] == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert {group.weight_decay for group in plan.trainable} == {0.0, 0.05}
