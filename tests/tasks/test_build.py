"""What tasks build of a configuration."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl

from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.tasks.build import build_module


class ByHand(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_a_module_that_optimizes_by_hand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose()
    monkeypatch.setattr("lrflow.tasks.build.instantiate", lambda node: ByHand())
    with pytest.raises(ConfigError, match=r"model\._target_.*optimizes by hand"):
        build_module(config)
