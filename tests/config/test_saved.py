from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lrflow.config import compose, load_config, save_config, validate
from lrflow.config.origins import MODELINE, SCHEMA
from lrflow.config.saved import config_text
from lrflow.errors import ConfigError


def test_a_saved_config_is_the_same_config(tmp_path: Path) -> None:
    config = compose(["optimizer=sgd", "layers=layer_decay", "name=${optimizer.lr}x", "optimizer.lr=0.25"])
    save_config(config, tmp_path / "config.yaml")
    again = validate(load_config(tmp_path / "config.yaml"))
    assert again == config
    assert again.choices == config.choices
    assert again.overrides == config.overrides
    assert again.run_folder is None
    assert again.name == "0.25x"
    assert OmegaConf.to_container(again.source) == OmegaConf.to_container(config.source)
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


def test_a_saved_config_of_a_sweeps_job_keeps_its_folder(tmp_path: Path) -> None:
    config = compose()
    config = validate(config.source, config.choices, ["seed=0"], Path("outputs/sweeps/x/3"))
    save_config(config, tmp_path / "config.yaml")
    again = validate(load_config(tmp_path / "config.yaml"))
    assert again.run_folder == Path("outputs/sweeps/x/3")
    assert again.overrides == ["seed=0"]


def test_a_saved_config_names_the_schema_above_it_as_seen_from_its_last_place(tmp_path: Path) -> None:
    config, run = compose(), tmp_path / "outputs" / "run"
    for place, home in ((run, None), (run / ".next", run)):
        place.mkdir(parents=True)
        save_config(config, place / "config.yaml", home)
        assert not (place / "config.yaml").read_text().startswith(MODELINE)  # there is no schema
    (tmp_path / SCHEMA).touch()
    for place, home in ((run, None), (run / ".next", run)):
        save_config(config, place / "config.yaml", home)
        assert (place / "config.yaml").read_text() == f"{MODELINE}../../{SCHEMA}\n{config_text(config)}"
        assert validate(load_config(place / "config.yaml")) == config


def test_resolved_times_are_saved(tmp_path: Path) -> None:
    config = compose(["name=${now:%f}"])
    save_config(config, tmp_path / "config.yaml")
    assert validate(load_config(tmp_path / "config.yaml")).name == config.name


def test_files_that_are_not_saved_configs(tmp_path: Path) -> None:
    for text in ("a: 1\n", "- 1\n", "", "a: [1\n"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError):
            load_config(tmp_path / "x.yaml")
    with pytest.raises(ConfigError):
        load_config(tmp_path / "missing.yaml")


def test_a_composed_config_with_saved_metadata_is_an_error(problems_of) -> None:
    (problem,) = problems_of(["+lrflow={choices: {optimizer: sgd}}"])
    assert problem.key == "lrflow"


TWO_WAYS = ["trainer.checkpoint.monitor=val/x", "feedback=plateau", "feedback.monitor=val/x", "model.loss=null"]


def test_a_saved_config_records_modes(tmp_path: Path) -> None:
    before = compose(TWO_WAYS)
    before.source.trial = {"number": 0, "study": "s", "storage": "memory", "metric": "val/x", "mode": "max"}
    save_config(validate(before.source, before.choices), tmp_path / "config.yaml")
    saved = load_config(tmp_path / "config.yaml")
    assert saved.lrflow.metrics["val/x"] == "max"
    saved.trial = None  # as of a run that goes on by itself
    assert validate(saved).trainer.checkpoint.mode == "max"


def test_a_saved_config_without_modes_can_be_resumed(tmp_path: Path) -> None:
    """Before modes were noted, `min` was written where nobody had given one."""
    save_config(compose(TWO_WAYS), tmp_path / "config.yaml")
    saved = load_config(tmp_path / "config.yaml")
    saved.trainer.checkpoint.mode, saved.feedback.mode = "max", "min"
    with pytest.raises(ConfigError):
        validate(saved)
    del saved.lrflow["metrics"]
    again = validate(saved)
    assert (again.trainer.checkpoint.mode, again.feedback.mode) == ("max", "min")


def test_the_augmentation_of_an_earlier_run_is_an_option_of_its_group_now(tmp_path: Path) -> None:
    for given, expected in (({"flip": 0.5}, {"flip": 0.5, "crop": 0}), ({"flip": 0, "crop": 0}, None)):
        saved = compose()
        content = OmegaConf.to_container(saved.source)
        assert isinstance(content, dict)
        content.pop("augment")
        content["data"]["augment"] = given
        OmegaConf.save(OmegaConf.create(content), tmp_path / "config.yaml")
        nodes = validate(load_config(tmp_path / "config.yaml")).augment.nodes()
        assert nodes == ({"flip_crop": {"_target_": "lrflow.augment.FlipCrop", **expected}} if expected else {})


def test_the_callback_that_logged_throughput_is_a_signal_now(tmp_path: Path) -> None:
    saved = compose(["signals=none", "callbacks=early_stopping"])
    content: Any = OmegaConf.to_container(saved.source)
    content["callbacks"]["throughput"] = {"_target_": "lrflow.callbacks.Throughput"}
    OmegaConf.save(OmegaConf.create(content), tmp_path / "config.yaml")
    found = validate(load_config(tmp_path / "config.yaml"))
    assert found.signals.machine
    assert [*found.callbacks.nodes()] == ["early_stopping"]
