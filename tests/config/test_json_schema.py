"""The JSON schema accepts every option, recipe and saved config, and refuses what lrflow refuses.

That it accepts whatever lrflow accepts is tested with the tables of `test_validation_inputs.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from schemas import against

from lrflow.cli import main
from lrflow.config.composition.option_files import read_option
from lrflow.config.composition.options import ACROSS_GROUPS, Catalogue, Option, definition_of, home
from lrflow.config.json_schema import json_schema
from lrflow.config.schemas.sweep import SWEEP_RECORD

CATALOGUE = Catalogue()
OLDER_RUNS = Path(__file__).parents[1] / "older_runs"


def group_of(option: Option) -> str:
    return "" if option.group in ACROSS_GROUPS else option.group


def test_every_option_recipe_and_saved_config_is_valid(schema_error: Callable[..., str]) -> None:
    wrong = {}
    for option in [*CATALOGUE.every(), Option("", "config", home("conf") / "config.yaml")]:
        wrong[option.path] = schema_error(read_option(option.path).content or None, group_of(option))
    for path in [
        *home("recipes").glob("*/fast.yaml"),
        *home("recipes").glob("*/of/*/*.yaml"),
        *OLDER_RUNS.rglob("config.yaml"),
    ]:
        wrong[path] = schema_error(read_option(path).content)
    for path in OLDER_RUNS.rglob("sweep.yaml"):
        wrong[path] = schema_error(read_option(path).content, SWEEP_RECORD)
    assert {path: error for path, error in wrong.items() if error} == {}
    assert len(wrong) > 150


WRONG = {
    # in a recipe
    "optimizer: {lrr: 0.1}": "lrr",
    "optimizer: {lr: -1}": "-1",
    "optimizer: {lr: '0.1'}": "'0.1'",
    "optimizer: {lr: 2000}": "2000",
    "optimizer: {_target_: torch.optim.SGD, betas: [0.9, 0.99]}": "betas",
    "optimizer: {_target_: torch.optim.AdamW, betas: [0.9]}": "0.9",
    "optimizer: {_target_: torch.optim.AdamW, foreach: 3}": "3",
    "optimizer: {_target_: torch.optim.LBFGS, lr: 1, line_search_fn: wolfe}": "wolfe",
    "optimizer: {routes: {muon: {_target_: lrflow.optimizers.Muon, ns_stps: 5}}}": "ns_stps",
    "schedule: {warmup: 5 epocs}": "5 epocs",
    "schedule: {warmup: -1}": "-1",
    "schedule: {warmup_shape: cosin}": "cosin",
    "schedule: {shape: {_target_: lrflow.schedules.Cosine, kk: 1}}": "kk",
    "schedule: {floor: 101}": "101",
    "layers: {rulse: []}": "rulse",
    "layers: {rules: [{name: head, mach: 'head.*'}]}": "mach",
    "layers: {rules: [{name: head, match: 'head.*', lr: 10y}]}": "10y",
    "layers: {_target_: lrflow.layers.LayerDecay, decai: 0.5}": "decai",
    "feedback: {_target_: lrflow.feedback.Plateau, factor: 2}": "2",
    "model: {_target_: lrflow.models.MLP, widths: wide}": "wide",
    "data: {batch_size: 0}": "0",
    "data: {_target_: lrflow.data.Digits, batchsize: 3}": "batchsize",
    "trainer: {max_epoch: 3}": "max_epoch",
    "trainer: {max_epochs: 1.5}": "1.5",
    "trainer: {max_time: 3 weeks}": "3 weeks",
    "trainer: {precision: 8}": "8",
    "trainer: {checkpoint: {evry: 5}}": "evry",
    "average: {kind: ema, decay: 1.5}": "1.5",
    "average: {kind: ewma}": "ewma",
    "find: {kind: stability, low: 1}": "low",
    "task: {name: predict, to: xls}": "xls",
    "logger: {wandb: {proj: x}}": "proj",
    "health: {nonfinite: {action: stopp}}": "stopp",
    "callbacks: {early_stopping: {_target_: lrflow.callbacks.EarlyStopping, patience: a while}}": "a while",
    "seed: -1": "-1",
    "optimzer: {lr: 1}": "optimzer",
    "defaults: [{override /optimizer: adamww}]": "adamww",
    "defaults: [{override /optimzer: adamw}]": "optimzer",
    "{defaults: [{override /hydra/sweeper: lrflow}], hydra: {sweeper: {n_trails: 3}}}": "n_trails",
    "optimizer: {defaults: [sgd]}": "defaults",
}


def test_what_is_wrong_in_a_recipe_is_refused(schema_error: Callable[..., str]) -> None:
    found = {text: schema_error(yaml.safe_load(text)) for text in WRONG}
    assert {text: error for text, error in found.items() if not error} == {}


@pytest.mark.parametrize(
    ("group", "text", "is_right"),
    [
        ("optimizer", "{defaults: [adamw], lr: 0.1}", True),
        ("optimizer", "{_target_: my_pkg.Mine, lr: 0.1, anything: 3}", True),
        ("optimizer", "{_target_: my_pkg.Mine, lr: big}", False),
        ("optimizer", "{defaults: [{override /schedule@_global_.schedule: linaer}]}", False),
        ("model", "{_target_: '???', width: 3}", True),
        ("trainer", "{defaults: [auto], max_epochs: '${oc.env:EPOCHS}'}", True),
        ("layers", "{rules: [{name: all, match: '*', lr: '${mine}x'}]}", True),
        ("feedback", "null", True),
    ],
)
def test_option_files(group: str, text: str, is_right: bool, schema_error: Callable[..., str]) -> None:
    assert (schema_error(yaml.safe_load(text), group) == "") is is_right


def test_a_projects_own_options_and_classes_are_in_its_schema(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    template = home("recipes") / "own_model"
    monkeypatch.syspath_prepend(template)
    assert main(["schema", "--config-dir", str(template / "options")]) == 0
    error_in = against(json.loads(capsys.readouterr().out))
    options = Catalogue([template / "options"]).every()
    own = [option for option in options if option.path.is_relative_to(template / "options")]
    assert len(own) > 4
    assert not [error for o in own if (error := error_in(read_option(o.path).content, group_of(o)))]
    recipe = {"defaults": [{"override /model": "net"}], "model": {"width": 32}}
    assert not error_in(recipe)
    assert "widht" in error_in({**recipe, "model": {"_target_": "my_project.net.Net", "widht": 32}})
    assert main(["schema", "--config-dir", "missing"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_editors_read_it() -> None:
    """Both are facts of the YAML language server 1.25: no enum is empty, and a fragment gets the root's other keys."""
    schema = json_schema(CATALOGUE)
    assert '"enum": []' not in json.dumps(schema)
    keys = schema.keys() - {"$schema", "definitions"}
    named = [definition_of(group) for group in CATALOGUE.groups if definition_of(group)] + [SWEEP_RECORD]
    assert [name for name in named if schema["definitions"][name].keys() != keys] == []


def test_texts_and_defaults_come_from_their_owners() -> None:
    definitions = json_schema(CATALOGUE)["definitions"]
    adamw: dict[str, Any] = definitions["torch.optim.AdamW"]["properties"]
    file = read_option(CATALOGUE.options("optimizer")["adamw"].path)
    assert adamw["weight_decay"]["description"] == file.comments["weight_decay",]
    assert adamw["weight_decay"]["default"] == file.content["weight_decay"]
    assert definitions["Trainer"]["properties"]["num_nodes"]["description"].startswith("Number of machines")
    assert "metric" in definitions["Callbacks"]["properties"]["early_stopping"]["description"]
    assert definitions["lrflow.data.Images"]["properties"]["folds"]["description"]
    without = [
        f"{target}.{name}"
        for target, form in definitions.items()
        if target.startswith(("lrflow.data.", "lrflow.schedules.", "lrflow.layers.", "lrflow.feedback."))
        for name, each in form["properties"].items()
        if name not in ("_target_", "_partial_", "_args_", "defaults") and "description" not in each
    ]
    assert without == []
