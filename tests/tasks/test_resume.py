"""A run that is resumed from the config: what is refused before anything runs, and what a failure leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lrflow.config import compose
from lrflow.errors import LrflowError
from lrflow.tasks import train

SHORT = ["model.widths=[8]", "trainer=cpu", "trainer.max_steps=8", "trainer.progress=false", "data.batch_size=128"]
SHORT += ["trainer.checkpoint.every=4 steps", "trainer.checkpoint.keep=null", "task.test=false"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Trains under the short options and these, the last of a key; gives the run folder."""

    def go(*more: str) -> Path:
        options = {word.partition("=")[0]: word for word in (*SHORT, f"output={tmp_path}", *more)}
        return Path(train.run(compose(list(options.values())))["folder"])

    return go


@pytest.fixture
def cut(run: Callable[..., Path]) -> Callable[..., Path]:
    """The folder of a run of 8 steps whose newest checkpoint is step 4's, as if it had been killed."""

    def go(*more: str) -> Path:
        folder = run(*more)
        (folder / "checkpoints" / "step-0000008.ckpt").unlink()
        return folder

    return go


def _record(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


class _Fails(Exception):  # noqa: N818
    """Stands for whatever fails."""


def test_a_failure_before_the_first_step_leaves_the_folder_as_it_was(
    run: Callable[..., Path], cut: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut()
    before = _record(folder)
    fit = pl.Trainer.fit

    def fails(trainer: pl.Trainer, *args: Any, **options: Any) -> None:
        assert _record(folder)["config.yaml"] != before["config.yaml"]  # where further processes read it
        raise _Fails

    monkeypatch.setattr(pl.Trainer, "fit", fails)
    with pytest.raises(_Fails):
        run("optimizer.lr=0.1", f"resume.from={folder}")
    assert _record(folder) == before
    monkeypatch.setattr(pl.Trainer, "fit", fit)
    assert run(f"resume.from={folder}") == folder


def test_a_failure_after_it_leaves_what_was_run(
    run: Callable[..., Path], cut: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cut()
    before = _record(folder)
    fit = pl.Trainer.fit

    def fails(trainer: pl.Trainer, *args: Any, **options: Any) -> None:
        fit(trainer, *args, **options)
        raise _Fails

    monkeypatch.setattr(pl.Trainer, "fit", fails)
    with pytest.raises(_Fails):
        run("optimizer.lr=0.1", f"resume.from={folder}")
    assert _record(folder)["config.yaml"] != before["config.yaml"]
    assert b'"failed"' in _record(folder)["summary.json"]


def test_a_branch_that_never_began_leaves_no_folder(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = run()

    def fails(*args: Any, **options: Any) -> None:
        raise LrflowError("no")

    monkeypatch.setattr(pl.Trainer, "fit", fails)
    with pytest.raises(LrflowError):
        run(f"resume.from={folder / 'checkpoints' / 'step-0000004.ckpt'}")
    assert list(tmp_path.iterdir()) == [folder]
