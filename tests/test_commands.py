"""Every command of the README, the docs and the recipes' READMEs is run, in a short form where it would take long."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lrflow.cli import main
from lrflow.cli.subcommands import SUBCOMMANDS
from lrflow.config import Config
from lrflow.config.composition.options import home, recipes

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:    |\$ )?((?:python -m lrflow|torchrun)\b(?:.*\\\n)*.*)$", re.MULTILINE)
FILE = re.compile(r"^# ((?:options|my_pkg|theirs)/\S+?\.(?:yaml|yml|py|sh))\b", re.MULTILINE)

HARDWARE = (
    "torchrun",
    "trainer=gpu",
    "trainer=ddp",
    "trainer=multi_node",
    "hydra/launcher=submitit",
    "resnet/airbench",
)
"""Words of commands for devices and schedulers that a machine may not have: these commands are only checked."""
DATA = (
    "fashion_mnist",
    "recipe=cnn",
    "recipe=federated",
    "recipe=gan",
    "recipe=resnet",
    "finetune_",
    "-v5",
    "resume.horizon=branch",
    "task=merge",
    "task=forecast",
)
"""Words of commands whose data are fetched, or that go on with a run of a given length: these are only checked."""
RUN_ELSEWHERE = re.compile(r"(recipe=[\w/]+|optimizer=\w+)")
"""Commands that recipes/test_fast.py and optimizers/test_options.py run: these are only checked."""
SHIPPED = recipes()
FAILS = ("optimizer=momentum optimizer.lr=1000", "data.illness=nonfinite")
"""Words of commands that fail in their short form too (a smoke run ends before the bad shard of data)."""

TRAINED = ("pruner", "sweep=", "folds", "launcher")
"""Words of sweeps whose jobs are trained: those of other sweeps end at once, as the options are trained elsewhere."""

ENVIRONMENT = """
import gymnasium

