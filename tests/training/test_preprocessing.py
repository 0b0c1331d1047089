"""What a run fitted to its training data is in its checkpoints, and is applied again to whatever data is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrflow.config import compose
from lrflow.data import DataModule, Digits, Examples
from lrflow.errors import LrflowError
from lrflow.runs import RunFolder
from lrflow.tasks import evaluate, train
from lrflow.training.preprocessing import Preprocessed, preprocessing_of, restore_preprocessing, scale_and_shift

RUN = [
    "recipe=logistic/breast_cancer", "trainer.progress=false", "trainer.max_epochs=null", "trainer.max_steps=8",
    "trainer.val_every=4 steps", "trainer.checkpoint.every=4 steps", "trainer.checkpoint.keep=null", "trainer=cpu",
]  # fmt: skip


class Scaled(DataModule):
    """Twelve points, divided by the largest of the training part."""

    def load(self) -> tuple[Examples, None]:
        return Examples(torch.arange(36.0).reshape(12, 3) + 1, torch.arange(12) % 2), None

    def fit_normalisation(self, inputs: torch.Tensor) -> None:
        self.largest = inputs.amax(0)
        self.count = len(inputs)

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs / self.largest).float()


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Calling it shifts all inputs of the recipe's data, as if another data set were read from now on."""
    from lrflow.recipes.logistic.data import BreastCancer

    load = BreastCancer.load

    def shift() -> None:
        def other(self: Any) -> Any:
            examples, test = load(self)
            return Examples(examples.inputs + 1000.0, examples.targets), test

        monkeypatch.setattr(BreastCancer, "load", other)

    return shift


def test_what_was_fitted_is_in_the_checkpoint_and_used_by_an_evaluation(
    tmp_path: Path, undrawn: None, shifted: Callable[[], None], same: Any
) -> None:
    done = train.run(compose([*RUN, f"output={tmp_path}"]))
    folder = RunFolder(Path(done["folder"]))
    content = torch.load(folder.checkpoints / "step-0000004.ckpt", weights_only=True)
    record = content["lrflow"]["preprocessing"]
    assert record["of"].endswith("BreastCancer")
    assert record["values"].keys() == {"_mean", "_std"}

    def evaluated(path: Path) -> dict[str, Any]:
        return evaluate.run(compose([*RUN, "task=evaluate", f"task.from={path}", "task.split=val"]))

    path = folder.checkpoints / "step-0000008.ckpt"
    before = evaluated(path)
    shifted()
    # Fitted anew, the shift would vanish; with what the training applied, inputs are far from what the model knows.
    assert evaluated(path)["val/loss"] > before["val/loss"] + 1
    content = torch.load(path, weights_only=True)
    del content["lrflow"]["preprocessing"]  # as earlier versions saved it
    older = folder.checkpoints / "step-0000009.ckpt"
    torch.save(content, older)
    assert evaluated(older)["val/loss"] == pytest.approx(before["val/loss"], rel=1e-4)


def test_a_resumed_run_goes_on_with_what_was_fitted(tmp_path: Path, undrawn: None, shifted: Callable[[], None]) -> None:
    folder = RunFolder(Path(train.run(compose([*RUN, f"output={tmp_path}"]))["folder"]))
    shifted()
    again = [f"output={tmp_path}/again", f"resume.from={folder.checkpoints / 'step-0000004.ckpt'}"]
    resumed = RunFolder(Path(train.run(compose([*RUN, *again]))["folder"]))
    first, second = (
        torch.load(one.checkpoints / "step-0000008.ckpt", weights_only=True)["lrflow"]["preprocessing"]["values"]
        for one in (folder, resumed)
    )
    assert torch.equal(first["_mean"], second["_mean"])


def test_only_what_was_fitted_is_kept_and_only_the_same_class_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    data = Scaled(batch_size=2)
    assert preprocessing_of(data) is None  # not set up
    data.setup()
    record = preprocessing_of(data)
    assert record is not None
    assert set(record["values"]) == {"largest", "count"}
    digits = Digits()
    digits.setup()
    assert preprocessing_of(digits) is None
    digits = Digits()
    restore_preprocessing(digits, {"of": f"{Digits.__module__}.Digits", "values": {"batch_size": 3}})
    assert digits.batch_size == 64  # it fits nothing, so such a record is not of lrflow
    forged = {"values": {"split_seed": "/etc"}}
    with pytest.raises(LrflowError, match=r"would replace data\.split_seed by '/etc', which only a config may set"):
        restore_preprocessing(Scaled(batch_size=2), {**record, **forged})

    class Other(Scaled):
        def fit_normalisation(self, inputs: torch.Tensor) -> None:
            self.largest = inputs.amax(0) * 2
            self.scaler = object()

    other = Other(batch_size=2)
    restore_preprocessing(other, record)
    other.setup()
    assert torch.equal(other.largest, data.largest * 2)
    assert preprocessing_of(other) is None
    assert "computes what a checkpoint cannot hold" in caplog.text


def test_a_linear_preprocessing_is_a_scale_and_a_shift() -> None:
    digits = Digits()
    found = scale_and_shift(digits, (1, 8, 8))
    assert found is not None
    inputs = torch.arange(64.0).reshape(1, 1, 8, 8)
    torch.testing.assert_close(inputs * found[0] + found[1], digits.normalise(inputs))
    assert [part.ndim for part in found] == [0, 0]
    data = Scaled(batch_size=2)
    data.setup()
    scale, shift = scale_and_shift(data, (3,)) or (torch.zeros(()),) * 2
    torch.testing.assert_close(scale, 1 / data.largest)
    assert shift == 0
    data.normalise = lambda inputs: inputs.float().square()  # type: ignore[method-assign]
    assert scale_and_shift(data, (3,)) is None
    network = Preprocessed(nn.Identity(), digits)
    torch.testing.assert_close(network(inputs), digits.normalise(inputs))
