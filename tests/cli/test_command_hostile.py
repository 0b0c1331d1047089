"""Files of a stranger on the real command line: recipes, options, run folders and records of sweeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from lrflow.cli.command import main
from lrflow.config import compose, save_config

SHELL = "{_target_: torch.utils.collect_env.run, command: touch hacked}"
GLOBAL = "# @package _global_\n"

FILES = {
    "a recipe": ("recipe/x.yaml", GLOBAL + f"hydra: {{callbacks: {{x: \"${{oc.create:'{SHELL}'}}\"}}}}", "recipe=x"),
    "a reference": (
        "recipe/x.yaml",
        GLOBAL + f"find: {{found: {SHELL}}}\nhydra: {{callbacks: {{x: '${{find.found}}'}}}}",
        "recipe=x",
    ),
    "another package": ("model/x.yaml", f"# @package hydra.callbacks\nx: {SHELL}", "model=x"),
    "a search path": ("recipe/x.yaml", GLOBAL + "hydra: {searchpath: ['pkg://evil']}", "recipe=x"),
    "overrides": (
        "recipe/x.yaml",
        GLOBAL + "hydra: {overrides: {hydra: ['hydra.searchpath=[pkg://evil]']}}",
        "recipe=x",
    ),
    "a variable": (
        "recipe/x.yaml",
        GLOBAL + "hydra: {job: {env_set: \"${oc.decode:'{LRFLOW_TRUST: os}'}\"}}\nmodel: {_target_: os.system}",
        "recipe=x",
    ),
    "an option of Hydra": ("hydra/job_logging/x.yaml", "formatters: {x: {(): os.system}}", "hydra/job_logging=x"),
    "a selected option": (
        "recipe/x.yaml",
        GLOBAL + "defaults: [override /hydra/launcher: x]\n",
        "recipe=x",
    ),
    "a folder": ("recipe/x.yaml", GLOBAL + "output: /lrflow-outside\n", "recipe=x"),
}


@pytest.fixture(autouse=True)
def options(tmp_path: Path) -> Path:
    launcher = tmp_path / "options/hydra/launcher/x.yaml"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("_target_: my.Launcher\n")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/__init__.py").write_text("open('hacked', 'w')\n")
    return tmp_path / "options"


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command prints that is refused and leaves nothing behind."""
    before, trust = sorted(Path().rglob("*")), os.environ.get("LRFLOW_TRUST")
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "your code" not in told
    assert sorted(Path().rglob("*")) == before
    assert os.environ.get("LRFLOW_TRUST") == trust
    return told


