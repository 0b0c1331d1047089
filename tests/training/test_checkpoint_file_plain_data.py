"""Values in a checkpoint are restored exactly, or rejected when it is saved."""

from __future__ import annotations

import collections
import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrflow.errors import LrflowError
from lrflow.training.checkpoint_file import (
    AtomicCheckpointIO,
    BrokenCheckpointError,
    newest_whole_checkpoint,
    read_checkpoint,
)


def through_a_file(content: dict[str, Any], path: Path) -> dict[str, Any]:
    AtomicCheckpointIO().save_checkpoint(content, path)
    torch.load(path, weights_only=True)
    return read_checkpoint(path, map_location="cpu", mmap=True)


NUMPY = [
    *(np.dtype(kind).type(1.1) for kind in ("f2", "f4", "f8", "c8", "i1", "i8", "u2", "u8", "?")),
    np.arange(5),
    np.arange(6.0).reshape(2, 3).T[::-1],
    np.zeros((0, 3), "f4"),
    np.array(2.5),
    np.arange(3, dtype=">i4"),
    np.array(["a", "bcd"]),
    np.str_("mean"),
    np.datetime64(3, "ns"),
]


@pytest.mark.parametrize("value", NUMPY, ids=lambda value: f"{type(value).__name__}-{value.dtype.str}")
def test_numpy_values_are_restored(value: Any, tmp_path: Path) -> None:
    found = through_a_file({"top": value, "deep": {"list": [1, (2, value)]}}, tmp_path / "x.ckpt")
    assert found.keys() == {"top", "deep"}
    for one in (found["top"], found["deep"]["list"][1][1]):
        assert type(one) is type(value)
        assert one.dtype == value.dtype
        np.testing.assert_array_equal(one, value)


def test_the_input_is_unchanged_and_plain_data_is_not_copied(tmp_path: Path) -> None:
    state = collections.OrderedDict(weight=torch.ones(2))
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    given = {"state_dict": state, "loss": np.float32(2), "seen": {np.int64(3)}, "by": {np.int64(4): "x"}}
    kept = dict(given)
    found = through_a_file(given, tmp_path / "x.ckpt")
    assert given == kept
    assert type(given["loss"]) is np.float32
    assert found["state_dict"]._metadata == state._metadata
    assert (found["seen"], found["by"]) == ({3}, {4: "x"})


class Mine:
    pass


class Word(enum.Enum):
    ONE = 1


def test_values_that_could_not_be_loaded_are_rejected_at_saving(tmp_path: Path) -> None:
    content = {
        "callbacks": {"health.spikes": {"lowest": Mine(), "fine": torch.Size([2]), "count": collections.Counter("aa")}},
        "many": [0, Word.ONE, lambda: None, np.array([Mine()]), {Word.ONE: 3}],
    }
    with pytest.raises(LrflowError) as caught:
        AtomicCheckpointIO().save_checkpoint(content, tmp_path / "x.ckpt")
    for line in (
        f'checkpoint["callbacks"]["health.spikes"]["lowest"]: {__name__}.Mine',
        f'checkpoint["many"][1]: {__name__}.Word',
        'checkpoint["many"][2]: function',
        'checkpoint["many"][3]: numpy.ndarray of object',
        f'checkpoint["many"][4][{Word.ONE!r}]: {__name__}.Word',
    ):
        assert f"    {line}\n" in str(caught.value)
    assert str(caught.value).count('checkpoint["') == 5
    assert not list(tmp_path.iterdir())


def test_unreadable_hyperparameters_are_left_out(tmp_path: Path) -> None:
    found = through_a_file({"hyper_parameters": {"loss": Mine(), "lr": np.float64(1)}, "step": 1}, tmp_path / "x.ckpt")
    assert found == {"step": 1}


def test_the_newest_whole_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    good = tmp_path / "step-0000001.ckpt"
    io.save_checkpoint({"step": 1}, good)
    for step in (2, 3):
        torch.save({"lowest": Mine()}, tmp_path / f"step-000000{step}.ckpt")
    assert newest_whole_checkpoint(tmp_path) == good
    with pytest.raises(BrokenCheckpointError, match=f"more than plain data.*\n.*newest whole one is {good}"):
        read_checkpoint(tmp_path / "step-0000003.ckpt")
