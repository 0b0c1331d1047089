"""A run that is resumed from the config: what is refused before anything runs, and what a failure leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lrflow.config import compose
from lrflow.config.targets import optimizer_traits
from lrflow.data import Digits
from lrflow.errors import ConfigError, LrflowError
from lrflow.optimizers import traits_of
from lrflow.runs import RunFolder
from lrflow.tasks import train
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.resume_checks import check_same_optimizer

SHAMPOO = "lrflow.optimizers.Shampoo"
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
        assert RunFolder(folder).present_config.read_bytes() != before["config.yaml"]  # further processes read it
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


def test_data_that_changed_is_reported(
    run: Callable[..., Path],
    cut: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, load = cut(), Digits.load

    def other(self: Digits) -> Any:
        pool, test = load(self)
        pool.inputs[:] = pool.inputs + 1
        return pool, test

    shutil.copytree(folder, copy := folder.with_name("copy"))
    run(f"resume.from={folder}")
    assert not caplog.messages
    monkeypatch.setattr(Digits, "load", other)
    run(f"resume.from={copy}")
    assert caplog.messages == ["the data is not what the run was trained on: train: other values; val: other values"]


def _optimizer(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"torch.optim.{name}", "lr": 0.1, **settings}


@pytest.mark.parametrize(
    ("before", "now", "key"),
    [
        (_optimizer("AdamW"), _optimizer("Adamax"), "optimizer._target_"),
        (_optimizer("AdamW", amsgrad=False), _optimizer("Adam", amsgrad=True), "optimizer.amsgrad"),
        (_optimizer("RMSprop"), _optimizer("RMSprop", centered=True), "optimizer.centered"),
        (_optimizer("RMSprop", momentum=0.0), _optimizer("RMSprop", momentum=0.9), "optimizer.momentum"),
        (_optimizer("LBFGS", history_size=10), _optimizer("LBFGS", history_size=3), "optimizer.history_size"),
        (_optimizer("LBFGS"), _optimizer("LBFGS", history_size=100), None),
        (_optimizer("LBFGS"), _optimizer("LBFGS", history_size=3), "optimizer.history_size"),
        (_optimizer("LBFGS", history_size=3), _optimizer("LBFGS"), "optimizer.history_size"),
        ({"_target_": SHAMPOO}, {"_target_": SHAMPOO, "block_size": 64}, "optimizer.block_size"),
        ({"_target_": SHAMPOO, "block_size": 512}, {"_target_": SHAMPOO}, None),
        (
            _optimizer("AdamW", routes={"a": _optimizer("SGD")}),
            _optimizer("AdamW", routes={"a": _optimizer("Adagrad")}),
            "optimizer.routes.a._target_",
        ),
        (_optimizer("AdamW"), _optimizer("Adam"), None),
        (_optimizer("AdamW", amsgrad=True), _optimizer("AdamW", amsgrad=False), None),
        (_optimizer("SGD", momentum=0.0), _optimizer("SGD", momentum=0.9), None),
        (_optimizer("AdamW"), _optimizer("AdamW", routes={"a": _optimizer("SGD")}), None),
    ],
)
def test_the_optimizers_whose_state_a_checkpoint_lacks(
    before: dict[str, Any], now: dict[str, Any], key: str | None
) -> None:
    assert [problem.key for problem in check_same_optimizer(before, now, optimizer_traits)] == ([key] if key else [])


def test_what_another_class_fixes_holds_over_the_checkpoint(cut: Callable[..., Path], run: Callable[..., Path]) -> None:
    """Adam goes on from AdamW's state, but not with its decoupled weight decay."""
    folder = cut("optimizer=adamw", "optimizer.weight_decay=0.5", "optimizer.amsgrad=true")
    groups = {}
    for name in ("AdamW", "Adam"):
        source = folder / "checkpoints" / "step-0000004.ckpt"
        same = [f"optimizer._target_=torch.optim.{name}", "~optimizer.amsgrad", f"name={name}"]
        copy = folder.with_name(name)
        shutil.copytree(folder, copy)
        run("optimizer=adamw", "optimizer.weight_decay=0.5", *same, f"resume.from={copy / source.relative_to(folder)}")
        saved = read_checkpoint(copy / "checkpoints" / "step-0000008.ckpt")["optimizer_states"][0]["param_groups"]
        groups[name] = [(group["decoupled_weight_decay"], group["amsgrad"]) for group in saved]
    assert {*groups["AdamW"]} == {(True, False)}
    assert {*groups["Adam"]} == {(False, False)}


def test_the_default_of_a_class_of_ones_own_is_the_runs_setting() -> None:
    class Mine(torch.optim.LBFGS):
        def __init__(self, params: Any, lr: float = 0.5, history_size: int = 10) -> None:
            super().__init__(params, lr=lr, history_size=history_size)

    class Sub(Mine):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **options)

    for target in (Mine, Sub):
        find = partial(lambda made, _: traits_of(made), target)
        for before, now, told in (({}, {"history_size": 3}, 3), ({"history_size": 3}, {}, 10), ({}, {}, None)):
            found = check_same_optimizer({"_target_": "m.Mine", **before}, {"_target_": "m.Mine", **now}, find)
            assert [problem.value for problem in found] == ([told] if told else [])


@pytest.mark.parametrize("other", ["adamax", "amsgrad", "schedule_free_adamw"])
def test_another_optimizer_is_told_before_anything_runs(
    run: Callable[..., Path], cut: Callable[..., Path], other: str
) -> None:
    if other.startswith("schedule_free"):
        pytest.importorskip("schedulefree")
    folder = cut("optimizer=adamw")
    before = _record(folder)
    with pytest.raises(ConfigError, match=r"^optimizer\.(_target_|amsgrad) = "):
        run(f"optimizer={other}", f"resume.from={folder}")
    assert _record(folder) == before


def test_what_has_trained_is_not_frozen_again(run: Callable[..., Path], cut: Callable[..., Path]) -> None:
    rules = ["model.widths=[8,8]", "layers=gradual_unfreezing"]
    folder = cut(*rules, "layers.every=1 steps")
    with pytest.raises(ConfigError, match=r"layers: these groups have trained.* \(since step 2, until step 6\)"):
        run(*rules, "layers.every=3 steps", f"resume.from={folder}")
    assert run(*rules, "layers.every=2 steps", f"resume.from={folder}") == folder


def test_groups_that_another_version_makes_are_refused(
    run: Callable[..., Path], cut: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = ["model.widths=[8,8]", "layers=layer_decay"]
    with monkeypatch.context() as older:
        older.setattr("lrflow.layers.depth.UNDECAYED", ("bias", "norm"))
        same = cut(*rules)
        older.setattr("lrflow.layers.depth.UNDECAYED", ("bias",))
        folder = cut(*rules)
    before = _record(folder)
    with pytest.raises(
        ConfigError, match=r"layers: .* by an earlier version: .*weight decay 0.05\).*; now .*decay 0\)"
    ):
        run(*rules, f"resume.from={folder}")
    assert _record(folder) == before
    assert run(*rules, "layers.no_decay=false", f"resume.from={folder}") == folder  # that was asked for
    assert run(*rules, f"resume.from={same}") == same


def test_what_starts_without_state_is_told(
    run: Callable[..., Path], cut: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cut("optimizer=muon", "model.widths=[8,8]")
    capsys.readouterr()
    run("optimizer=adamw", "model.widths=[8,8]", f"resume.from={folder}")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "without state" in line]
    assert line == "  without state, because their optimizer changed: stage1.linear.weight, stage2.linear.weight"
