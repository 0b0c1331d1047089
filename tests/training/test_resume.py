"""An interrupted run equals an uninterrupted one bit for bit, wherever it stops and however it saves and validates."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Points
from torch.utils.data import DataLoader, WeightedRandomSampler

from lrflow.layers import Rule
from lrflow.training.checkpoint_file import AtomicCheckpointIO

# Without accumulation the runs have 3 epochs of 7 batches and steps; with accumulation 3, epochs have 3 steps, the last
# of which has a single batch.
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "saved every step": {"save_every": "1 step"},
    "saved every epoch": {"save_every": "1 epoch"},
    "saved every half epoch": {"save_every": "0.5 epochs"},
    "validated every 5 steps": {"val_every": "5 steps", "save_every": "5 steps"},
    "validated every half epoch": {"val_every": "0.5 epochs", "save_every": "2 steps"},
    "validated every other epoch": {"val_every": "2 epochs", "save_every": "3 steps"},
    "no validation": {"val_size": 0, "save_every": "4 steps"},
    "accumulated": {"accumulate": 3, "save_every": "1 step"},
    "accumulated, validated within windows": {"accumulate": 3, "val_every": "0.5 epochs", "save_every": "2 steps"},
    "accumulated, validated every step": {"accumulate": 3, "val_every": "1 step", "save_every": "1 step"},
    "accumulated, validated every other step": {"accumulate": 3, "val_every": "2 steps", "save_every": "1 step"},
    "cut by max_steps": {"max_epochs": -1, "max_steps": 18, "save_every": "5 steps"},
    "cut by max_steps, validated every 4": {
        "max_epochs": -1,
        "max_steps": 18,
        "val_every": "4 steps",
        "save_every": "3 steps",
    },
    "cut by max_steps, accumulated": {"max_epochs": -1, "max_steps": 8, "accumulate": 3, "save_every": "1 step"},
    "few batches of each epoch": {"limit_train_batches": 5, "save_every": "3 steps"},
    "clipped, last batch dropped": {"clip": 0.1, "drop_last": True, "save_every": "4 steps"},
    "momentum": {
        "optimizer": torch.optim.SGD,
        "settings": {"momentum": 0.9, "nesterov": True},
        "save_every": "4 steps",
    },
    "tensor LR": {"tensor_lr": True, "save_every": "4 steps"},
    "two workers": {"workers": 2, "save_every": "4 steps"},
    "unfrozen within an epoch, and at its end": {
        "rules": (
            Rule("no_decay", match="body.*", select=["bias", "norm"], weight_decay=0.0, unfreeze=10, unfreeze_warmup=3),
            Rule("body", match="body.*", unfreeze="1 epoch"),
            Rule("head", match="head.*", lr="10x"),
        ),
        "save_every": "1 step",
    },
}
CUTS = (5, 7, 8, 13, 14)  # batches before the interruption: within an epoch, at its end, just after
EVERY_CUT = ("plain", "accumulated", "accumulated, validated within windows", "cut by max_steps, validated every 4")


def cells() -> list[tuple[str, int]]:
    """Return pairs of an arrangement and an interruption: all of them for some arrangements, two for the others."""
    found = []
    for number, name in enumerate(ARRANGEMENTS):
        turn = (CUTS[number % len(CUTS)], CUTS[(number + 2) % len(CUTS)])
        if "workers" in ARRANGEMENTS[name]:
            turn = (8, 13)
        found += [(name, cut) for cut in (CUTS if name in EVERY_CUT else turn)]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns the uninterrupted run of each arrangement, with a checkpoint of every step."""
    return {"folder": tmp_path_factory.mktemp("whole")}


@pytest.fixture
def uninterrupted(whole: dict[str, Any], train: Any) -> Any:
    def get(arrangement: str) -> Any:
        if arrangement not in whole:
            folder = whole["folder"] / str(len(whole))
            whole[arrangement] = train(folder, **{**ARRANGEMENTS[arrangement], "save_every": "1 step"})
        return whole[arrangement]

    return get


def assert_same_end(resumed: Any, reference: Any) -> None:
    """Assert that all records of the resumed run equal the uninterrupted ones, from the resumed step on."""
    assert resumed.rows() == reference.rows()
    assert resumed.weights.keys() == reference.weights.keys()
    for name, tensor in reference.weights.items():
        assert torch.equal(resumed.weights[name], tensor), name
    step, batches = resumed.resumed.step, resumed.resumed.position.seen
    assert resumed.record.rates == reference.record.rates[step:]
    assert resumed.record.batches == reference.record.batches[batches:]
    assert resumed.record.losses == reference.record.losses[batches:]
    assert resumed.trainer.global_step == reference.trainer.global_step == reference.horizon.steps
    if resumed.record.batches:
        assert resumed.trainer.current_epoch == reference.trainer.current_epoch
    assert resumed.checkpoints.best == reference.checkpoints.best


@pytest.mark.parametrize(("arrangement", "cut"), cells())
def test_an_interrupted_run_resumes_exactly(
    arrangement: str, cut: int, train: Any, uninterrupted: Any, tmp_path: Path
) -> None:
    options = ARRANGEMENTS[arrangement]
    reference = uninterrupted(arrangement)
    broken = train(tmp_path, interrupt=cut, **options)
    saving = broken.checkpoints
    every = saving._every._steps if saving._every else saving._every_epochs * broken.horizon.steps_per_epoch
    done = broken.trainer.global_step
    # Each best one is saved too, besides those that were due.
    assert {int(path.stem[5:]) for path in broken.saved} >= set(range(every, done + 1, every))
    if broken.newest is not None:
        assert_same_end(train(tmp_path, resume=broken.newest, **options), reference)


