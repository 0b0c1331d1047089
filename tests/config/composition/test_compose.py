"""What lrflow changes in Hydra's composition does not change the composed configs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from yaml import YAMLError

from hydra_plugins.lrflow import options
from lrflow.config.composition.compose import ROOT, composer, options_composed_once
from lrflow.config.composition.overrides import expand, read_overrides

JOBS = (
    ["optimizer.lr=0.1"],
    ["optimizer.lr=0.2", "seed=1"],
    ["optimizer=sgd", "optimizer.lr=0.2"],
    ["optimizer={lr: 0.3}"],
    ["optimizer=sgd", "+optimizer.extra={a: 1}", "~find"],
    ["optimizer=sgd", "hydra.job.name=mine", "name=mine"],
    ["optimizer.lr=0.1"],
)


def test_composing_once_equals_hydras_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    merged = []
    compose = ConfigLoaderImpl._compose_config_from_defaults_list
    monkeypatch.setattr(
        ConfigLoaderImpl,
        "_compose_config_from_defaults_list",
        lambda self, defaults, repo: (merged.append(1), compose(self, defaults, repo))[1],
    )
    with composer():
        loader = GlobalHydra.instance().config_loader()

        def composed(overrides: list[str]) -> str:
            return OmegaConf.to_yaml(loader.load_configuration(ROOT, overrides, RunMode.RUN))

        expected = [composed(job) for job in JOBS]
        merged.clear()
        with options_composed_once():
            assert [composed(job) for job in JOBS] == expected
        # "~find" deletes a group, so that its job has a combination of its own.
        assert len(merged) == 3
        assert composed(JOBS[0]) == expected[0]
    assert len(merged) == 4


def test_a_shipped_file_is_read_as_omegaconf_reads_it_and_again_once_it_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    monkeypatch.setattr(options, "_files", lambda: {"model/mine": path})
    source = options.LrflowOptions("main", "lrflow://conf")
    for edited, text in enumerate(("a: 1e-3\nb: [on, 010, 1_000]\n", "a: 2\n", "")):
        path.write_text(text)
        os.utime(path, (edited, edited))
        assert source.load_config("model/mine.yaml").config == OmegaConf.load(path)
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(YAMLError, match="duplicate key a"):
        source.load_config("model/mine.yaml")


def test_a_list_of_defaults_within_an_option_refers_to_another_choice(tmp_path: Path) -> None:
    """Hydra collects the choices only for lists of defaults that refer to them."""
    (tmp_path / "optimizer" / "part").mkdir(parents=True)
    mine = "# Mine.\ndefaults:\n- adamw\n- part@_here_: ${model}\n- _self_\nweight_decay: 0.5\n"
    (tmp_path / "optimizer" / "mine.yaml").write_text(mine)
    (tmp_path / "optimizer" / "part" / "mlp.yaml").write_text("# For the MLP.\nlr: 0.25\n")
    with composer(tmp_path) as composing:
        found = composing(read_overrides(expand(["optimizer=mine"]), composing.catalogue).ready).content
    assert (found.optimizer.lr, found.optimizer.weight_decay) == (0.25, 0.5)
