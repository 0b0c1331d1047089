"""Whatever is typed or written into a file, the answer is a config that can be saved, or problems; never a crash.

`LRFLOW_FUZZ=100` tries a hundred times as many examples.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import LEAVES, PHASES, broken_bytes, broken_trees, examples, trees
from omegaconf import OmegaConf

from lrflow.cli.errors import show_problems
from lrflow.config import compose, load_config, save_config, validate
from lrflow.config.composition.compose import options_composed_once
from lrflow.config.composition.interpolation import leaves
from lrflow.config.composition.options import GROUPS, Catalogue
from lrflow.errors import ConfigError

DEFAULT: Any = OmegaConf.to_container(compose().source)
KEYS = [key for key, _ in leaves(DEFAULT)]
NAMES = sorted({part for key in KEYS for part in key.split(".")} | {"_target_", "defaults", "x", "hydra", "lrflow"})
CHOICES = [f"{group}={name}" for group in GROUPS for name in Catalogue().options(group)]
RECIPE: Any = {
    "defaults": [{"override /optimizer": "sgd"}, {"override /schedule": "step"}, "_self_"],
    "optimizer": {"lr": 0.1, "momentum": 0.9},
    "schedule": {"warmup": "10%", "shape": {"every": "30%", "gamma": 0.5}},
    "trainer": {"max_epochs": 3, "checkpoint": {"monitor": "val/loss"}},
    "layers": {"rules": [{"name": "head", "match": "head.*", "lr": "10x"}, {"name": "rest", "match": "*"}]},
    "name": "fuzz",
    "seed": 3,
}
OPTION: Any = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": "${seed}", "defaults": ["sgd"]}
ROOM = settings(max_examples=1, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _nowhere(nowhere: Path) -> None:
    """An empty working directory."""


@pytest.fixture
def once() -> Iterator[None]:
    """Options are read once, for tests that change no file."""
    with options_composed_once():
        yield


def tried(overrides: Sequence[str], config_dir: Path | None = None, earlier: bool = False) -> None:
    """Composes a config; it can be saved and read again, or its problems can be shown."""
    try:
        config = compose(overrides, config_dir, earlier)
        with tempfile.TemporaryDirectory() as folder:
            save_config(config, Path(folder) / "config.yaml")
            saved = load_config(Path(folder) / "config.yaml")
        validate(saved)
    except ConfigError as error:
        shown(error)


def dumped(tree: Any) -> bytes:
    """YAML of a tree; libyaml's writer is fast, but it writes no half of a character."""
    try:
        return yaml.dump(tree, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)).encode()
    except UnicodeEncodeError:
        return yaml.dump(tree).encode(errors="surrogatepass")


def shown(error: ConfigError) -> None:
    said = io.StringIO()
    with redirect_stderr(said):
        show_problems(error)
    assert error.problems
    assert all(problem.message and str(problem) for problem in error.problems)
    said.getvalue().encode()


texts = st.one_of(
    LEAVES.map(lambda value: str(value) if not isinstance(value, int) or abs(value) < 10**4000 else "1"),
    trees(["lr", "_target_", "x"]).map(lambda tree: str(tree).replace("'", "")),
    st.text("[]{}(),:'\"\\$ab1.=@~+*% \n", max_size=14),
    st.sampled_from(["9" * 5000, "[" * 90 + "]" * 90, "{a:" * 60 + "1" + "}" * 60, "${" * 30 + "}" * 30, "1,2",
                     "glob(*)", "interval(0,1)", "range(1,3)", "choice(1,2)", "sort(2,1)", "int(a)", "shuffle([1,2])"]),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(GROUPS),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(".".join),
    st.text("abz.[]0_@/:+~ é", max_size=8),
)
overrides = st.one_of(
    st.builds(lambda sign, key, text: f"{sign}{key}={text}", st.sampled_from(["", "", "+", "++", "~"]), keys, texts),
    st.builds(lambda key: f"~{key}", keys),
    st.sampled_from(CHOICES),
    st.builds(lambda group, text: f"{group}={text}", st.sampled_from(GROUPS), st.text(max_size=6)),
)


@settings(ROOM, max_examples=examples(8))
@given(typed=st.lists(overrides, min_size=1, max_size=4))
def test_any_overrides(once: None, typed: list[str]) -> None:
    tried([text for text in typed if not text.lstrip("+~").startswith(("resume", "task=evaluate"))])