@pytest.mark.parametrize(
    "arrangement",
    [
        "validated every 5 steps",
        "accumulated, validated within windows",
        "cut by max_steps",
        "unfrozen within an epoch, and at its end",
    ],
)
def test_a_checkpoint_of_any_step_resumes_exactly(
    arrangement: str, train: Any, uninterrupted: Any, tmp_path: Path
) -> None:
    reference = uninterrupted(arrangement)
    steps = [int(path.stem[5:]) for path in reference.saved]
    assert steps == list(range(1, reference.horizon.steps + 1))
    for step in steps[1::3]:
        folder = tmp_path / str(step)
        shutil.copytree(reference.folder, folder)  # with the rows of the steps after it, which are written again
        checkpoint = folder / "checkpoints" / f"step-{step:07d}.ckpt"
        assert_same_end(train(folder, resume=checkpoint, **ARRANGEMENTS[arrangement]), reference)


@pytest.mark.parametrize(
    "arrangement", ["validated every 5 steps", "accumulated", "cut by max_steps, validated every 4"]
)
def test_a_run_interrupted_twice_resumes_exactly(
    arrangement: str, train: Any, uninterrupted: Any, tmp_path: Path
) -> None:
    options = {**ARRANGEMENTS[arrangement], "save_every": "2 steps"}
    once = train(tmp_path, interrupt=8, **options).newest
    twice = train(tmp_path, interrupt=6, resume=once, **options).newest
    assert twice.name > once.name
    assert_same_end(train(tmp_path, resume=twice, **options), uninterrupted(arrangement))


class OwnOrder(Points):
    """Its training loader draws its order, and the seed of its workers, from the global generator at each epoch."""

    def train_dataloader(self) -> Any:
        data = super().train_dataloader().dataset
        return DataLoader(data, 16, sampler=WeightedRandomSampler([1.0] * len(data), len(data)))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loader_with_its_own_order_resumes_exactly_between_epochs(epochs: int, train: Any, tmp_path: Path) -> None:
    def run(folder: Path, **options: Any) -> Any:
        return train(tmp_path / folder, save_every="1 epoch", data=OwnOrder(val_size=32), **options)

    broken = run(Path("cut"), interrupt=7 * epochs)
    assert_same_end(run(Path("cut"), resume=broken.newest), run(Path("whole")))


@pytest.mark.parametrize("arrangement", ["plain", "accumulated", "cut by max_steps", "validated every other epoch"])
def test_a_finished_run_has_nothing_left_to_train(
    arrangement: str, train: Any, uninterrupted: Any, tmp_path: Path
) -> None:
    reference = uninterrupted(arrangement)
    shutil.copytree(reference.folder, tmp_path / "again")
    checkpoints = sorted((tmp_path / "again" / "checkpoints").iterdir())
    again = train(tmp_path / "again", resume=checkpoints[-1], **ARRANGEMENTS[arrangement])
    assert again.record.batches == []
    assert_same_end(again, reference)
    assert sorted((tmp_path / "again" / "checkpoints").iterdir()) == checkpoints


def test_resuming_at_an_epochs_end_adds_no_empty_epoch(train: Any, uninterrupted: Any, tmp_path: Path) -> None:
    """Lightning's own checkpoint of an epoch's last step makes the resumed run one epoch too short (2.6.6)."""
    reference = uninterrupted("saved every epoch")
    broken = train(tmp_path, interrupt=7, save_every="1 epoch")
    assert (broken.newest.name, broken.trainer.current_epoch) == ("step-0000007.ckpt", 1)
    resumed = train(tmp_path, resume=broken.newest, save_every="1 epoch")
    assert resumed.resumed.position.__dict__ == {"epoch": 1, "batch": 0, "seen": 7}
    assert resumed.trainer.current_epoch == reference.trainer.current_epoch == 3
    assert len(resumed.record.batches) == 14


def test_a_checkpoint_holds_the_validation_of_its_step(train: Any, tmp_path: Path) -> None:
    """Lightning saves first and validates then, so that the resumed run never does (2.6.6)."""
    broken = train(tmp_path, interrupt=5, val_every="5 steps", save_every="5 steps")
    assert broken.column("val/loss") == [broken.checkpoints.best]
    assert AtomicCheckpointIO().load_checkpoint(broken.newest)["callbacks"]["Checkpoints"]["best"] == pytest.approx(
        broken.checkpoints.best, abs=0
    )


@pytest.mark.parametrize("val_every", ["1 step", "5 steps", "2 epochs"])
def test_validation_does_not_change_training(
    val_every: str, train: Any, uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Independent of its frequency and of random numbers that it draws."""
    from lrflow.training import Supervised

    count = Supervised._count

    def draw_and_count(self: Any, *args: Any) -> None:
        random.random(), np.random.rand(), torch.rand(3)
        count(self, *args)

    monkeypatch.setattr(Supervised, "_count", draw_and_count)
    run, reference = train(tmp_path, val_every=val_every), uninterrupted("plain")
    assert run.record.losses == reference.record.losses
    assert all(torch.equal(run.weights[name], tensor) for name, tensor in reference.weights.items())


def test_another_seed_gives_another_run(train: Any, uninterrupted: Any, tmp_path: Path) -> None:
    other = train(tmp_path, seed=1)
    assert other.record.batches != uninterrupted("plain").record.batches
    assert other.record.losses != uninterrupted("plain").record.losses
