"""`layers=mup` and `scaling` in a run: the groups, the weights at the start, what is told, and exact resumption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.assemble import build_groups, build_module, make_optimizer
from lrflow.config import compose
from lrflow.config.composition.options import Catalogue
from lrflow.config.origins import read_yaml
from lrflow.errors import ConfigError
from lrflow.optimizers.traits import traits_named
from lrflow.plan import Plan
from lrflow.runs import newest_checkpoint
from lrflow.tasks import train
from lrflow.training import planned_module

MUP = ["model.widths=[64,64]", "layers=mup", "layers.base={widths: [16, 16]}"]


@pytest.fixture
def refused() -> Callable[..., dict[str, str]]:
    """Builds the groups of what must be refused, and gives the problems: key -> the whole text."""

    def build(*overrides: str) -> dict[str, str]:
        config = compose(overrides)
        with pytest.raises(ConfigError) as caught:
            build_groups(config, build_module(config))
        return {problem.key: str(problem) for problem in caught.value.problems}

    return build


def test_groups_of_adamw() -> None:
    config = compose([*MUP, "optimizer.lr=0.01", "optimizer.weight_decay=0.1"])
    groups = build_groups(config, build_module(config))
    assert [(group.name, group.lr, group.weight_decay) for group in groups] == [
        ("input", 0.01, 0.1),
        ("vector/no_decay", 0.01, 0.0),
        ("hidden", 0.0025, 0.4),
        ("output", 0.0025, 0.4),
        ("fixed/no_decay", 0.01, 0.0),
    ]
    optimizer = make_optimizer(config, groups, torch.device("cpu"))
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.0025}


def test_eps_of_every_option_follows_the_width() -> None:
    wrong = []
    for name in Catalogue().options("optimizer"):
        node = read_yaml(Catalogue().options("optimizer")[name].path)
        if "routes" in node or traits_named(node["_target_"]).mup != "adam":
            continue
        config = compose([*MUP, f"optimizer={name}", "optimizer.lr=0.01"])
        module = build_module(config)
        groups = {group.name: group for group in build_groups(config, module)}
        optimizer = make_optimizer(config, list(groups.values()), torch.device("cpu"))
        eps = optimizer.defaults.get("eps")
        expected = {"input": eps and eps / 4, "hidden": eps and eps / 4, "output": eps}
        found = {m: one.get("eps") for one in optimizer.param_groups for m in one["members"] if m in expected}
        wrong += [] if found == expected else [(name, found, expected)]
    assert not wrong


def test_an_older_run_keeps_its_eps_and_sgd_has_none() -> None:
    for words in (["~layers.scale_eps"], ["layers.scale_eps=false"], ["optimizer=sgd"]):
        config = compose([*MUP, *words])
        assert not any(group.settings for group in build_groups(config, build_module(config)))


def test_hidden_matrices_go_to_muon() -> None:
    config = compose([*MUP, "optimizer=muon", "optimizer.routes.muon.weight_decay=0.1"])
    groups = build_groups(config, build_module(config))
    assert [(group.name, group.route, group.lr, group.weight_decay) for group in groups] == [
        ("input", None, 0.003, 0.05),
        ("vector/no_decay", None, 0.003, 0.0),
        ("hidden", "muon", 0.02, 0.1),
        ("output", None, 0.00075, 0.2),
        ("fixed/no_decay", None, 0.003, 0.0),
    ]
    config = compose([*MUP, "optimizer=muon", "optimizer.routes.muon.adjust_lr_fn=match_rms_adamw"])
    hidden = next(group for group in build_groups(config, build_module(config)) if group.route)
    assert hidden.lr == pytest.approx(0.02 / 2)  # that factor grows as the root of the width


def test_the_weight_decay_that_an_optimizer_has_by_itself_is_kept_in_proportion_too() -> None:
    config = compose([*MUP, "~optimizer.weight_decay"])
    groups = {group.name: group for group in build_groups(config, build_module(config))}
    assert (groups["hidden"].weight_decay, groups["vector/no_decay"].weight_decay) == (0.04, 0.0)  # torch: 0.01


def test_only_the_readout_starts_otherwise_and_nothing_random_moves() -> None:
    config, plain = compose(MUP), compose([MUP[0]])
    torch.manual_seed(0)
    expected = build_module(plain)
    build_groups(plain, expected)
    drawn = torch.rand(4)
    torch.manual_seed(0)
    module = build_module(config)
    build_groups(config, module)
    assert torch.equal(torch.rand(4), drawn)
    found, weights = planned_module(module).state_dict(), planned_module(expected).state_dict()
    assert [name for name in weights if not torch.equal(found[name], weights[name])] == ["head.weight"]
    assert not found["head.weight"].any()


@pytest.mark.parametrize(
    ("overrides", "key", "told"),
    [
        (["layers.base={widths: [0, 4]}"], "layers.base.widths", "whole numbers above 0"),
        (["layers.base={widths: [4]}"], "layers.base", "with other parameters"),
        (["layers.base={dropout: 0.3}"], "layers.base", "nothing in the model grows"),
        (
            ["model=resnet", "layers.base={blocks: [1, 1, 1]}"],
            "layers.base",
            "stage3 has 2 blocks, 1 in the base, and lrflow.models.ResNet takes no residual_multiplier",
        ),
        (["layers.base={widths: [4, 4]}", "layers.wider={widths: [8]}"], "layers.wider", "with other parameters"),
        (["layers.base={widths: [4, 4]}", "layers.wider={widths: [x, y]}"], "layers.wider.widths", "whole numbers"),
        (["layers.base={widths: [4, 4]}", "layers.readout=one"], "layers.readout", "zero, keep"),
        (["layers.base={widths: [4, 4]}", "layers.roles={hed: input}"], "layers.roles.hed", "matches no parameter"),
    ],
)
def test_models_without_known_widths_are_reported(refused: Callable, overrides: list[str], key: str, told: str) -> None:
    assert told in refused("layers=mup", *overrides)[key]


def test_what_is_told_before_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    config = compose([*MUP, "scaling=linear", "scaling.reference=16"])
    told: list[Any] = []
    build_groups(config, build_module(config), 2, told.append)
    table, *lines = told
    assert [str(cell) for cell in table.columns[2]._cells][-2:] == ["output", "fixed"]
    assert lines[0].startswith("head.weight: starts at zero")
    assert lines[-1].startswith(
        "peak LR 0.003 x 8 = 0.024: linear scaling, batch 128 (64 x 2 devices) over reference 16"
    )


def test_the_batch_scales_every_peak_and_keeps_ratios() -> None:
    absolute, relative = "{name: first, match: 'stage1.*', lr: 1e-3}", "{name: head, match: 'head.*', lr: 10x}"
    asked = ["optimizer=sgd", f"layers.rules=[{absolute}, {relative}, {{name: rest, match: '*'}}]"]
    before, after = compose(asked), compose([*asked, "scaling=linear", "scaling.reference=128"])
    found, plain = ({group.name: group for group in build_groups(c, build_module(c))} for c in (after, before))
    assert {name: group.lr for name, group in found.items()} == {"first": 0.0005, "head": 0.5, "rest": 0.05}
    assert {name: group.scale for name, group in found.items()} == {name: group.scale for name, group in plain.items()}
    assert {name: group.weight_decay for name, group in found.items()} == dict.fromkeys(found, 5e-4)


def test_the_peak_is_told_above_the_plan_and_recorded(lrflow: Callable, tmp_path: Path) -> None:
    ran = lrflow("task=plan", "optimizer=sgd", "scaling=sqrt", "scaling.reference=16")
    assert ran.returncode == 0, ran.stderr
    first, head, *_ = ran.stdout.splitlines()
    assert first == "peak LR 0.1 x 2 = 0.2: sqrt scaling, batch 64 over reference 16"
    assert head.startswith("Plan")
    (record,) = tmp_path.glob("outputs/*/plan.json")
    written = json.loads(record.read_text())
    told = {"rule": "sqrt", "batch": 64, "reference": 16, "parts": "", "factor": 2.0}
    assert (written["scaling"], written["groups"][0]["lr"], written["groups"][0]["scale"]) == (told, 0.2, 1.0)
    assert Plan.from_dict(written).fingerprint == written["fingerprint"]
    assert "0.2" in ran.stdout.splitlines()[6]


def test_a_run_with_both_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    both = [*MUP, "scaling=linear", "scaling.reference=32", "trainer.max_epochs=3", "trainer.checkpoint.keep=null"]
    quick = ["task.test=false", "trainer.progress=false"]
    whole = Path(train.run(compose([*both, *quick, "name=whole"]))["folder"])
    assert "peak LR 0.003 x 2 = 0.006: linear scaling, batch 64 over reference 32" in capsys.readouterr().out
    early = sorted((whole / "checkpoints").glob("step-*.ckpt"))[0]
    resumed = Path(train.run(compose([*both, *quick, "name=resumed", f"resume.from={early}"]))["folder"])
    assert resumed != whole
    ends = [torch.load(str(newest_checkpoint(folder)), weights_only=True) for folder in (whole, resumed)]
    assert ends[0]["state_dict"].keys() == ends[1]["state_dict"].keys()
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name
    assert ends[0]["state_dict"]["model.head.weight"].any()
