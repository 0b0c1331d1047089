from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from lrflow.config import compose, save_config
from lrflow.config.composition.literal import literal_paths
from lrflow.config.composition.overrides import expand
from lrflow.errors import LrflowError
from lrflow.reports.run_facts import command_again, environment, own_settings
from lrflow.reports.runs import Run
from lrflow.runs import RunFolder


def test_the_command_is_quoted_for_the_shell(run_folder: Callable[..., Path]) -> None:
    odd = ["name='my run, 2'", "data.file=$HOME/a b.csv", "optimizer.lr=${oc.env:LR}", 'model.note="it\'s"', "+a=*"]
    folder = run_folder(overrides=["resume.from=last", "hydra.verbose=true", "trial.number=3", "++seed=3", *odd])
    command = ["python", "-m", "lrflow", "-m", "--config-dir", "my options", "trust=mine", "optimizer.lr=1,2"]
    (folder / "environment.json").write_text(json.dumps({"command": command}))
    again = command_again(Run(folder))
    flags = ["--config-dir", "my options", "trust=mine"]
    assert shlex.split(again) == ["python", "-m", "lrflow", *flags, "seed=3", *odd]
    assert "--config-dir=x" in _again(folder, ["lrflow", "--config-dir=x"])
    assert "-cd x" in _again(folder, ["lrflow", "-cd", "x"])


def test_arithmetic_stands_in_the_command_as_it_is_typed(run_folder: Callable[..., Path]) -> None:
    typed = ["optimizer.lr=${calc:5e-4 * 1024 / 256}", "optimizer.betas=[${calc:1 - 0.1},0.95]"]
    folder = run_folder(overrides=[one.text for one in literal_paths(expand(typed))])
    again = command_again(Run(folder))
    assert shlex.split(again) == ["python", "-m", "lrflow", typed[0], "optimizer.betas=['${calc:1 - 0.1}',0.95]"]
    assert "'\"'\"'" not in again.partition("betas")[0]


def _again(folder: Path, command: list[str]) -> str:
    (folder / "environment.json").write_text(json.dumps({"command": command}))
    return command_again(Run(folder))


def test_settings_are_options_and_values_that_differ_from_theirs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    typed = ["recipe=cnn", "optimizer=sgd", "optimizer.lr=0.5", "name=mine", "layers=layer_decay"]
    save_config(compose(typed), folder.config)
    rows = {key: (value, default) for key, value, default in own_settings(Run(tmp_path))}
    assert rows["recipe"] == ("cnn", "-")
    assert rows["optimizer"] == ("sgd", "adamw")
    assert rows["optimizer.lr"] == ("0.5", "0.1")
    assert rows["layers"] == ("layer_decay", "no_decay")
    assert not {"name", "seed", "output", "layers.decay"} & rows.keys()
    save_config(compose([]), folder.config)
    assert own_settings(Run(tmp_path)) == []
    folder.config.write_text("optimizer: 3\n")
    with pytest.raises(LrflowError):
        own_settings(Run(tmp_path))


def test_the_environment_is_what_is_known(run_folder: Callable[..., Path]) -> None:
    folder = run_folder()
    git = {"commit": "abc", "branch": "mine", "changed": True}
    (folder / "environment.json").write_text(
        json.dumps({"host": "h", "git": git, "versions": {"torch": "2", "x": None}})
    )
    assert environment(Run(folder)) == [
        ("host", "h"),
        ("commit", "abc, branch mine, with changes that are not committed"),
        ("packages", "torch 2"),
    ]
    (folder / "environment.json").write_text(json.dumps({"git": None, "versions": []}))
    assert environment(Run(folder)) == []
