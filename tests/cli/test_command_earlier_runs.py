"""What goes on with a run, or evaluates it, takes the config.yaml of its folder, with what is typed on top."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from lrflow.assemble import plain_config
from lrflow.cli.command import main
from lrflow.config import compose, load_config, save_config
from lrflow.config.config import Config
from lrflow.errors import ConfigError, Problem


def zipped(members: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


OPTIONS = {
    "schedule/mine.yaml": "_target_: lrflow.schedules.Schedule\nwarmup: 7\nshape:\n  _target_: lrflow.schedules.Rex\n",
    "optimizer/mine.yaml": "_target_: torch.optim.SGD\nlr: 0.2\nmomentum: 0.7\n",
    "recipe/mine.yaml": "# @package _global_\ndefaults:\n  - override /optimizer: mine\nseed: 5\n",
}


@pytest.fixture
def earlier(tmp_path: Path):
    """The folder of a run with these overrides, which has a checkpoint; `--config-dir` is gone when it is resumed."""
    for name, text in OPTIONS.items():
        path = tmp_path / "options" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def put(*overrides: str, name: str = "first") -> Path:
        folder = Path("outputs") / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "step-0000010.ckpt").touch()
        save_config(compose(overrides, tmp_path / "options"), folder / "config.yaml")
        return folder

    return put


def without_task(config: Config) -> dict[str, object]:
    return {key: value for key, value in config.plain().items() if key not in ("task", "resume")}


@pytest.mark.parametrize("words", [["resume=last"], ["task=evaluate"], ["-m", "resume=last", "seed=5"]], ids=" ".join)
def test_a_run_with_user_options_resumes_without_their_folder(words: list[str], earlier, task) -> None:
    ran = task(name="evaluate" if "task=evaluate" in words else "train")
    folder = earlier("schedule=mine", "recipe=mine")
    assert main(words) == 0
    assert without_task(ran[0]) == without_task(compose(["schedule=mine", "recipe=mine"], Path("options")))
    assert (ran[0].choices["schedule"], ran[0].choices["recipe"]) == ("mine", "mine")
    assert str(folder) in str(ran[0].task.source if "task=evaluate" in words else ran[0].resume.source)


@pytest.mark.parametrize(
    ("before", "typed", "after"),
    [
        ([], ["optimizer.lr=0.5"], {"optimizer.lr": 0.5, "optimizer.momentum": 0.7}),
        ([], ["optimizer=sgd"], {"optimizer.momentum": 0.0, "optimizer._target_": "torch.optim.SGD", "seed": 5}),
        (["optimizer.momentum=0.8"], ["optimizer=mine"], {"optimizer.momentum": 0.8}),
        ([], ["~optimizer.momentum"], {"optimizer.momentum": None}),
        (["optimizer=muon"], ["optimizer=sgd"], {"optimizer.routes": None, "layers": "no_decay"}),
        (["optimizer=sgd"], ["optimizer=muon"], {"layers": "muon"}),
        (["seed=7"], ["seed=7", "seed=8"], {"seed": 8}),
        ([], ["recipe=mine", "optimizer.lr=0.1"], {"optimizer.lr": 0.1}),
        ([], ["task=plan"], {"task.name": "plan", "seed": 5}),
        (["task.test=false"], [], {"task.test": False}),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_typed_overrides_are_applied_to_the_earlier_config(
    before: list[str], typed: list[str], after: dict[str, object], earlier, task
) -> None:
    ran = task(name="plan" if "task=plan" in typed else "train")
    earlier("recipe=mine", *before)
    with_folder = ["--config-dir", "options"] if any("=mine" in text for text in typed) else []
    assert main(["resume=last", *with_folder, *typed]) == 0
    for key, value in after.items():
        group, _, name = key.partition(".")
        found = ran[0].plain()[group].get(name) if name else ran[0].choices.get(key, ran[0].plain().get(key))
        assert (found or None) == (value or None), key


@pytest.mark.parametrize("typed", ["recipe=cnn", "fast=true"])
def test_a_recipe_cannot_be_applied_to_an_earlier_run(
    typed: str, earlier, task, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = task()
    earlier("recipe=mine")
    assert main(["resume=last", typed]) == 2
    assert not ran
    err = " ".join(capsys.readouterr().err.split())
    assert "which cannot be changed when it is resumed" in " ".join(err.split())
    assert "1 problem" in err


def test_a_sweep_can_resume_a_run(earlier, task) -> None:
    ran = task()
    earlier("schedule=mine", "seed=5")
    assert main(["-m", "resume=last", "optimizer.lr=0.1,0.2"]) == 0
    assert [(config.optimizer.lr, config.seed, config.choices["schedule"]) for config in ran] == [
        (0.1, 5, "mine"),
        (0.2, 5, "mine"),
    ]


def test_the_config_of_an_earlier_run_is_checked(earlier, task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task()
    folder = earlier("seed=5")
    config = load_config(folder / "config.yaml")
    (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace(config.model._target_, "os.system").replace("lr: 0.003", "lr: -3")
    )
    assert main(["resume=last"]) == 2
    err = capsys.readouterr().err
    assert "model._target_ = os.system" in err
    assert "optimizer.lr = -3" in err
    assert f"{folder}/config.yaml:" in err
    assert main(["resume=last", "optimizer.lr=0.1", "model=mlp", "model._target_=lrflow.models.MLP"]) == 0
    assert ran[0].optimizer.lr == 0.1


def test_trust_is_required_again(earlier, task, monkeypatch: pytest.MonkeyPatch) -> None:
    task()
    Path("their_code.py").write_text("from torch import nn\nclass Net(nn.Linear): pass\n")
    own = ["model=custom", "model._target_=their_code.Net", "+model.in_features=64", "+model.out_features=10"]
    monkeypatch.setenv("LRFLOW_TRUST", "their_code")
    earlier(*own)
    monkeypatch.setenv("LRFLOW_TRUST", "")
    assert main(["resume=last"]) == 2
    assert main(["resume=last", "trust=their_code"]) == 0


def test_a_resumed_run_records_all_overrides(earlier, task) -> None:
    ran = task()
    earlier("optimizer=sgd", "optimizer.lr=0.1", "schedule.warmup=3%")
    assert main(["resume=last", "schedule.warmup=4%", "optimizer=momentum"]) == 0
    assert ran[0].overrides == ["schedule.warmup=4%", "optimizer=momentum"]


@pytest.mark.parametrize("words", [["resume=last"], ["task=evaluate"]], ids=" ".join)
def test_an_output_folder_in_quotes_is_found(words: list[str], earlier, task) -> None:
    ran = task(name="evaluate" if "task=evaluate" in words else "train")
    earlier("optimizer.lr=0.2")
    Path("outputs").rename("of,mine")
    assert main([*words, "output='of,mine'"]) == 0
    assert (ran[0].optimizer.lr, ran[0].output) == (0.2, "of,mine")


def test_a_problem_of_resume_has_no_file(earlier, task, capsys: pytest.CaptureFixture[str]) -> None:
    problem = Problem("resume.horizon", "choose the LR from here on", None)

    def refuse(config: Config) -> dict[str, object]:
        raise ConfigError([problem, Problem("optimizer.lr", "is too high", 0.2)])

    task(refuse)
    folder = earlier("optimizer.lr=0.2")
    assert main(["resume=last"]) == 2
    told = capsys.readouterr().err
    assert told.count(str(folder / "config.yaml")) == 1, told


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("evaluates", [False, True])
def test_without_config_yaml_the_config_in_the_checkpoint_is_used(
    outside: bool, evaluates: bool, earlier, task, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the defaults, which are another run."""
    folder = earlier("schedule=mine", "optimizer.lr=0.5", "seed=9")
    checkpoint = folder / "checkpoints" / "step-0000010.ckpt"
    config = compose(["schedule=mine", "optimizer.lr=0.5", "seed=9"], Path("options"))
    torch.save({"lrflow": {"config": plain_config(config)}}, checkpoint)
    (folder / "config.yaml").unlink()
    if outside:
        checkpoint = checkpoint.rename("saved.pt")
    ran = task(name="evaluate" if evaluates else "train")
    assert main(["task=evaluate", f"task.from={checkpoint}"] if evaluates else [f"resume={checkpoint}", "seed=8"]) == 0
    expected = compose(["schedule=mine", "optimizer.lr=0.5", f"seed={9 if evaluates else 8}"], Path("options"))
    assert without_task(ran[0]) == without_task(expected)
    assert "using the config in the checkpoint" in caplog.text


