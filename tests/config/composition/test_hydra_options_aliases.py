"""A short YAML file whose aliases stand for a huge config is refused, not copied."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from lrflow.config.composition.hydra_options import adapt_hydra
from lrflow.config.composition.option_files import read_option

NINES = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}' if before else 'x'] * 9)}]\n"
    for before, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
)


@pytest.mark.parametrize("text", [NINES, "a: &a [1, *a]\n"])
def test_aliases_that_stand_for_too_many_values_are_refused(text: str, tmp_path: Path) -> None:
    adapt_hydra()
    with pytest.raises(yaml.YAMLError, match=re.escape("its aliases stand for more than 1,000,000 values")):
        OmegaConf.load(io.StringIO(text))
    (tmp_path / "nines.yaml").write_text(text)
    assert read_option(tmp_path / "nines.yaml").content == {}


def test_aliases_are_read() -> None:
    adapt_hydra()
    assert OmegaConf.load(io.StringIO("a: &a {x: 1}\nb: *a\n")) == {"a": {"x": 1}, "b": {"x": 1}}