gymnasium.register("Mine-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=50)
"""
"""The environment of one's own that recipes of reinforcement learning speak of."""


def commands() -> list[str]:
    """Every command, in one line and without its comment; each once."""
    found: dict[str, None] = {}
    for path in DOCUMENTS:
        for text in COMMAND.findall(path.read_text()):
            words = shlex.split(text.replace("\\\n", " ").partition(" > ")[0], comments=True)
            found[shlex.join(words[words.index("lrflow") + 1 :])] = None
    return sorted(found)


def short(words: list[str]) -> list[str]:
    """A command that ends within a second: a smoke run, few sweeps of few steps, two jobs of a sweep."""
    if len(words) == 1 and words[0].startswith("schedule="):
        return [*words, "task=plan"]  # every option of this group is trained by its own tests
    if any(word.startswith("schedule.shape.milestones") for word in words):
        return [*words, "task=plan"]  # a smoke run has to reach them
    if not any(word == "-m" or word.startswith("task=") for word in words) and any(
        word.removeprefix("recipe=") in SHIPPED for word in words if word.startswith("recipe=")
    ):
        return [*words, "fast=true", "task=plan"]  # recipes/test_fast.py trains each recipe
    task = next((word for word in words if word.startswith("task=")), "task=train")
    swept = "-m" in words
    left_out = ("hydra/launcher=joblib", "hydra.launcher.n_jobs", "sweep.batch")
    given = [word for word in words if not word.startswith(left_out)]
    given = _two_jobs(given) if swept else given
    if task == "task=train":
        given += ["fast=true", "data.val_size=40"] if "data=digits" in given else ["fast=true"]
    if "model=resnet" in words and not any(word.startswith("model.width") for word in words):
        given += [
            "model.width=4",
            *([] if any(word.startswith("model.blocks") for word in words) else ["model.blocks=[1,1]"]),
        ]
    if "model=transformer" in words:
        given = [word for word in given if not word.startswith(("model.width", "model.depth"))]
        given += ["model.width=8", "model.depth=1", "model.heads=2"]
    if "data._target_=benchmarks.health.data.SlowDigits" in words:
        given += ["+data.delay=0"]
    if "find=batch_size" in words:
        given += ["find.max=16", "find.steps=3"]
    elif task == "task=find" or any("lr=auto" in word or "find.check" in word for word in words):
        given = [word for word in given if not word.startswith("find.steps")]
        fewest = (
            "200 steps" if "find.monitor=val/loss" in words else "40 epochs" if "recipe=rl_ppo" in words else "40 steps"
        )
        if "find.confirm=true" in words:
            given += ["trainer.max_epochs=2"]
        own = {"find=stability": ["find.products=3"], "find=critical_batch": [f"find.steps={fewest}"]}
        own["find=warmup"] = ["find.steps=10", "find.seeds=1"]
        kind = next((word for word in words if word in own), "")
        given += own.get(kind, ["find.sweeps=1", f"find.steps={fewest}"])
        given += ["data.steps=16"] if "recipe=rl_ppo" in words else []
    if swept and any(word.startswith(("sweep", "optimizer.lr=interval")) for word in words):
        given += ["sweep.n_trials=2"]
    return given


def _two_jobs(words: list[str]) -> list[str]:
    """A sweep over the first and last value of its first key, and the first values of its others."""
    found: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        values = value.split(",") if not re.search(r"[\[({]", value) and key != "sweep" else [value]
        if "range(" in value:
            values = ["0", "1"]
        first = not any("," in other and not re.search(r"[\[({]", other) for other in found)
        last = f",{values[-1]}" if len(values) > 1 and first else ""
        found.append(f"{key}{equals}{values[0]}{last}")
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the options and packages that the documents show, a run and a sweep."""
    folder = tmp_path_factory.mktemp("place")
    for path in DOCUMENTS:
        for _, block in FENCED.findall(path.read_text()):
            if named := FILE.search(block):
                file = folder / named.group(1)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block)
            elif any(word in block for word in ("load_diabetes", "load_digits", "save_pretrained", "about.jsonl")):
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(folder)
                    exec(block, {})
            elif any(word in block for word in ("LogDecay", "def late", "class Clipping")):
                with (folder / "shapes.py").open("a") as shapes:
                    shapes.write(block)
    with (folder / "my_pkg/__init__.py").open("a") as package:
        package.write((folder / "shapes.py").read_text())
        package.write(ENVIRONMENT)
    # What recipes/own_model/README.md is copied to, seen from inside and from beside.
    own = home("recipes") / "own_model"
    shutil.copytree(own / "my_project", folder / "my_project")
    shutil.copytree(own / "options", folder / "my_project/options")
    shutil.copytree(own / "options", folder / "options", dirs_exist_ok=True)
    shutil.copy(own / "pyproject.toml", folder)
    shutil.copytree(ROOT / "docs/field", folder / "docs/field")
    houses = [f"{50 + 7 * row % 90},{'abc'[row % 3]},{100 + row % 11}" for row in range(90)]
    (folder / "houses.csv").write_text("\n".join(["size,town,price", *houses, ""]))
    (folder / "new.txt").write_text("a text that no run has seen")
    texts = ["data=text", "data.file=about.jsonl", "data.length=16", "model.width=8", "model.depth=1", "model.heads=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LRFLOW_TRUST", "")
        for model in ("mlp", "resnet", "logistic", "transformer"):
            further = {"transformer": texts, "resnet": ["model.width=4", "model.blocks=[1,1]"]}.get(model, [])
            assert main([f"model={model}", "fast=true", f"name={model}", *further]) == 0
        assert main(["-m", "optimizer.lr=1e-3,1e-2,1e-1", "fast=true", "sweep.sampler=grid"]) == 0
    return folder


def prepared(words: list[str], place: Path) -> list[str]:
    """A command that speaks of a run, with a run of the model that it means."""
    model = next((kind for kind in ("resnet", "logistic") if any(kind in word for word in words)), "mlp")
    model = "transformer" if any("task.prompt" in word or "new.txt" in word for word in words) else model
    (run,) = place.glob(f"outputs/*_{model}")
    checkpoint = next(run.glob("checkpoints/step-*.ckpt"))
    for pattern, meant in {
        r"\S*/step-\d+\.ckpt": f"{{key}}{checkpoint}",
        r"outputs/(RUN|TRUNK|2026\S+)": f"{{key}}{run}",
        r"\[outputs/TRUNK,outputs/BRANCH\]": f"{{key}}[{run},{run}]",
        r"from:outputs/RUN": f"{{key}}from:{run}",
        r"outputs/sweeps/STAMP": f"{{key}}{min(place.glob('outputs/sweeps/*'))}",
        r"s3://bucket/runs/RUN": f"{{key}}file://{run}",
        r"s3://bucket/runs": f"{{key}}file://{place}/there",
        r"task.trial=\d+": "task.trial=1",
    }.items():
        words = [_with_value(word, pattern, meant) for word in words]
    if words[:1] == ["init"]:
        words[1:] = [str(place / "new" / "lab")]  # the place itself has a package my_project
    # The newest run or sweep is that of whichever command ran before.
    if {"task=evaluate", "task=export", "task=predict"} & {*words} and not any("task.from=" in word for word in words):
        words = [*words, f"task.from={run}"]
    if "task=analyze" in words and not any("task.from=" in word for word in words):
        words = [*words, f"task.from={min(place.glob('outputs/sweeps/*'))}"]
    return words


def _with_value(word: str, pattern: str, meant: str) -> str:
    """An override whose value is replaced where it fits a pattern."""
    key, equals, value = word.partition("=")
    whole = re.fullmatch(pattern, word) or re.fullmatch(pattern, value)
    return meant.replace("{key}", key + equals if equals else "") if whole else word


def end_at_once(config: Config) -> dict[str, Any]:
    """Stands in for the training of a sweep's job."""
    assert config.run_folder
    metrics = {"val/loss": config.optimizer.lr, "val/accuracy": 0.5, "test/accuracy": 0.5}
    (config.run_folder / "summary.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
    return {**metrics, "folder": str(config.run_folder)}


@pytest.mark.parametrize("command", commands())
def test_a_command_does_what_it_says(
    command: str, place: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("LRFLOW_TRUST", "")
    monkeypatch.setenv("LRFLOW_DATA", str(place / "cache"))
    monkeypatch.setattr("lrflow.dashboard.serve.serve", lambda *_: None)  # it would serve until Ctrl-C
    for package in ("my_pkg", "my_project"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    words = prepared(shlex.split(command), place)
    if RUN_ELSEWHERE.fullmatch(command) or any(part in command for part in (*HARDWARE, *DATA)):
        words = [*(_first_value(word) for word in words if word != "-m"), "--cfg", "job"]
    elif not {*words[:1]} & SUBCOMMANDS.keys():
        words = short(words)
        if "-m" in words and not any(part in command for part in TRAINED):
            training = ModuleType("lrflow.tasks.train")
            training.run = end_at_once  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, training.__name__, training)
    code = main(words)
    assert code == any(part in command for part in FAILS), capsys.readouterr().err


def _first_value(word: str) -> str:
    """`key=a` of `key=a,b` and of `key=interval(a,b)`: what is swept, at one point."""
    key, equals, value = word.partition("=")
    if key.startswith("sweep"):
        return "seed=0"
    value = value.removeprefix("interval(").removesuffix(")") if value.startswith("interval(") else value
    return f"{key}{equals}{value.split(',')[0]}" if "[" not in value and "{" not in value else word


def test_there_are_commands() -> None:
    assert len(commands()) > 150
