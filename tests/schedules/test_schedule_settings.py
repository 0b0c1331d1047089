"""Scheduled settings: their declaration, their problems, and their curves in wrapped schedules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lrflow.errors import ConfigError
from lrflow.schedules import (
    Constant,
    Continued,
    Cosine,
    Horizon,
    Linear,
    OneCycle,
    Schedule,
    ScheduledSetting,
    Unfreezing,
)
from lrflow.schedules.curve import highest_settings, numeric_settings
from lrflow.schedules.serialization import from_spec, to_spec

RUN = Horizon(100, 10)
ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.05}
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
CYCLE = {"low": 0.85, "high": 0.95, "inverse": True}


def declared(**also: Any) -> Schedule:
    return Schedule(Cosine(), warmup=5, also=also)


def problems(spec: dict[str, Any]) -> dict[str, str]:
    whole = {"_target_": "lrflow.schedules.Schedule", "shape": {"_target_": "lrflow.schedules.Cosine"}, "also": spec}
    with pytest.raises(ConfigError) as caught:
        from_spec(whole)
    return {problem.key: f"{problem.message}; {problem.hint}" for problem in caught.value.problems}


class TestEntries:
    def test_a_setting_without_a_schedule_follows_the_lr(self) -> None:
        schedule = declared(momentum=CYCLE)
        assert schedule.also == (ScheduledSetting("momentum", None, 0.85, 0.95, True),)
        alone, ((entry, curve),) = schedule.split_settings()
        assert alone == Schedule(Cosine(), warmup=5) == curve
        assert entry is schedule.also[0]

    def test_one_with_a_warmup_stays_up(self) -> None:
        (entry,) = declared(momentum={"warmup": 30, "low": 0.85}).also
        assert entry.curve == Schedule(Constant(), warmup=30, warmup_start=0.0)

    def test_one_with_a_shape_has_no_warmup_of_the_lrs(self) -> None:
        (entry,) = declared(weight_decay={"shape": Linear()}).also
        assert entry.curve == Schedule(Linear(), warmup_start=0.0)
        assert (entry.low, entry.high, entry.inverse) == (0.0, None, False)

    def test_null_is_no_entry(self) -> None:
        assert declared(momentum=None).also == ()
        assert declared(momentum=None) == Schedule(Cosine(), warmup=5, also=None)

    def test_schedules_with_equal_entries_are_equal_and_can_be_keys(self) -> None:
        assert {declared(momentum=CYCLE), declared(momentum=dict(CYCLE))} == {declared(momentum=CYCLE)}
        assert declared(momentum=CYCLE) != declared(momentum={**CYCLE, "high": 0.9})


class TestSpecs:
    def test_it_survives_json(self) -> None:
        schedule = declared(momentum=CYCLE, weight_decay={"shape": OneCycle(), "cooldown": "10%"})
        spec = json.loads(json.dumps(to_spec(schedule)))
        assert from_spec(spec) == schedule

    def test_a_config_is_a_spec(self) -> None:
        shape = {"_target_": "lrflow.schedules.OneCycle", "start": 0, "end": 0}
        spec = {
            "_target_": "lrflow.schedules.Schedule",
            "shape": {"_target_": "lrflow.schedules.Cosine"},
            "warmup": 5,
            "also": {"momentum": {"shape": shape, **CYCLE}, "beta2": None},
        }
        assert from_spec(spec) == declared(momentum={"shape": OneCycle(start=0, end=0), **CYCLE})

    def test_a_schedule_without_any_has_the_spec_of_before(self) -> None:
        assert "also" not in to_spec(Schedule(Cosine()))


class TestMistakes:
    def test_all_problems_are_reported_with_their_keys(self) -> None:
        found = problems(
            {
                "momentum": {"low": 0.95, "high": 0.85, "invers": True},
                "beta1": {"low": 1},
                "weight_decay": {"high": -1, "floor": 0.1},
                "beta2": {"shape": {"_target_": "lrflow.schedules.Cosin"}},
                "eps": {"warmup": "soon", "inverse": "yes"},
                "lr": {"low": 0},
                "rho": 3,
            }
        )
        assert found["schedule.also.momentum.low"].startswith("is above high, which is 0.85; inverse: true")
        assert found["schedule.also.momentum.invers"].endswith("did you mean inverse?")
        assert found["schedule.also.beta1.low"].startswith("expected a number from 0 and below 1")
        assert found["schedule.also.weight_decay.high"].startswith("expected a number from 0 on")
        assert found["schedule.also.weight_decay.floor"].endswith("low is the floor")
        assert "did you mean lrflow.schedules.Cosine?" in found["schedule.also.beta2.shape._target_"]
        assert "is not a duration" in found["schedule.also.eps.warmup"]
        assert found["schedule.also.eps.inverse"].startswith("expected true or false")
        assert found["schedule.also.lr"].startswith("the schedule itself sets the LR")
        assert found["schedule.also.rho"].startswith("expected a mapping")
        assert len(found) == 10

    def test_a_list_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match=r"schedule\.also = \['momentum'\]: expected a mapping from settings"):
            Schedule(Cosine(), also=["momentum"])  # type: ignore[list-item]

    def test_durations_that_do_not_fit_are_reported(self) -> None:
        schedule = declared(momentum={"warmup": 300, "low": 0.85}, weight_decay={"cooldown": "20 epochs"})
        keys = {problem.key: problem.message for problem in schedule.check(RUN, "layers.rules[1].schedule")}
        assert keys == {
            "layers.rules[1].schedule.also.momentum.warmup": "is 300 steps, but the run has only 100",
            "layers.rules[1].schedule.also.weight_decay.cooldown": "is 200 steps, but the run has only 100",
        }

    def test_a_setting_may_stay_at_the_low_end(self) -> None:
        """For an LR these would be steps without movement."""
        assert declared(momentum={"shape": OneCycle(start=0, end=0), "cooldown": "10%", **CYCLE}).check(RUN) == []

    @pytest.mark.parametrize(
        ("entry", "known", "reported"),
        [
            (ScheduledSetting("momentum"), ADAM, None),
            (ScheduledSetting("momentum"), SGD, None),
            (ScheduledSetting("momentum"), {"lr": 1.0, "eps": 1.0}, "no such setting; known: eps"),
            (ScheduledSetting("momentum", optional=True), {"lr": 1.0}, None),
            (ScheduledSetting("weight_dekay"), ADAM, "no such setting; did you mean weight_decay?"),
            (ScheduledSetting("weight_decay"), SGD, "weight_decay is 0, which switches it off"),
            (ScheduledSetting("weight_decay", optional=True), SGD, None),
            (ScheduledSetting("beta1", low=0.95), ADAM, "is above 0.9, the optimizer's own; give a high too"),
            (ScheduledSetting("beta1", low=0.95, high=0.99), ADAM, None),
        ],
    )
    def test_it_is_checked_against_an_optimizer(
        self, entry: ScheduledSetting, known: dict[str, float], reported: str | None
    ) -> None:
        found = [f"{problem.message}; {problem.hint}" for problem in entry.check(known, "schedule.also.x")]
        assert len(found) == (reported is not None)
        assert reported is None or reported in found[0]


class TestLaterOn:
    """The entries of a schedule that is wrapped."""

    def test_a_continued_schedule_continues_them(self) -> None:
        both = declared(momentum=CYCLE, weight_decay={"shape": Linear()})
        before = Horizon(50, 10)
        lr, ((_, with_lr), (_, own)) = Continued(both, 20, before, "rescale").split_settings()
        assert lr == with_lr == Continued(Schedule(Cosine(), warmup=5), 20, before, "rescale")
        assert own == Continued(Schedule(Linear(), warmup_start=0.0), 20, before, "rescale")

    def test_decay_now_applies_to_the_lr_only(self) -> None:
        both = declared(momentum=CYCLE, weight_decay={"shape": Linear()})
        lr, ((_, with_lr), (_, own)) = Continued(both, 20, Horizon(50, 10), "decay_now").split_settings()
        assert lr == with_lr
        assert isinstance(own, Continued)
        assert own.how == "extend"

    def test_while_a_group_is_frozen_settings_continue(self) -> None:
        both = declared(momentum=CYCLE)
        lr, ((_, curve),) = Unfreezing(both, 30).split_settings()
        assert lr == Unfreezing(Schedule(Cosine(), warmup=5), 30)
        assert curve == Schedule(Cosine(), warmup=5)

    @pytest.mark.parametrize("wrap", [lambda s: Continued(s, 20, Horizon(50), "keep"), lambda s: Unfreezing(s, 30)])
    def test_without_settings_a_curve_is_returned_as_it_is(self, wrap: Any) -> None:
        curve = wrap(Schedule(Cosine()))
        assert curve.split_settings() == (curve, ())


def test_numbers_are_found_among_settings() -> None:
    settings = {"lr": 0.1, "betas": [0.9, 0.99, 0.999], "fused": True, "eps": (1e-8, 1.0), "name": "x", "momentum": 0}
    assert numeric_settings(settings) == {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "beta3": 0.999, "momentum": 0.0}
    assert highest_settings([{"a": 1.0, "b": 0.0}, {"b": 2.0}]) == {"a": 1.0, "b": 2.0}


def test_what_a_hold_leaves_moving_moves_in_other_settings_too() -> None:
    """YOLO steps its warmup of LR and momentum at each batch, and its scheduler at each epoch."""
    also = {"momentum": {"warmup": 30, "low": 0.8}}
    ((_, moved),) = Schedule(Cosine(), 30, also=also, hold=10, hold_part="shape").split_settings()[1]
    assert moved(range(40), RUN).tolist() == pytest.approx([min(step / 30, 1) for step in range(40)])


def test_a_delay_moves_other_settings_with_the_lr() -> None:
    own = {"low": 0.85, "high": 0.95, "inverse": True, "warmup": 10}
    late = Schedule(Cosine(), 10, also={"momentum": own, "beta2": {"low": 0.5}}, delay=7).split_settings()[1]
    on_time = Schedule(Cosine(), 10, also={"momentum": own, "beta2": {"low": 0.5}}).split_settings()[1]
    for (_, moved), (_, curve) in zip(late, on_time, strict=True):
        assert moved(range(7, 100), Horizon(100)).tolist() == curve(range(93), Horizon(93)).tolist()