@pytest.mark.parametrize("name", FILES)
def test_files_of_options(name: str, options: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, text, word = FILES[name]
    (options / path).parent.mkdir(exist_ok=True)
    (options / path).write_text(text)
    told = refused(["--config-dir", "options", word, "fast=true"], capsys)
    assert "hydra" in told or "output" in told


def test_a_sweep_that_starts_with_another_value_than_its_jobs(
    options: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The jobs have the values that are swept, and the sweep itself that of the file."""
    (options / "recipe").mkdir()
    text = GLOBAL + "against: /lrflow-outside\nhydra: {sweep: {dir: '${against}'}}"
    (options / "recipe/x.yaml").write_text(text)
    words = ["-m", "--config-dir", "options", "recipe=x", "task=plan", "against=a,b"]
    assert "hydra.sweep.dir" in refused(words, capsys)


def test_a_search_space_of_a_file_sets_nothing_of_hydra(options: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = "{hydra.job.chdir: 'true,false', optimizer.lr: '0.1,0.2', output: 'outputs,/lrflow-outside'}"
    (options / "sweep").mkdir()
    head = GLOBAL + "defaults: [{override /hydra/sweeper: lrflow}]\n"
    (options / "sweep/x.yaml").write_text(head + f"hydra: {{sweeper: {{sampler: grid, params: {space}}}}}")
    told = refused(["-m", "--config-dir", "options", "sweep=x"], capsys)
    assert "hydra.job.chdir" in told
    assert "output = /lrflow-outside" in told


def sweep_with(*overrides: str) -> Path:
    folder = Path("outputs/sweeps/x")
    folder.mkdir(parents=True)
    record = {
        "overrides": ["optimizer.lr=0.1,0.2", *overrides],
        "space": [],
        "settings": {"sampler": "grid"},
        "study": "x",
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(record))
    return folder


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (f"+hydra.callbacks.x={SHELL}", "hydra.callbacks.x"),
        ("hydra.searchpath=[pkg://evil]", "hydra.searchpath"),
        ("hydra.launcher={_target_: os.system}", "hydra.launcher._target_"),
        ("+hydra.job.env_set.WANDB_BASE_URL=http://evil.example", "hydra.job.env_set.WANDB_BASE_URL"),
        ("hydra.sweeper.storage=sqlite:////lrflow-outside.db", "sweep.storage"),
        ("hydra.job.chdir=true", "hydra.job.chdir"),
        ("output=/lrflow-outside", "output"),
        ("logger.tensorboard={sub_dir: /lrflow-outside}", "logger.tensorboard.sub_dir"),
        ("trust=os", "trust"),
    ],
)
def test_the_record_of_a_sweep(override: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep_with("hydra/sweeper=lrflow", "hydra.sweeper.sampler=grid", override)
    assert key in refused(["-m", f"sweep.resume={folder}"], capsys)


def run_with(extra: dict[str, object], *overrides: str) -> Path:
    folder = Path("outputs/first")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/step-0000010.ckpt").touch()
    save_config(compose(overrides), folder / "config.yaml")
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    meta = extra.pop("lrflow", {})
    saved |= extra
    saved["lrflow"] |= meta
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    return folder


EDITED = {
    "output": {"output": "/lrflow-outside"},
    "logger.tensorboard.sub_dir": {"logger": {"csv": True, "tensorboard": {"sub_dir": "../../.."}}},
    "model._target_": {"model": {"_target_": "torch.utils.collect_env.run", "command": "touch hacked"}},
    "data.x": {"data": {"_target_": "lrflow.data.Digits", "x": f"${{oc.create:'{SHELL}'}}"}},
    "trust": {"trust": ["os"]},
}


@pytest.mark.parametrize("word", ["resume=last", "task=evaluate"])
def test_an_edited_run_folder(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    for key, change in EDITED.items():
        folder = run_with(dict(change))
        assert key in refused([word], capsys), key
        (folder / "checkpoints/step-0000010.ckpt").unlink()
        (folder / "checkpoints").rmdir()
        (folder / "config.yaml").unlink()
        folder.rmdir()
        folder.parent.rmdir()


@pytest.mark.parametrize(("word", "name"), [("resume=last", "train"), ("task=evaluate", "evaluate")])
def test_what_a_run_folder_cannot_set(word: str, name: str, task) -> None:
    """Hydra's section and the overrides in a run folder are not composed again."""
    ran = task(name=name)
    hostile = [f"+hydra.callbacks.x={SHELL}", "hydra.job.chdir=true", "hydra.searchpath=[pkg://evil]", "trust=os"]
    section = {"callbacks": {"x": {"_target_": "os.system"}}, "job": {"env_set": {"LRFLOW_TRUST": "os"}}}
    run_with({"hydra": section, "resume": {"from": "/etc"}, "trial": {"number": 1}, "lrflow": {"overrides": hostile}})
    assert main([word]) == 0
    assert len(ran) == 1
    assert not Path("hacked").exists()
    assert not os.environ.get("LRFLOW_TRUST")
    assert ran[0].trial is None
    assert not [text for text in ran[0].overrides if text.startswith(("hydra", "+hydra", "trust"))]


def test_a_run_is_resumed_where_it_is(task) -> None:
    """Its `output` was typed, and is a folder above the one that the user names now."""
    ran = task()
    outside = Path.cwd() / "elsewhere"
    folder = outside / "first"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/step-0000010.ckpt").touch()
    save_config(compose([f"output={outside}"]), folder / "config.yaml")
    assert main([f"resume={folder}"]) == 0
    assert ran[0].output == str(outside)


def test_trust_is_asked_for_again_with_the_command(task, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = task()
    Path("mine.py").write_text("import torch\n\nclass Net(torch.nn.Linear):\n    pass\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setenv("LRFLOW_TRUST", "mine")
    words = ["model=custom", "model._target_=mine.Net", "model.in_features=64", "model.out_features=10"]
    folder = run_with({}, *words, "model.loss=cross_entropy")
    monkeypatch.delenv("LRFLOW_TRUST")
    told = " ".join(refused([f"resume={folder}", "optimizer.lr=0.1"], capsys).split())
    assert f"python -m lrflow resume={folder} optimizer.lr=0.1 trust=mine" in told
    assert main([f"resume={folder}", "optimizer.lr=0.1", "trust=mine"]) == 0
    assert len(ran) == 1


@pytest.mark.parametrize("name", ["metrics.csv", "output.txt", "lrflow.log", "tensorboard", ".hydra", "a/b"])
def test_links_out_of_a_folder_that_is_continued(name: str, capsys: pytest.CaptureFixture[str], task) -> None:
    """A log that is a link to a start-up file of the shell would add lines to it."""
    ran = task()
    outside = Path("outside")
    outside.mkdir() if name in ("tensorboard", ".hydra") else outside.write_text("mine")
    folders = {"resume=last": run_with({}), "-m sweep.resume=last": sweep_with("hydra/sweeper=lrflow")}
    for words, folder in folders.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(outside.resolve())
        assert name in refused(words.split(), capsys)
        (folder / name).unlink()
        (folder / "inside").symlink_to((folder / "sweep.yaml").resolve())
    assert main(["resume=last"]) == 0
    assert len(ran) == 1


CLIMBING = [
    "../../private", "/../private", "{/model@data.facts: ../../private}", "'../../private@data.facts'",
    "{/hydra/launcher@data.facts: ROOT/private}", "/ROOT/private", "/hydra/job_logging/../../ROOT/private",
]  # fmt: skip


@pytest.mark.parametrize("entry", CLIMBING)
def test_options_outside_their_folder(entry: str, options: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra reads them from its own folder, too."""
    (options.parent / "private.yaml").write_text("leak: what nobody should see\n")
    (options / "recipe").mkdir()
    entry = entry.replace("ROOT", "../" * 40 + str(options.parent).strip("/"))
    (options / "recipe/x.yaml").write_text(GLOBAL + f"defaults: [{entry}]\n")
    told = refused(["--config-dir", "options", "recipe=x"], capsys)
    assert "there is no such option" in told
    assert "nobody" not in told


def test_a_text_of_a_file_does_not_command_the_terminal(options: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Terminals obey escape sequences: title, clipboard, answers that are typed."""
    (options / "recipe").mkdir()
    hostile = r'"\e]52;c;dG91Y2g=\e\\ \u009b2J"'
    (options / "recipe/x.yaml").write_text(f"{GLOBAL}optimizer: {{{hostile}: {hostile}}}\n")
    (options / "recipe/y.yaml").write_text(f"# \x1b]0;title\x1b\\ \x9b2J\n{GLOBAL}")
    told = refused(["--config-dir", "options", "recipe=x"], capsys)
    assert "]52;c;dG91Y2g=" in told
    assert main(["--config-dir", "options", "--help"]) == 0
    told += capsys.readouterr().out
    assert "]0;title" in told
    assert not {"\x1b", "\x9b"} & {*told}


FAULTY = {
    "hydra: null": "hydra",
    "hydra: {sweeper: null}": "hydra.sweeper",
    "hydra: {job: {env_copy: [NO_SUCH_NAME]}}": "hydra.job.env_copy",
}


@pytest.mark.parametrize("text", FAULTY)
def test_values_that_hydra_asserts(text: str, options: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (options / "recipe").mkdir()
    (options / "recipe/x.yaml").write_text(GLOBAL + text)
    assert FAULTY[text] in refused(["--config-dir", "options", "recipe=x"], capsys)
