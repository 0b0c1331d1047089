"""When a run saves, which checkpoints it keeps, and how it handles failed writes."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lrflow.errors import LrflowError, SettingError, StoppedError
from lrflow.metric import Metric
from lrflow.schedules import Constant, Horizon, Schedule
from lrflow.training import Checkpoints
from lrflow.training import best as best_checkpoints
from lrflow.training.checkpoint_file import read_checkpoint
from lrflow.training.interrupt import StopRequest
from lrflow.training.monitor import Monitor


def names(run: Any) -> list[str]:
    return sorted(os.listdir(run.folder / "checkpoints"))


def steps(run: Any) -> list[int]:
    return [int(path.stem[5:]) for path in run.saved]


class FullDisk(pl.Callback):
    """Every write of a checkpoint of these steps fails, as on a full disk."""

    def __init__(self, folder: Path, *at: int) -> None:
        self.parts = [folder / "checkpoints" / f".step-{step:07d}.ckpt.{os.getpid()}.part" for step in at]

    def fill(self, *_: Any) -> None:
        for part in self.parts:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            part.symlink_to("/dev/full")

    on_train_batch_end = on_train_end = fill


class TestKept:
    def test_the_latest_and_the_best_are_kept(self, train: Any, tmp_path: Path) -> None:
        run = train(tmp_path, save_every="2 steps", keep=2)
        assert names(run) == ["best.ckpt", "step-0000020.ckpt", "step-0000021.ckpt"]

    def test_keep_none_keeps_all(self, train: Any, tmp_path: Path) -> None:
        assert steps(train(tmp_path, save_every="5 steps", val_size=0)) == [5, 10, 15, 20, 21]

    def test_without_every_only_the_end_is_saved(self, train: Any, tmp_path: Path) -> None:
        assert names(train(tmp_path, save_every=None, val_size=0)) == ["step-0000021.ckpt"]

    @pytest.mark.parametrize("val_every", ["1 epoch", "3 steps"])
    def test_the_best_is_of_the_best_validation(self, val_every: str, train: Any, tmp_path: Path) -> None:
        run = train(tmp_path, val_every=val_every, save_every="1 step", lr=10.0, schedule=Schedule(Constant()))
        rows = [row for row in run.rows() if row["val/loss"]]
        best = min(rows, key=lambda row: float(row["val/loss"]))
        assert best is not rows[-1]  # at this high LR an earlier validation is the best
        content = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
        assert content["global_step"] == int(best["step"]) + 1
        assert run.checkpoints.best == pytest.approx(float(best["val/loss"]), rel=1e-6)

    def test_the_best_survives_the_damage_of_the_checkpoint_it_was(self, train: Any, tmp_path: Path) -> None:
        run = train(tmp_path, max_epochs=1, keep=1)
        last, best = run.newest, tmp_path / "checkpoints" / "best.ckpt"
        assert (read_checkpoint(best)["global_step"], read_checkpoint(last)["global_step"]) == (7, 7)
        with last.open("r+b") as file:
            file.truncate(100)
        assert read_checkpoint(best)["global_step"] == 7

    @pytest.mark.parametrize(
        ("monitor", "hint"), [("val/los", "did you mean val/loss?"), ("x", "known: val/loss, val/accuracy")]
    )
    def test_a_missing_metric_ends_the_run_after_it_was_saved(
        self, monitor: str, hint: str, prepare: Any, tmp_path: Path
    ) -> None:
        run = prepare(tmp_path, monitor=monitor)
        with pytest.raises(SettingError) as caught:
            run.fit()
        assert caught.value.exit_code == 2
        assert hint in str(caught.value)
        assert "trainer.checkpoint.monitor" in str(caught.value)
        assert names(run) == ["step-0000007.ckpt"], "of the first validation"

    def test_without_a_metric_no_best_is_kept(
        self, train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert names(train(tmp_path, monitor=None, keep=1)) == ["step-0000021.ckpt"]
        assert not caplog.records

    def test_another_metric_resets_the_best(self, tmp_path: Path) -> None:
        def after(metric: Metric | None, state: dict[str, Any]) -> float | None:
            resumed = Checkpoints(tmp_path, Horizon(10), None, metric=metric)
            resumed.load_state_dict(state)
            return resumed.best

        loss, accuracy = Metric("val/loss", "min"), Metric("val/accuracy", "max")
        saved = Checkpoints(tmp_path, Horizon(10), None, metric=loss)
        saved.load_state_dict({"best": 0.4})
        state = saved.state_dict()
        assert after(loss, state) == after(accuracy, {"best": 0.4}) == 0.4, "earlier versions noted no metric"
        assert after(accuracy, state) is after(Metric("val/loss", "max"), state) is after(None, state) is None

    def test_partial_files_of_killed_processes_are_deleted(self, train: Any, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / ".step-0000003.ckpt.1234.part").write_bytes(bytes(10))
        assert names(train(tmp_path, max_epochs=1)) == ["best.ckpt", "step-0000007.ckpt"]


class TestDue:
    def test_an_empty_validation_set_delays_no_checkpoint(self, train: Any, tmp_path: Path) -> None:
        run = train(tmp_path, val_size=0, val_every="2 steps", save_every="2 steps", max_epochs=1)
        assert steps(run) == [2, 4, 6, 7]

    def test_every_accepts_all_units(self, train: Any, tmp_path: Path) -> None:
        assert steps(train(tmp_path / "a", save_every="1 epoch", val_size=0)) == [7, 14, 21]
        assert steps(train(tmp_path / "b", save_every="20%", val_size=0)) == [4, 8, 12, 16, 20, 21]
        assert steps(train(tmp_path / "c", save_every="0.5 epochs", val_size=0, accumulate=3)) == [2, 4, 6, 8, 9]

    def test_a_module_without_the_monitored_metric(self, train: Any, tmp_path: Path, network_of_points: Any) -> None:
        from lrflow.layers import Rule

        class Own(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net = network_of_points()

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        run = train(tmp_path, module=Own(), rules=[Rule("all", match="*")], max_epochs=1)
        assert names(run) == ["step-0000007.ckpt"]


class TestContent:
    def test_it_holds_what_lightning_does_not_save(self, train: Any, tmp_path: Path) -> None:
        run = train(tmp_path, max_epochs=1)
        content = torch.load(run.newest, weights_only=True)
        ours = content["lrflow"]
        assert ours["position"] == {"epoch": 1, "batch": 0, "seen": 7}
        assert {"python", "numpy", "torch"} <= ours["random"][0].keys()
        assert ours["plan"] == run.plan.to_dict()
        assert ours["groups"] == [list(map(str, names)) for names in ours["groups"]]
        assert content["lr_schedulers"] == [{"step": 7, "fingerprint": run.plan.fingerprint}]
        assert "hyper_parameters" not in content

    def test_a_monitor_can_prevent_saving(self, prepare: Any, tmp_path: Path) -> None:
        class Refuses(Monitor):
            def before_save(self, trainer: Any) -> None:
                raise LrflowError("not this one")

        run = prepare(tmp_path, max_epochs=1, callbacks=[Refuses()])
        with pytest.raises(LrflowError, match="not this one"):
            run.fit()
        assert run.saved == []


def with_losses(run: Any, losses: Sequence[float]) -> None:
    """Let the validations of a run have these losses."""
    improves, values = run.checkpoints.improves, iter(losses)

    def with_loss(trainer: Any) -> bool:
        given = {"callback_metrics": {"val/loss": next(values)}, "progress_bar_metrics": {}, "is_global_zero": True}
        return improves(SimpleNamespace(strategy=trainer.strategy, fit_loop=trainer.fit_loop, **given))

    run.checkpoints.improves = with_loss


class TestNotWritten:
    def test_a_temporarily_full_disk(self, train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        run = train(tmp_path, callbacks=[FullDisk(tmp_path, 14)])
        assert run.trainer.global_step == 21
        assert steps(run) == [7, 21]
        (told,) = [record.message for record in caplog.records if record.name == "lrflow"]
        assert "step-0000014.ckpt: could not be written: No space left on device" in told
        assert "the run continues" in told

    @pytest.mark.parametrize(
        ("full", "losses", "best"),
        [((14,), (3.0, 1.0, 2.0), 21), ((14,), (1.0, 0.5, 2.0), 7), ((7,), (1.0, 2.0, 3.0), 14)],
    )
    def test_only_written_checkpoints_count_for_the_best(
        self, full: tuple[int, ...], losses: tuple[float, ...], best: int, prepare: Any, tmp_path: Path
    ) -> None:
        run = prepare(tmp_path, callbacks=[FullDisk(tmp_path, *full)])
        with_losses(run, losses)
        run.fit()
        assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == best
        assert run.checkpoints.best == losses[best // 7 - 1]

    def test_a_best_written_at_the_second_attempt_counts(self, prepare: Any, tmp_path: Path) -> None:
        class FullOnce(FullDisk):
            def on_train_end(self, *_: Any) -> None:
                for part in self.parts:
                    part.unlink(missing_ok=True)

        run = prepare(tmp_path, callbacks=[FullOnce(tmp_path, 21)])
        run.fit()
        values = [float(row["val/loss"]) for row in run.rows() if row["val/loss"]]
        assert values[-1] == min(values)
        assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 21

    @pytest.mark.parametrize("copies", [[False, True], [False, False, False]])
    def test_the_only_copy_of_the_best_stays_where_there_is_no_space(
        self, copies: list[bool], prepare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left, copy = iter(copies), best_checkpoints.copy_whole

        def copying(source: Path, path: Path) -> Path:
            if next(left, False):
                return copy(source, path)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(best_checkpoints, "copy_whole", copying)
        run = prepare(tmp_path, keep=1)
        with_losses(run, (1.0, 2.0, 3.0))
        run.fit()
        assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 7
        assert steps(run) == [21]

    def test_a_full_disk_at_the_end(self, prepare: Any, tmp_path: Path) -> None:
        run = prepare(tmp_path, callbacks=[FullDisk(tmp_path, 14, 21)])
        with pytest.raises(LrflowError) as caught:
            run.fit()
        assert type(caught.value) is LrflowError
        assert str(caught.value).endswith("the last checkpoint could not be written: No space left on device")
        assert str(tmp_path / "checkpoints") in str(caught.value)
        assert run.trainer.global_step == 21
        assert steps(run) == [7]
        assert read_checkpoint(run.newest)["global_step"] == 7

    @pytest.fixture
    def room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Limits the folder of the checkpoints to a number of them, as a full disk would."""
        fsync = os.fsync

        def limit(files: float) -> None:
            def sync(descriptor: int) -> None:
                sizes = [path.stat().st_size for path in (tmp_path / "checkpoints").glob("*ckpt*")]
                if sum(sizes) > files * max(sizes, default=0):
                    raise OSError(errno.ENOSPC, "No space left on device")
                fsync(descriptor)

            monkeypatch.setattr(os, "fsync", sync)

        return limit

    def test_the_oldest_goes_first_where_space_is_short(
        self, train: Any, tmp_path: Path, room: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        room(3.2)  # two and the best, but no third
        run = train(tmp_path, save_every="1 step", val_every="2 steps", keep=2)
        assert steps(run)[-1] == 21
        assert read_checkpoint(run.newest)["global_step"] == 21
        best = min((row for row in run.rows() if row["val/loss"]), key=lambda row: float(row["val/loss"]))
        assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == int(best["step"]) + 1
        assert not [message for message in caplog.messages if "could not be written" in message]
        assert f"{tmp_path / 'checkpoints'}: No space left on device; deleting step-0000001.ckpt" in caplog.messages

    @pytest.mark.parametrize("keep", [2, None])
    def test_the_only_whole_one_never_goes(self, keep: int | None, prepare: Any, tmp_path: Path, room: Any) -> None:
        room(1.5 if keep else 3.2)
        run = prepare(tmp_path, save_every="1 step", val_size=0, keep=keep)
        with pytest.raises(LrflowError, match="the last checkpoint could not be written"):
            run.fit()
        assert steps(run) == ([1] if keep else [1, 2, 3]), "with keep=null none is spare"
        assert read_checkpoint(run.newest)["global_step"] == steps(run)[-1]

    def test_an_unwritable_folder(self, prepare: Any, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").touch()  # root may write to any folder, but not into a file
        run = prepare(tmp_path)
        with pytest.raises(LrflowError, match="the last checkpoint could not be written"):
            run.fit()
        assert run.trainer.global_step == 21

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder(self, prepare: Any, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").mkdir(mode=0o500)
        with pytest.raises(LrflowError, match="could not be written: Permission denied"):
            prepare(tmp_path).fit()

    def test_a_stopped_run_reports_that_nothing_was_saved(self, prepare: Any, tmp_path: Path) -> None:
        stop = StopRequest()

        class Ask(pl.Callback):
            def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
                if trainer.global_step == 3:
                    stop.signal = 15

        (tmp_path / "checkpoints").touch()
        with pytest.raises(StoppedError, match="stopped as asked after 4 steps; nothing could be saved") as caught:
            prepare(tmp_path, callbacks=[Ask()], stop=stop).fit()
        assert caught.value.exit_code == 143


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        *(({}, asked) for asked in (1, 6, 7, 10, 13)),
        *(({"accumulate": 3}, asked) for asked in (1, 6, 7, 10, 13)),
        *(({"val_every": "2 steps"}, asked) for asked in (1, 6, 7)),
        *(({"val_size": 0}, asked) for asked in (6, 13)),
    ],
)
def test_a_stop_request_saves_at_the_next_step_boundary(
    options: dict[str, Any], asked: int, prepare: Any, train: Any, tmp_path: Path
) -> None:
    """A request at the start of a batch completes the batch's window; the resumed run is exact."""
    stop = StopRequest()
    accumulate = options.get("accumulate", 1)

    class Ask(pl.Callback):
        batch = 0

        def on_train_batch_start(self, *_: Any) -> None:
            if self.batch == asked:
                stop.signal = 15
            self.batch += 1

    run = prepare(tmp_path / "run", callbacks=[Ask()], stop=stop, save_every=None, **options)
    with pytest.raises(StoppedError) as caught:
        run.fit()
    done = asked // 7 * -(-7 // accumulate) + asked % 7 // accumulate + 1
    assert run.trainer.global_step == done
    assert str(caught.value) == (
        f"stopped as asked after {done} step{'s' * (done > 1)}; "
        f"saved as {run.newest}; continue with resume={run.folder}"
    )
    assert len(run.rows()) >= done
    resumed = train(tmp_path / "run", resume=run.newest, **options)
    whole = train(tmp_path / "whole", **options)
    assert resumed.rows() == whole.rows()
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())