NOT_ONE = "is not a checkpoint of lrflow, and only those can be resumed"
NO_CHECKPOINTS: dict[str, tuple[object, str]] = {
    "an empty file": (b"", "is an empty file"),
    "a text": (b"hello\n" * 100, "is cut short, or no checkpoint at all"),
    "zeros": (bytes(5000), "is cut short, or no checkpoint at all"),
    "a pickle": (pickle.dumps({"state_dict": {}}), "is cut short, or no checkpoint at all"),
    "an archive": (zipped({"notes.txt": b"nothing"}), NOT_ONE),
    "an archive with a pickle": (zipped({"a/data.pkl": pickle.dumps({"a": 1}), "a/version": b"3"}), NOT_ONE),
    "a tensor": (torch.ones(3), NOT_ONE),
    "a list": ([1, 2], NOT_ONE),
    "weights": ({"head.weight": torch.ones(3)}, NOT_ONE),
    "another framework's": ({"state_dict": {}, "global_step": 3, "hyper_parameters": {}}, NOT_ONE),
    "objects": ({"thing": Path("x")}, NOT_ONE),
    "another's key": ({"lrflow": 3}, NOT_ONE),
    "no config": ({"lrflow": {"config": {}}}, "its run has no config.yaml, and the checkpoint contains no config"),
    "a wrong config": (
        {"lrflow": {"config": [1]}},
        "its run has no config.yaml, and the checkpoint contains no config",
    ),
}


@pytest.mark.parametrize("alone", [False, True], ids=["in a run", "alone"])
@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_one_clear_problem(
    kind: str, alone: bool, earlier, task, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ran, folder = task(), earlier()
    (folder / "config.yaml").unlink()
    path = Path("file.ckpt") if alone else folder / "checkpoints" / "step-0000010.ckpt"
    content, told = NO_CHECKPOINTS[kind]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert main([f"resume={path if alone else 'last'}"]) == 2
    assert not ran
    error = " ".join(capsys.readouterr().err.split())
    assert f"1 problem resume = {path}" in error
    assert told in error
    assert "torch" not in error.lower()
    assert not caplog.messages
    if kind in ("weights", "another framework's"):
        assert f"model.init_from={path} starts a new run from its weights" in error


def test_a_folder_without_a_run_is_no_checkpoint(earlier, task, capsys: pytest.CaptureFixture[str]) -> None:
    ran, _ = task(), earlier()
    assert main(["resume=options"]) == 2
    assert "expected a run folder with a checkpoint, but it has none" in " ".join(capsys.readouterr().err.split())
    assert not ran


def test_a_problem_of_a_typed_option_has_no_file(earlier, task, capsys: pytest.CaptureFixture[str]) -> None:
    folder = earlier("schedule=mine")
    assert main([f"resume={folder}", "model=vit"]) == 2
    err = capsys.readouterr().err
    assert "there is no such option" in err
    assert "--config-dir FOLDER" in err
    assert "config.yaml" not in err
