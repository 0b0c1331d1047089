"""Problems of values that came from a file name the file and the line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lrflow.config import compose
from lrflow.config.origins import as_yaml, line_of, split_key

RECIPE = """# @package _global_
# Mine.
defaults:
  - override /optimizer: own
trainer:
  max_epochs: 0
  max_epoch: 2
layers:
  rules:
    - {name: head, match: "head.*"}
    - name: rest
      match: "*"
      lr_mul: 3
"""
OPTION = """# Own.
_target_: torch.optim.AdamW

lr: fast
"""


def test_file_and_line(write, problems_of) -> None:
    write("conf/recipe/mine.yaml", RECIPE)
    write("conf/optimizer/own.yaml", OPTION)
    found = {problem.key: problem.where for problem in problems_of(["recipe=mine"], Path("conf"))}
    assert found == {
        "trainer.max_epochs": "conf/recipe/mine.yaml:6",
        "trainer.max_epoch": "conf/recipe/mine.yaml:7",
        "layers.rules[1].lr_mul": "conf/recipe/mine.yaml:13",
        "optimizer.lr": "conf/optimizer/own.yaml:4",
    }


def test_the_command_line_overrides_the_file(write, problems_of) -> None:
    write("conf/optimizer/own.yaml", OPTION)
    (problem,) = problems_of(["optimizer=own", "optimizer.lr=-1"], Path("conf"))
    assert problem.where is None


def test_a_later_file_overrides(write, problems_of) -> None:
    write("conf/optimizer/own.yaml", OPTION)
    write(
        "conf/recipe/mine.yaml", "# @package _global_\ndefaults:\n  - override /optimizer: own\noptimizer: {lr: no}\n"
    )
    (problem,) = problems_of(["recipe=mine"], Path("conf"))
    assert problem.where == "conf/recipe/mine.yaml:4"


def test_a_missing_key_is_located_at_its_parent(write, problems_of) -> None:
    write("conf/model/own.yaml", "# Own.\nhidden: 3\n")
    found = {problem.key: problem.where for problem in problems_of(["model=own"], Path("conf"))}
    assert found == {"model._target_": "conf/model/own.yaml:1"}


@pytest.mark.parametrize("text", ["a: [1\nb: 2\n", "a: 1\n b: 2\n", "a: 1\na: 2\n", "\ta: 1\n"])
def test_broken_yaml(write, problems_of, text: str) -> None:
    write("conf/optimizer/own.yaml", f"# Own.\n{text}")
    (problem,) = problems_of(["optimizer=own"], Path("conf"))
    assert problem.key == "YAML"
    file, _, line = str(problem.where).partition(":")
    assert file == "conf/optimizer/own.yaml"
    assert int(line) in (2, 3, 4)


def test_an_unknown_option_in_a_recipe(write, problems_of) -> None:
    write("conf/recipe/mine.yaml", "# @package _global_\ndefaults:\n  - override /optimizer: adamww\n")
    (problem,) = problems_of(["recipe=mine"], Path("conf"))
    assert (problem.key, problem.value, problem.hint) == ("optimizer", "adamww", "did you mean adamw?")


@pytest.mark.parametrize(
    ("line", "key", "hint"),
    [
        ("override /optimiser: rmsprop", "optimiser", "did you mean override /optimizer?"),
        ("override optimizer: sgd", "optimizer", "did you mean override /optimizer?"),
        ("override /zzz: sgd", "zzz", "the groups are task, optimizer"),
        ("override /mine: one", "mine", "write /mine without override"),
    ],
)
def test_a_recipe_that_overrides_an_unknown_group(write, problems_of, line: str, key: str, hint: str) -> None:
    write("conf/mine/one.yaml", "a: 1\n")
    write("conf/recipe/mine.yaml", f"# @package _global_\n\ndefaults:\n  - override /data: digits\n  - {line}\n")
    (problem,) = problems_of(["recipe=mine"], Path("conf"))
    assert (problem.key, problem.where) == (key, "conf/recipe/mine.yaml:5")
    assert hint in str(problem.hint)


@pytest.mark.parametrize("text", ["seed: 3\n", "defaults:\n  - override /model: cnn\nseed: 3\n"])
def test_a_recipe_without_the_package_line(write, problems_of, text: str) -> None:
    write("conf/recipe/mine.yaml", text)
    (problem,) = problems_of(["recipe=mine"], Path("conf"))
    assert "# @package _global_" in str(problem.hint)


def test_a_missing_folder_is_an_error(problems_of) -> None:
    (problem,) = problems_of([], Path("nowhere"))
    assert problem.key == "--config-dir"


def test_split_key() -> None:
    assert split_key("layers.rules[2].lr") == ["layers", "rules", 2, "lr"]
    assert split_key("") == []


def test_line_of(write) -> None:
    path = write("x.yaml", "a:\n  b:\n    - c: 1\n    - d: 2\n")
    assert [line_of(key, path) for key in ("a", "a.b", "a.b[1].d", "a.x", "")] == [1, 2, 4, None, 1]
    assert line_of("a.b[0].x", path, nearest=True) == 3


def test_an_option_with_the_name_of_lrflows_own_is_an_error(nowhere: Path, problems_of: Callable[..., list]) -> None:
    (nowhere / "mine/optimizer").mkdir(parents=True)
    (nowhere / "mine/optimizer/adamw.yaml").write_text("_target_: torch.optim.AdamW\nlr: 1.0\n")
    (problem,) = problems_of([], Path("mine"))
    assert problem.key == "mine/optimizer/adamw.yaml"
    assert "another name" in str(problem.hint)


def test_an_account_that_a_file_gives_is_told(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    text = "# @package _global_\ndefaults: [{override /logger: wandb}]\nlogger: {wandb: {entity: them, project: x}}\n"
    (tmp_path / "recipe/mine.yaml").write_text(text)
    (doubt,) = compose(["recipe=mine"], tmp_path).doubts
    assert doubt.startswith(f"{tmp_path}/recipe/mine.yaml:3 sends the metrics to the account logger.wandb.entity=them")
    assert not compose(["recipe=mine", "logger.wandb.entity=me"], tmp_path).doubts


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1e-3", "on", "~", "0x1"])
)
CONTENT = st.dictionaries(
    st.text(), st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
)


@given(CONTENT)
def test_what_is_written_as_yaml_is_read_back_by_omegaconf(content: dict[str, object]) -> None:
    assert repr(OmegaConf.to_container(OmegaConf.create(as_yaml(content)))) == repr(content)
