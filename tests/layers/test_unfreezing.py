from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from torch import nn

from lrflow.layers import GradualUnfreezing, LayerDecay, Rule, merge, resolve
from lrflow.models import MLP, ResNet
from lrflow.schedules import Constant, Cosine, Duration, Horizon, Schedule, Unfreezing


class Staged(nn.Module):
    """The names of a pretrained backbone: a stem, stages of blocks, a norm, and a new classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.layer1 = nn.Sequential(Block(), Block())
        self.layer2 = nn.Sequential(Block(), Block())
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)


class Language(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 8) for _ in range(depth))
        self.norm = nn.LayerNorm(4)
        self.classifier = nn.Linear(4, 2)


def starts(model: nn.Module, horizon: Horizon, **settings: object) -> dict[str, tuple[int, float]]:
    """Return for each group its first step and its LR factor."""
    groups = resolve(model, GradualUnfreezing(**{"no_decay": False, **settings}).rules(model), lr=1.0)  # type: ignore[arg-type]
    return {group.name: (group.curve(Schedule(Constant())).first_step(horizon), group.scale) for group in groups}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (MLP([1, 8, 8], 10, widths=[8, 8]), {"stage1.linear": 20, "stage2.linear": 10, "head": 0}),
        (
            ResNet([1, 8, 8], 10, width=2, blocks=[1, 2]),
            {"stem": 40, "stage1.0": 30, "stage2.0": 20, "stage2.1": 10, "head": 0},
        ),
        (
            Staged(),
            {"stem.0": 50, "layer1.0": 40, "layer1.1": 30, "layer2.0": 20, "layer2.1": 10, "fc": 0},
        ),
        (Language(), {"embed": 40, "blocks.0": 30, "blocks.1": 20, "blocks.2": 10, "classifier": 0}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_head_trains_at_once_and_each_layer_below_an_epoch_later(
    model: nn.Module, expected: dict[str, int]
) -> None:
    found = starts(model, Horizon(100, 10))
    assert {name: start for name, (start, _) in found.items()} == expected
    scales = [scale for _, scale in found.values()]
    assert scales[-1] == 1.0
    assert all(above / below == pytest.approx(2.6) for below, above in pairwise(scales))


def test_its_lrs_are_those_of_layer_decay() -> None:
    model = Language()
    decayed = LayerDecay(1 / 2.6, min_scale=0.1).rules(model)
    gradual = GradualUnfreezing(min_scale=0.1).rules(model)
    assert [(rule.name, rule.weight_decay, rule.depth) for rule in gradual] == [
        (rule.name, rule.weight_decay, rule.depth) for rule in decayed
    ]
    assert [rule.scale(1.0) for rule in gradual] == pytest.approx([rule.scale(1.0) for rule in decayed])


def test_every_is_any_duration_and_adds_up_exactly() -> None:
    model, horizon = Language(), Horizon(1000, 100)
    assert [start for start, _ in starts(model, horizon, every="10%").values()] == [400, 300, 200, 100, 0]
    assert [start for start, _ in starts(model, horizon, every="0.5 epochs").values()] == [200, 150, 100, 50, 0]
    assert [start for start, _ in starts(model, horizon, every=7).values()] == [28, 21, 14, 7, 0]
    assert GradualUnfreezing(every="10%").rules(model)[2].unfreeze == Duration.parse("30%")


def test_unfreezing_settings_apply_to_all_layers_but_the_head() -> None:
    rules = {rule.name: rule for rule in GradualUnfreezing(warmup="5%", freeze_statistics=False).rules(Language())}
    assert rules["embed"].unfreeze_warmup == rules["blocks.2/no_decay"].unfreeze_warmup == Duration.parse("5%")
    assert rules["embed"].freeze_statistics is False
    assert (rules["classifier"].unfreeze, rules["classifier"].unfreeze_warmup) == (None, Duration.parse(0))


def test_layers_that_the_model_froze_are_skipped() -> None:
    model = Language()
    model.blocks[2].requires_grad_(False)
    model.norm.requires_grad_(False)
    assert starts(model, Horizon(100, 10)) == {
        "embed": (30, pytest.approx(2.6**-4)),
        "blocks.0": (20, pytest.approx(2.6**-3)),
        "blocks.1": (10, pytest.approx(2.6**-2)),
        "classifier": (0, 1.0),
        "frozen": (0, 0.0),
    }


def test_groups_that_are_unfrozen_at_different_times_are_not_merged() -> None:
    model = Language()
    groups = resolve(model, GradualUnfreezing(factor=1.0, no_decay=False).rules(model), lr=1.0)
    assert len(merge(groups)) == 5
    late = [Rule(name, match=f"{name}.*", unfreeze=5) for name in ("embed", "norm")]
    groups = resolve(model, [*late, Rule("rest", match="*")], lr=1.0)
    assert [[group.name for group in members] for members in merge(groups)] == [["embed", "norm"], ["rest"]]


def test_groups_that_are_unfrozen_together_but_rise_for_different_times_are_not_merged() -> None:
    rules = [
        Rule(name, match=f"{name}.*", unfreeze=5, unfreeze_warmup=warmup)
        for name, warmup in (("embed", 0), ("blocks", 3), ("norm", 3))
    ]
    groups = resolve(Language(), [*rules, Rule("rest", match="*")], lr=1.0)
    merged = [[group.name for group in members] for members in merge(groups)]
    assert merged == [["embed"], ["blocks", "norm"], ["rest"]]


def test_a_group_is_unfrozen_into_its_own_schedule() -> None:
    own, run = Schedule(Cosine()), Schedule(Constant())
    (group,) = resolve(nn.Linear(2, 2), [Rule("all", match="*", schedule=own, unfreeze=5, unfreeze_warmup=3)], lr=1.0)
    assert group.curve(run) == Unfreezing(own, 5, 3)
    (group,) = resolve(nn.Linear(2, 2), [Rule("all", match="*", unfreeze="50%")], lr=1.0)
    assert group.curve(run) == Unfreezing(run, "50%")
    (group,) = resolve(nn.Linear(2, 2), [Rule("all", match="*")], lr=1.0)
    assert group.curve(run) is run


def test_values_out_of_range(refused: Callable) -> None:
    assert list(refused(GradualUnfreezing, every="soon", factor=0.5, warmup=-1, min_scale=2)) == [
        "layers.every",
        "layers.warmup",
        "layers.factor",
        "layers.min_scale",
    ]
    assert "all layers would train from the start" in refused(GradualUnfreezing, every=0)["layers.every"]


def test_rules_that_contradict_themselves(refused: Callable) -> None:
    assert list(refused(Rule, "a", match="*", freeze=True, unfreeze=5)) == ["unfreeze"]
    assert list(refused(Rule, "a", match="*", unfreeze_warmup=5)) == ["unfreeze_warmup"]
    assert list(refused(Rule, "a", match="*", freeze_statistics=False)) == ["freeze_statistics"]
    assert list(refused(Rule, "a", match="*", unfreeze="later", unfreeze_warmup="5 minutes")) == [
        "unfreeze",
        "unfreeze_warmup",
    ]
    assert list(refused(Rule, "a", match="*", freeze="yes", freeze_statistics=1)) == ["freeze", "freeze_statistics"]
    assert Rule("a", match="*", freeze=True, freeze_statistics=False).freeze
