"""Every option and recipe that lrflow ships is sound, and says nothing that its targets do not take."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from shards import npy, write_tar

from lrflow.config import compose
from lrflow.config.checks import nodes
from lrflow.config.composition.options import GROUPS, Catalogue, Option, shipped_nodes
from lrflow.config.diagnostics import closest, names_of
from lrflow.config.origins import read_yaml
from lrflow.config.schemas import layers as layers_schema
from lrflow.config.schemas import run as run_schema
from lrflow.config.signatures import parameters_in_source
from lrflow.config.targets import CONTROLS, _parameters, check_arguments, locate
from lrflow.errors import ConfigError
from lrflow.layers import Rule

CATALOGUE = Catalogue()
OPTIONS = [option for group in GROUPS for option in CATALOGUE.options(group).values()]


def targets_in(path: Path) -> list[str]:
    """Every `_target_` that an option gives."""
    return re.findall(r"_target_: *([\w.]+)", path.read_text())


TARGETS = dict.fromkeys((o.group, target) for o in OPTIONS if o.group != "recipe" for target in targets_in(o.path))
NODES = [(group, target, [{*node} for node in shipped_nodes(group, target)]) for group, target in TARGETS]


def named(option: Option) -> str:
    return f"{option.group}={option.name}"


RUN_ELSEWHERE = ("schedule", "feedback", "optimizer", "layers", "scaling", "find", "recipe")
"""Groups whose every option is run: by the commands of docs/catalogue.md, and by recipes/test_fast.py."""


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.group not in RUN_ELSEWHERE], ids=named)
def test_every_option_can_be_chosen(option: Option, tmp_path: Path) -> None:
    (tmp_path / "run.ckpt").touch()
    for number in range(12):
        (tmp_path / "images" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "ab"[number % 2] / f"{number}.pgm").write_bytes(b"P5 1 1 255 x")
    (tmp_path / "table.csv").write_text("x,y\n" + "".join(f"{row},{row / 7}\n" for row in range(200)))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "text.txt").write_text("To be, or not to be. " * 1000)
    write_tar(
        tmp_path / "a.tar", [(f"{row}", {"npy": npy([row, 1.0]), "cls": b"01"[row % 2 :][:1]}) for row in range(9)]
    )
    own = {
        "task=evaluate": [f"task.from={tmp_path}/run.ckpt"],
        "task=forecast": ["task.from=[trunk,branch]"],
        "task=merge": [f"task.from={tmp_path}/run.ckpt"],
        "model=custom": ["model._target_=torch.nn.Flatten"],
        "logger=comet": ["task=export", f"task.from={tmp_path}/run.ckpt"],  # which logs nothing, so needs no package
        "logger=custom": ["logger.custom._target_=pytorch_lightning.loggers.CSVLogger"],
        "model=huggingface": [f"model.name={tmp_path}"],
        "data=table": [f"data.file={tmp_path}/table.csv", "data.target=y"],
        "model=transformer": ["data=text", f"data.file={tmp_path}/text.txt"],
        "data=text": [f"data.file={tmp_path}/text.txt", "model=transformer"],
        "data=huggingface": [f"data.name_or_path={tmp_path}/table.csv", "data.target=y", "data.batch_size=4"],
        "data=images": [f"data.root={tmp_path}/images", "data.cache=none", "data.batch_size=4"],
        "data=stream": [f"data.shards={tmp_path}/a.tar", "data.batch_size=4"],
        "data=custom": ["data._target_=lrflow.data.Digits", "model=custom", "model._target_=torch.nn.Flatten"],
    }
    config = compose([named(option), *own.get(named(option), [])])
    assert config.choices[option.group] == option.name


def test_every_option_has_a_one_line_summary() -> None:
    assert {named(option): option.summary for option in OPTIONS if not 10 < len(option.summary) < 100} == {}


def test_the_keys_of_an_option_bind_to_its_targets_signature() -> None:
    found = {}
    for group, target, options in NODES:
        extra, ignore = nodes.PASSED.get(group, ((), ()))
        for keys in options:
            if problems := check_arguments(target, dict.fromkeys(keys - set(CONTROLS)), group, extra, ignore):
                found[group, target] = problems
    assert found == {}


def test_signatures_read_from_source_are_correct() -> None:
    unsettled, different = set(), {}
    for _, target, _ in NODES:
        found, (expected, anything) = parameters_in_source(target), _parameters(locate(target))
        if found is None:
            unsettled.add(target.partition(".")[0])
            continue
        read = {name: one.default is one.empty for name, one in found.items()}
        if anything or read != {name: one.default is one.empty for name, one in expected.items()}:
            different[target] = (read, expected)
    assert different == {}
    assert unsettled <= {"lrflow", "pytorch_optimizer"}


@pytest.mark.parametrize("target", ["torch.optim.AdamW", "lrflow.models.MLP", "lrflow.data.Digits"])
def test_signatures_of_the_main_targets_are_read_from_source(target: str) -> None:
    assert parameters_in_source(target)


def test_no_other_argument_of_a_target_looks_like_a_typo() -> None:
    found = {}
    for _, target, options in NODES:
        known = {key for keys in options for key in keys}
        for argument in _parameters(locate(target))[0].keys() - known:
            if (suggested := closest(argument, known - set(CONTROLS))) is not None:
                found[target, argument] = suggested
    assert found == {}


def test_a_rule_has_the_keys_of_the_class_that_takes_it() -> None:
    assert set(names_of(layers_schema.Rule)) == {one.name for one in fields(Rule)} - {
        "depth",
        "parameters",
    }  # of makers


def test_options_of_trainer_set_only_keys_of_the_schema() -> None:
    known = {"defaults", *names_of(run_schema.Trainer)}
    said = {option.name: set(read_yaml(option.path)) - known for option in CATALOGUE.options("trainer").values()}
    assert {name: keys for name, keys in said.items() if keys} == {}


def test_the_default_trainer_sets_every_key_of_the_schema() -> None:
    said = read_yaml(CATALOGUE.options("trainer")["auto"].path)
    assert set(said) == set(names_of(run_schema.Trainer))
    assert set(said["checkpoint"]) == set(names_of(run_schema.Checkpoint))


@pytest.mark.parametrize("name", ["optimizer/adamw", "recipe/cnn", "recipe/resnet/cpu", "fast/on/cnn"])
def test_an_option_of_ones_own_cannot_have_the_name_of_a_shipped_one(name: str, tmp_path: Path) -> None:
    """The shipped one would be used instead, without a word."""
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / f"{name}.yaml").write_text("# @package _global_\nseed: 8\n")
    (tmp_path / "recipe" / "cnn").mkdir(parents=True, exist_ok=True)
    (tmp_path / "recipe" / "cnn" / "mine.yaml").write_text("# @package _global_\nseed: 8\n")
    with pytest.raises(ConfigError) as caught:
        Catalogue([tmp_path])
    assert [problem.key for problem in caught.value.problems] == [str(tmp_path / f"{name}.yaml")]


@pytest.mark.parametrize(
    ("data", "module", "name"),
    [
        ("table", "table.parts", "TableOptions"),
        ("images", "images.files", "ImageOptions"),
        ("text", "text.options", "TextOptions"),
        ("stream", "stream.files", "StreamOptions"),
        ("huggingface", "huggingface.source", "SetOptions"),
    ],
)
def test_the_check_of_data_and_their_module_have_the_defaults_of_the_option(data: str, module: str, name: str) -> None:
    node = read_yaml(CATALOGUE.options("data")[data].path)
    arguments = inspect.signature(locate(str(node["_target_"]))).parameters
    options = getattr(importlib.import_module(f"lrflow.data.{module}"), name)

    def plain(value: object) -> object:
        return tuple(value) if isinstance(value, list) else value or None if isinstance(value, dict | tuple) else value

    for field in fields(options):
        if field.default is not MISSING:
            assert plain(field.default) == plain(arguments[field.name].default), field.name
            assert str(node[field.name]).startswith("${") or plain(node[field.name]) == plain(field.default), field.name
