from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from lrflow.config import Config, compose, save_config
from lrflow.layers import Rule
from lrflow.schedules import Duration


def test_values_are_typed_attributes(default: Config) -> None:
    assert default.optimizer.lr == 3e-3
    assert default.optimizer.betas == (0.9, 0.999)
    assert default.trainer.max_epochs == 20
    assert default.trainer.checkpoint.every == Duration(1, "epochs")
    assert default.schedule.warmup == Duration(0.05, "fraction")
    assert default.model.target == "lrflow.models.MLP"


def test_a_node_holds_only_what_the_config_sets(default: Config) -> None:
    assert default.optimizer.node() == {
        "_target_": "torch.optim.AdamW",
        "lr": 3e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.05,
        "amsgrad": False,
        "fused": "auto",
    }
    assert default.schedule.node()["shape"] == {"_target_": "lrflow.schedules.Cosine", "k": 1.0}


def test_keys_that_lrflow_reads_are_passed_only_to_targets_that_name_them(default: Config) -> None:
    assert default.model.loss == "cross_entropy"
    assert "loss" not in default.model.node()
    assert default.data.node()["facts"]["examples"] == 1797
    assert "facts" in compose(["data=fashion_mnist"]).data.node()


def test_an_argument_that_no_option_mentions_is_passed_on() -> None:
    config = compose(["optimizer.maximize=true"])
    assert config.optimizer.node()["maximize"] is True


def test_a_config_records_its_choices_and_overrides(default: Config) -> None:
    config = compose(["optimizer=sgd", "+optimizer.lr=0.5", "seed=3"])
    assert config.choices["optimizer"] == "sgd"
    assert config.choices["recipe"] is None
    assert not any(group.startswith("hydra") for group in config.choices)
    assert config.overrides == ["optimizer=sgd", "optimizer.lr=0.5", "seed=3"]
    assert config.source.model.shape == default.source.model.shape
    assert config.run_folder is None


def test_a_run_without_a_name_is_named_by_its_options(default: Config) -> None:
    assert default.title == "mlp-digits-adamw-cosine"
    assert compose(["name=first"]).title == "first"


def test_a_config_is_immutable(default: Config) -> None:
    with pytest.raises(ValidationError):
        default.seed = 3  # type: ignore[misc]


def test_rules_and_objects_that_return_rules(default: Config) -> None:
    assert default.layers.compiled()[0] == Rule("no_decay", select=["bias", "norm", "vector"], weight_decay=0.0)
    maker = compose(["layers=layer_decay", "layers.decay=0.5"]).layers
    assert maker.node().items() >= {"_target_": "lrflow.layers.LayerDecay", "decay": 0.5, "no_decay": True}.items()


def test_a_recipe_overrides_groups_and_the_command_line_overrides_it() -> None:
    config = compose(["recipe=cnn", "optimizer.lr=0.3", "schedule=cosine"])
    assert config.choices | {"recipe": "cnn", "data": "fashion_mnist", "schedule": "cosine"} == config.choices
    assert config.optimizer.lr == 0.3
    assert config.trainer.max_epochs == 3


def test_pinned_replaces_a_run_by_its_folder_or_its_checkpoint(nowhere: Path) -> None:
    checkpoint = nowhere / "outputs" / "x" / "checkpoints" / "step-0000010.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    save_config(compose([]), nowhere / "outputs" / "x" / "config.yaml")
    relative = str(checkpoint.relative_to(nowhere))
    for typed in (["resume=last"], ["resume.from=outputs/x"], ["resume='outputs/x'"]):
        assert compose(typed, earlier=True).resume.source == "outputs/x"  # which of its checkpoints is whole: later
    assert compose([f"resume={relative}"], earlier=True).resume.source == relative
    for typed in (["task=evaluate"], ["task=evaluate", "task.from=outputs/x"]):
        assert compose(typed, earlier=True).task.source == relative


def test_a_folder_of_user_options(write) -> None:
    write("conf/optimizer/slow.yaml", "# Slow.\n_target_: torch.optim.SGD\nlr: 0.001\n")
    write("conf/recipe/mine.yaml", "# @package _global_\n# Mine.\ndefaults:\n  - override /optimizer: slow\nseed: 7\n")
    config = compose(["recipe=mine"], Path("conf"))
    assert (config.optimizer.lr, config.seed, config.choices["optimizer"]) == (0.001, 7, "slow")


def test_a_folder_with_special_characters(write) -> None:
    folder = write('my "odd" [conf], x/optimizer/slow.yaml', "_target_: torch.optim.SGD\nlr: 0.001\n").parent.parent
    assert compose(["optimizer=slow"], folder).optimizer.lr == 0.001
