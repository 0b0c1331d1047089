"""best.ckpt is a file of its own, and a resumed run makes it again where a killed one left another or none."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from lrflow.metric import Metric
from lrflow.training import best as module
from lrflow.training.best import Best
from lrflow.training.checkpoint_file import AtomicCheckpointIO, step_in


def save(path: Path, step: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"global_step": step}, path)
    return path


@pytest.fixture
def best(tmp_path: Path) -> Best:
    """The best is of step 4, and there are checkpoints of steps 2 and 4."""
    made = Best(tmp_path / "best.ckpt", Metric("val/loss", "min"))
    made.load_state_dict({"best": 0.5, "best_step": 4})
    for step in (2, 4):
        save(tmp_path / f"{step}.ckpt", step)
    return made


@pytest.mark.parametrize(
    ("there", "sources", "step", "value", "told"),
    [
        (4, [4], 4, 0.5, ""),
        (4, [], 4, 0.5, ""),
        (2, [2, 4], 4, 0.5, "was of step 2; it is now a copy of 4.ckpt"),
        (None, [4], 4, 0.5, "was missing or damaged; it is now a copy of 4.ckpt"),
        (2, [2], 2, None, "is of step 2, and the best one, of step 4, is gone: the next is the best"),
        (None, [2], None, None, "is missing or damaged, and the best one, of step 4, is gone: the next is the best"),
        (9, [2], 9, 0.5, ""),  # the resumed run makes step 9 again
    ],
)
def test_a_resumed_run_restores_it(
    there: int | None, sources: list[int], step: int | None, value: Any, told: str, best: Best, caplog: Any
) -> None:
    if there:
        save(best.path, there)
    best.restore([best.path.with_name(f"{source}.ckpt") for source in sources])
    assert step_in(best.path) == step
    assert best.value == value
    assert [message.removeprefix(f"{best.path} ") for message in caplog.messages] == ([told] if told else [])


def test_a_damaged_checkpoint_is_no_source(best: Best) -> None:
    source = best.path.with_name("4.ckpt")
    data = source.read_bytes()
    source.write_bytes(data[:-100] + b"0" + data[-99:])
    best.restore([source])
    assert not best.path.exists()


def test_an_earlier_one_stays_where_there_is_no_space(best: Best, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(best.path, 2)
    best.load_state_dict({"best": 0.7, "best_step": 2})
    best.value = 0.5
    assert best.claim(4, best=True)
    spare = [best.path.with_name("2.ckpt")]
    monkeypatch.setattr(module, "copy_whole", full)
    best.write(best.path.with_name("4.ckpt"), lambda: spare)
    assert (best.value, best.step, step_in(best.path)) == (0.7, 2, 2)
    assert not spare[0].exists(), "it made room, in vain"
    monkeypatch.undo()
    best.value = 0.5
    assert best.claim(4, best=True)
    best.write(best.path.with_name("4.ckpt"), list)
    assert (best.value, best.step, step_in(best.path)) == (0.5, 4, 4)
