"""Building the parts of a run from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lrflow import assemble
from lrflow.assemble import build_module
from lrflow.config import compose
from lrflow.errors import ConfigError
from lrflow.files import user_lock
from lrflow.layers import Rule
from lrflow.objectives import chosen_loss
from lrflow.tasks import train
from lrflow.tasks.plan import compile_plan, read_plan
from lrflow.training import Supervised


class Manual(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None: ...


class ManualLater(Manual):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    def setup(self, stage: str) -> None:
        self.automatic_optimization = False


class Untrainable(pl.LightningModule):
    pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Manual, r"trainer\.gradient_clip_val.* Manual uses manual optimization .*, so it clips"),
        (ManualLater, r"trainer\.gradient_clip_val.* ManualLater uses manual optimization"),
        (Untrainable, r"model\._target_.*has no training_step"),
    ],
)
def test_an_untrainable_module_is_rejected(
    kind: type[pl.LightningModule], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(["trainer.gradient_clip_val=1"])
    monkeypatch.setattr("lrflow.assemble.instantiate", lambda node, key: kind())
    with pytest.raises(ConfigError, match=message):
        build_module(config, data=pl.LightningDataModule())


class Upside(pl.LightningModule):
    """Declares its layers from the head down."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(16, 10), nn.Linear(64, 16)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.body(batch[0].flatten(1)).relu()), batch[1])


def test_layers_are_ordered_by_their_use_in_the_plan_and_in_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = assemble.instantiate
    monkeypatch.setattr(
        "lrflow.assemble.instantiate",
        lambda node, *extra: Upside() if "widths" in node else real(node, *extra),
    )
    overrides = ["layers=layer_decay", "layers.no_decay=false", f"output={tmp_path}", "trainer.max_epochs=1"]
    told: list[str] = []
    plan = compile_plan(compose(overrides), told.append)
    assert [(group.name, group.scale, group.depth) for group in plan.groups] == [("body", 0.75, 0), ("head", 1.0, 1)]
    assert [line.partition(":")[0] for line in told] == ["timescale of the weight decay"]
    folder = train.run(compose(overrides))["folder"]
    assert read_plan(folder, tmp_path).fingerprint == plan.fingerprint
    told.clear()
    unread = compile_plan(compose(["task=plan", *overrides, "horizon.steps=100"]), told.append)
    assert [group.name for group in unread.groups] == ["head", "body"]
    assert told[:1] == [
        "layers: ordered as the model declares them; their order of use is unknown: the data were not read"
    ]


def test_custom_rule_makers_select_by_name_or_by_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own:
        def rules(self, model: nn.Module) -> list[Rule]:
            head = Rule("head", parameters=model.head.parameters(), lr="2x")  # type: ignore[union-attr, operator]
            return [head, Rule("rest", match="*")]

    config = compose(["layers=layer_decay"])
    real = assemble.instantiate
    monkeypatch.setattr(
        "lrflow.training.layer_rules.instantiate",
        lambda node, *extra: Own() if "decay" in node else real(node, *extra),
    )
    groups = assemble.build_groups(config, build_module(config))
    assert [(group.name, group.scale, group.tensors) for group in groups] == [("head", 2.0, 2), ("rest", 1.0, 8)]


def test_every_user_has_their_own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared file would belong to its first user, and others could not write to it."""
    monkeypatch.setattr("lrflow.files.gettempdir", lambda: str(tmp_path))
    for user in (1000, 1001):
        monkeypatch.setattr("os.getuid", lambda: user)  # noqa: B023
        with user_lock("data"):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"lrflow-data-1000.lock", "lrflow-data-1001.lock"}


@pytest.mark.parametrize("key", ["trainer.checkpoint.monitor", "feedback.monitor", "find.monitor"])
def test_a_metric_that_is_not_logged_is_rejected_with_the_nearest_name(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["feedback=plateau", "model=logistic", f"{key}=val_acc"])
    (problem,) = caught.value.problems
    assert (problem.key, problem.hint) == (key, "did you mean val/accuracy?")
    config = compose(["feedback=plateau", "model=logistic", "model.loss=null", f"{key}=val_acc"])
    assemble.check_metrics(config, pl.LightningModule())  # its metrics are unknown before it runs


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_expected_metric_names_are_logged(loss: str) -> None:
    module = assemble.build_module(compose(["model=logistic", f"model.loss={loss}", f"data.facts.loss={loss}"]))
    assert isinstance(module, Supervised)
    module.count("val", torch.zeros(2, 10), torch.zeros(2, 10) if loss == "mse" else torch.zeros(2, dtype=torch.long))
    assert list(module.scores("val")) == [f"val/{name}" for name in chosen_loss(loss).logged]
