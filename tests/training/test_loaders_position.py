"""The position of a run in its data, at every hook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.loaders import Position


class Ask(pl.Callback):
    """Records the position at the end of each batch, validation and epoch, and of the run."""

    def __init__(self) -> None:
        self.batch_ends: list[Position] = []
        self.validation_ends: list[Position] = []
        self.epoch_ends: list[Position] = []
        self.train_ends: list[Position] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.batch_ends.append(Position.of(trainer))

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.validation_ends.append(Position.of(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.epoch_ends.append(Position.of(trainer))

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.train_ends.append(Position.of(trainer))


def at(seen: int, batches: int = 7) -> Position:
    return Position(seen // batches, seen % batches, seen)


@pytest.mark.parametrize(
    ("options", "batches", "end", "resume_at"),
    [
        *(({}, 7, 21, resume_at) for resume_at in (0, 3, 7, 9)),
        *(({"accumulate": 3}, 7, 21, resume_at) for resume_at in (0, 3, 7, 9)),
        *(({"limit_train_batches": 5}, 5, 15, resume_at) for resume_at in (0, 7)),
        *(({"drop_last": True}, 6, 18, resume_at) for resume_at in (0, 9)),
        *(({"max_epochs": -1, "max_steps": 18}, 7, 18, resume_at) for resume_at in (0, 3)),
    ],
)
def test_the_position_is_that_of_the_next_batch(
    options: dict[str, Any], batches: int, end: int, resume_at: int, train: Any, tmp_path: Path
) -> None:
    ask = Ask()
    settings = {**options, "val_every": "3 steps", "save_every": "1 step"}
    start = 0
    if resume_at:
        broken = train(tmp_path, interrupt=resume_at, **settings)
        start = read_checkpoint(broken.newest)["lrflow"]["position"]["seen"]
        run = train(tmp_path, resume=broken.newest, callbacks=[ask], **settings)
    else:
        run = train(tmp_path, callbacks=[ask], **settings)
    assert ask.batch_ends == [at(seen, batches) for seen in range(start + 1, end + 1)]
    assert set(ask.validation_ends) <= set(ask.batch_ends)
    assert len(ask.validation_ends) > 1
    epochs = [seen for seen in range(start + 1, end + 1) if seen % batches == 0 or seen == end]
    assert ask.epoch_ends == [at(seen, batches) for seen in epochs]
    assert ask.train_ends == [at(end, batches)]
    assert read_checkpoint(run.newest)["lrflow"]["position"] == at(end, batches).as_dict()


def test_it_is_restored_from_a_checkpoint(train: Any, tmp_path: Path) -> None:
    run = train(tmp_path, save_every="1 step", max_epochs=2)
    found = [Position(**read_checkpoint(path)["lrflow"]["position"]) for path in run.saved]
    assert found == [at(seen) for seen in range(1, 15)]


@pytest.mark.parametrize("position", [Position(0, 4, 4), Position(2, 0, 14), Position(2, 3, 17)])
def test_the_state_of_lightnings_loops(position: Position) -> None:
    counts = {"ready": 1, "started": 1, "processed": 1, "completed": 0}
    progress = {"total": dict(counts), "current": dict(counts)}
    loops: dict[str, Any] = {
        "epoch_progress": dict(progress),
        "epoch_loop.batch_progress": {**progress, "is_last_batch": True},
        "epoch_loop.val_loop.batch_progress": {**progress, "is_last_batch": True},
        "state_dict": {},
    }
    position.write_into(loops)
    begun = position.epoch + bool(position.batch)
    for which in ("total", "current"):
        assert loops["epoch_progress"][which] == {
            "ready": begun,
            "started": begun,
            "processed": position.epoch,
            "completed": position.epoch,
        }
    assert set(loops["epoch_loop.batch_progress"]["total"].values()) == {position.seen}
    assert set(loops["epoch_loop.batch_progress"]["current"].values()) == {position.batch}
    assert loops["epoch_loop.batch_progress"]["is_last_batch"] is False
    assert set(loops["epoch_loop.val_loop.batch_progress"]["total"].values()) == {0}
    assert loops["epoch_progress"]["total"] is not loops["epoch_progress"]["current"]
