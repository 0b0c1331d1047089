"""The group `logger`: several options at once, from any place, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrflow.config import compose
from lrflow.config.checks import loggers
from lrflow.errors import ConfigError

CSV = "pytorch_lightning.loggers.CSVLogger"


def chosen(config: object) -> list[str]:
    return [name for name, value in config.logger.plain().items() if value not in (None, False)]  # type: ignore[attr-defined]


def test_several_are_chosen_at_once(tmp_path: Path) -> None:
    assert chosen(compose(["logger=[csv,wandb]"])) == ["csv", "wandb"]
    assert chosen(compose(["logger=[tensorboard,wandb]", "logger.csv=false"])) == ["wandb", "tensorboard"]
    assert compose(["logger=[csv,wandb]"]).choices["logger"] == "[csv,wandb]"
    (tmp_path / "recipe").mkdir()
    text = "# @package _global_\n# Mine.\ndefaults:\n  - override /logger: [tensorboard, wandb]\n"
    (tmp_path / "recipe" / "mine.yaml").write_text(text)
    assert chosen(compose(["recipe=mine"], tmp_path)) == ["csv", "wandb", "tensorboard"]
    assert chosen(compose([f"logger.mine._target_={CSV}", "logger.mine.name=x"])) == ["csv", "mine"]
    assert compose([f"logger.mine._target_={CSV}", "logger.mine.name=${oc.env:HOME}"]).logger.nodes()


WRONG = {
    ("logger=[csv,wandbb]",): ("logger", "did you mean logger=wandb?"),
    ("logger=[none,wandb]",): ("logger", "leave it out"),
    ("logger.tensorbord.flush_secs=3",): ("logger.tensorbord", "did you mean logger.tensorboard?"),
    ("logger.cvs=true",): ("logger.cvs", "did you mean logger.csv?"),
    ("logger.wandbb=null",): ("logger.wandbb", "did you mean logger.wandb?"),
    ("logger.xyz.a=3",): ("logger.xyz", "give logger.xyz._target_"),
    ("logger=custom",): ("logger.custom._target_", "my_pkg"),
    ("logger._target_=my_pkg.Log",): ("logger._target_", "logger.custom._target_=my_pkg.Log"),
    (f"logger.mine._target_={CSV}", "logger.mine.nam=x"): ("logger.mine.nam", "did you mean logger.mine.name?"),
    (f"logger.mine._target_={CSV[:-1]}",): ("logger.mine._target_", "did you mean CSVLogger?"),
    ("logger=tensorboard", "logger.tensorboard.flush_sec=3"): ("logger.tensorboard.flush_sec", "flush_secs?"),
    ("logger=wandb", "logger.wandb.name=x"): ("logger.wandb.name", "name=..."),
    ("logger=wandb", "logger.wandb.settings.sav_code=true"): ("logger.wandb.settings.sav_code", "settings.save_code?"),
    ("logger=wandb", "logger.wandb.settings.run_group=x"): (
        "logger.wandb.settings.run_group",
        "logger.wandb.group=...",
    ),
    ("logger=wandb", "logger.wandb.settings.root_dir=/x"): ("logger.wandb.settings.root_dir", "leave it out"),
    ("logger=wandb", "logger.wandb.settings.base_url=http://x"): ("logger.wandb.settings.base_url", "WANDB_BASE_URL"),
    ("logger=wandb", "logger.wandb.settings.quiet=maybe"): ("logger.wandb.settings.quiet", "true or false"),
    ("tracking_uri=http://x",): ("tracking_uri", "logger.mlflow.tracking_uri"),
}


@pytest.mark.parametrize("given", WRONG, ids=" ".join)
def test_what_is_wrong_is_told(given: tuple[str, ...]) -> None:
    key, hint = WRONG[given]
    with pytest.raises(ConfigError) as error:
        compose(given)
    assert [problem.key for problem in error.value.problems] == [key]
    assert hint in str(error.value)


@pytest.mark.parametrize("name", loggers.PACKAGES)
def test_a_missing_package_is_told_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "is_installed", lambda package: False)
    with pytest.raises(ConfigError) as error:
        compose([f"logger={name}"])
    (problem,) = error.value.problems
    assert (problem.key, problem.value, problem.hint) == ("logger", name, f"pip install 'lrflow[{name}]'")
    assert compose([f"logger={name}", "task=merge"]), "which logs nothing"


@pytest.mark.parametrize(
    ("uri", "is_refused", "is_told"),
    [
        ("sqlite:///runs.db", False, False),
        ("sqlite:////var/runs.db", True, False),
        ("file:../runs", True, False),
        ("http://elsewhere:5000", False, True),
    ],
)
def test_a_file_sends_no_metrics_elsewhere_unseen(
    uri: str, is_refused: bool, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "is_installed", lambda package: True)
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger" / "ours.yaml").write_text(f"# Ours.\nmlflow:\n  tracking_uri: {uri}\n")
    if is_refused:
        with pytest.raises(ConfigError, match=r"logger\.mlflow\.tracking_uri"):
            compose(["logger=ours"], tmp_path)
    else:
        config = compose(["logger=ours"], tmp_path)
        assert any("sends the metrics to the server" in line for line in config.doubts + config.remarks) == is_told
    assert compose(["logger=ours", f"logger.mlflow.tracking_uri={uri}"], tmp_path)