@settings(ROOM, max_examples=examples(20))
@given(tree=broken_trees(DEFAULT, NAMES))
def test_any_tree_is_a_config_or_has_problems(tree: Any) -> None:
    Path("config.yaml").write_bytes(dumped(tree))
    try:
        validate(load_config(Path("config.yaml")))
    except ConfigError as error:
        shown(error)


HEADER = b"# @package _global_\n"
FORMS = {
    "a header without a value": ("recipe", "# @package", "# @package: expected a key and its value"),
    "a header with two values": ("recipe", "# @package a b", "# @package a b: expected a key and its value"),
    "a key that is no text": ("optimizer", "_target_: torch.optim.SGD\nlr: 1\nfalse: {}", "optimizer"),
    "an argument that is no text": (
        "model",
        "_target_: lrflow.models.MLP\nnorm: {_target_: torch.nn.Linear, in_features: 1, out_features: 1, 3: 4}",
        "model.norm.3 = 4: the name of an argument is text",
    ),
    "a group that is no text": ("recipe", "# @package _global_\n3: 4", "3 = 4: there is no such group or key"),
}
LISTS = {
    "a mapping": "defaults: {optimizer: sgd}",
    "nothing": "defaults:",
    "a number": "defaults: [3]",
    "two groups in one": "defaults: [{optimizer: sgd, schedule: step}]",
    "no group": "defaults: [{}]",
    "options that are no texts": "defaults: [{override /optimizer: [sgd, false]}]",
    "a group that is no text": "defaults: [{3: sgd}]",
    "half of a character": 'defaults: [{override /optimizer: ["\\ud800", false]}]',
}


@pytest.mark.parametrize(("group", "text", "said"), FORMS.values(), ids=FORMS)
def test_files_of_a_form_that_hydra_or_lrflow_cannot_take(group: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _composed(f"{group}/fuzz.yaml", text.encode())
    assert any(str(problem).startswith(said) for problem in caught.value.problems), str(caught.value)


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_a_list_of_defaults_that_hydra_cannot_take(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _composed("recipe/fuzz.yaml", HEADER + text.encode())
    (problem,) = caught.value.problems
    assert (problem.where or "").startswith("options/recipe/fuzz.yaml")


def _composed(name: str, content: bytes) -> None:
    path = Path("options", name)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    compose([f"{path.parent.name}={path.stem}"], Path("options"))


def _in_folder(name: str, content: bytes, typed: Sequence[str]) -> None:
    folder = Path("options")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(content)
    tried(typed, folder)


@settings(ROOM, max_examples=examples(3))
@given(tree=broken_trees(RECIPE, NAMES), header=st.sampled_from([HEADER, HEADER, b""]))
def test_any_recipe(tree: Any, header: bytes) -> None:
    _in_folder("recipe/fuzz.yaml", header + dumped(tree), ["recipe=fuzz"])


@settings(ROOM, max_examples=examples(2))
@given(content=broken_bytes(HEADER + yaml.safe_dump(RECIPE).encode()))
def test_any_bytes_of_a_recipe(content: bytes) -> None:
    _in_folder("recipe/fuzz.yaml", content, ["recipe=fuzz"])


@settings(ROOM, max_examples=examples(2))
@given(tree=broken_trees(OPTION, NAMES))
def test_any_option(tree: Any) -> None:
    _in_folder("optimizer/fuzz.yaml", dumped(tree), ["optimizer=fuzz"])


SAVED = [["resume=run"], ["task=evaluate", "task.from=run"], ["resume=run", "optimizer=sgd", "~name", "seed=3"]]


def _of_a_run(content: bytes, typed: Sequence[str]) -> None:
    Path("run/checkpoints").mkdir(parents=True, exist_ok=True)
    Path("run/checkpoints/step-0000001.ckpt").touch()
    Path("run/config.yaml").write_bytes(content)
    tried(typed, earlier=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    save_config(compose(["optimizer.lr=0.1", "fast=true", "name=run-${seed}"]), path)
    return path.read_bytes()


@settings(ROOM, max_examples=examples(2))
@given(data=st.data(), typed=st.sampled_from(SAVED))
def test_any_bytes_of_a_saved_config(saved: bytes, data: st.DataObject, typed: list[str]) -> None:
    _of_a_run(data.draw(broken_bytes(saved)), typed)


@settings(ROOM, max_examples=examples(2))
@given(data=st.data(), typed=st.sampled_from(SAVED))
def test_any_tree_of_a_saved_config(saved: bytes, data: st.DataObject, typed: list[str]) -> None:
    tree = data.draw(broken_trees(yaml.safe_load(saved), [*NAMES, "overrides", "choices", "metrics", "run_folder"]))
    _of_a_run(dumped(tree), typed)
