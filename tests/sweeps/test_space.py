from __future__ import annotations

import pytest

from lrflow.config.composition.overrides import Override
from lrflow.errors import ConfigError
from lrflow.sweeps.space import Space, read_space


def space_of(*typed: str, params=None, when=None) -> Space:
    return read_space(params, when, map(Override.read, typed))


def problems_of(*typed: str, params=None, when=None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        space_of(*typed, params=params, when=when)
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("optimizer.lr=interval(1e-4,1)", "optimizer.lr: log [0.0001, 1]"),
        ("optimizer.routes.muon.lr=interval(1e-4,1)", "optimizer.routes.muon.lr: log [0.0001, 1]"),
        ("optimizer.weight_decay=interval(1e-4,1)", "optimizer.weight_decay: log [0.0001, 1]"),
        ("optimizer.weight_decay=interval(0,1)", "optimizer.weight_decay: [0, 1]"),
        ("optimizer.lr=tag(linear,interval(0.1,1))", "optimizer.lr: [0.1, 1]"),
        ("optimizer.momentum=interval(0.5,0.9)", "optimizer.momentum: [0.5, 0.9]"),
        ("optimizer.eps=tag(log,interval(1e-9,1e-7))", "optimizer.eps: log [1e-09, 1e-07]"),
        ("data.batch_size=int(interval(8,64))", "data.batch_size: int [8, 64]"),
        ("seed=range(0,3)", "seed: 0, 1, 2"),
        ("optimizer=sgd,adamw", "optimizer: sgd, adamw"),
        ("optimizer.lr=choice(0.1,0.01)", "optimizer.lr: 0.1, 0.01"),
    ],
)
def test_parses_axes_from_hydra_overrides(text: str, description: str) -> None:
    assert space_of(text).describe() == [description]


def test_fixed_overrides_are_in_every_trial() -> None:
    space = space_of("++trainer.max_epochs=3", "++optimizer.lr=0.1,0.2")
    assert [space.overrides(values) for values in space.grid()] == [
        ["++trainer.max_epochs=3", "++optimizer.lr=0.1"],
        ["++trainer.max_epochs=3", "++optimizer.lr=0.2"],
    ]


def test_the_command_line_overrides_the_file() -> None:
    space = space_of("++optimizer.lr=0.3", params={"optimizer.lr": "interval(1e-3,1)", "seed": [1, 2]})
    assert space.describe() == ["seed: 1, 2"]
    assert space.fixed == ("++optimizer.lr=0.3",)


def test_the_last_key_of_a_grid_varies_fastest() -> None:
    grid = space_of("optimizer=sgd,adamw", "seed=0,1").grid()
    assert [list(values.values()) for values in grid] == [["sgd", "0"], ["sgd", "1"], ["adamw", "0"], ["adamw", "1"]]


def test_a_condition_by_a_tag() -> None:
    space = space_of("optimizer=sgd,adamw", "optimizer.momentum=tag(optimizer:sgd,choice(0.8,0.9))")
    assert space.grid() == [
        {"optimizer": "sgd", "optimizer.momentum": "0.8"},
        {"optimizer": "sgd", "optimizer.momentum": "0.9"},
        {"optimizer": "adamw"},
    ]


WHEN = {
    "optimizer=sgd": {"optimizer.lr": "interval(1e-2,1)", "optimizer.momentum": "0.9,0.95"},
    "optimizer=adamw,lion": {"optimizer.lr": "interval(1e-5,1e-2)"},
}


def test_each_choice_can_have_its_own_range() -> None:
    space = space_of(
        params={"optimizer": "sgd,adamw,adam", "optimizer.lr": "interval(1e-4,1e-1)"},
        when={**WHEN, "optimizer=adamw,lion": {}},
    )
    ends: dict[str, set[str]] = {}
    for values in space.corners():
        ends.setdefault(values["optimizer"], set()).add(values["optimizer.lr"])
        assert ("optimizer.momentum" in values) == (values["optimizer"] == "sgd")
    assert ends == {"sgd": {"0.01", "1.0"}, "adamw": {"0.0001", "0.1"}, "adam": {"0.0001", "0.1"}}


def test_a_fixed_option_resolves_conditions() -> None:
    space = space_of("optimizer=sgd", params={"optimizer": "sgd,adamw,lion"}, when=WHEN)
    assert space.describe() == ["optimizer.lr: log [0.01, 1]", "optimizer.momentum: 0.9, 0.95"]


def test_corners_cover_all_ends_and_combinations_of_options() -> None:
    space = space_of("optimizer=sgd,adamw", "schedule=linear,cosine", "optimizer.lr=interval(0.1,1)", "seed=1,2,3")
    corners = space.corners()
    assert {(values["optimizer"], values["schedule"]) for values in corners} == {
        (optimizer, schedule) for optimizer in ("sgd", "adamw") for schedule in ("linear", "cosine")
    }
    assert {values["optimizer.lr"] for values in corners} == {"0.1", "1.0"}
    assert {values["seed"] for values in corners} == {"1", "2", "3"}


def test_reports_all_problems_of_a_space() -> None:
    problems = problems_of(
        "optimizer.lr=interval(0,1)",
        "optimizer.momentum=interval(0.9,0.1)",
        "data.batch_size=tag(logg,interval(1,2))",
        "seed=tag(log,choice(1,2))",
        "optimizer.nesterov=tag(optimizer:sdg,choice(true,false))",
        "optimizer=sgd,adamw",
        params={"schedule.warmup": "interval(1"},
    )
    assert "above 0" in problems["optimizer.lr"]
    assert "LOW below HIGH" in problems["optimizer.momentum"]
    assert problems["data.batch_size"] == "there is no such tag"
    assert "interval" in problems["seed"]
    assert "never sdg" in problems["optimizer.nesterov"]
    assert problems["schedule.warmup"] == "cannot be parsed"


def test_rejects_a_condition_on_a_key_that_is_not_swept() -> None:
    problems = problems_of(
        params={"optimizer.lr": "0.1,0.2"}, when={"optimizer=sgd": {"optimizer.momentum": "0.8,0.9"}}
    )
    assert problems == {"optimizer.momentum": "has a condition on optimizer, which is not swept"}


def test_a_grid_rejects_intervals() -> None:
    with pytest.raises(ConfigError, match="a grid needs values"):
        space_of("optimizer.lr=interval(0.1,1)").grid()
