"""metrics.csv after a kill, a new metric, a resumption and a full disk; the outcome on dashboards."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from hypothesis import given
from hypothesis import strategies as st

from lrflow.errors import DivergedError, PrunedError, StoppedError
from lrflow.loggers.csv_file import CSVLogger
from lrflow.loggers.dashboard import About
from lrflow.loggers.loggers import build_loggers, close_loggers, drop_rows_from, log_rows
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_a_block(path: Path) -> None:
    logger = CSVLogger(path)
    logger.log_rows(["loss", "lr"], [[0, 1.5, 0.1], [1, 1.25, 0.2]])
    assert read(path) == [{"step": "0", "loss": "1.5", "lr": "0.1"}, {"step": "1", "loss": "1.25", "lr": "0.2"}]


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_numbers_are_written_exactly(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("bits") / "metrics.csv"
    CSVLogger(path).log_rows(["value"], [[index, value] for index, value in enumerate(values)])
    found = [float(row["value"]) for row in read(path)]
    assert [value.hex() for value in found] == [value.hex() for value in values]


def test_nan_and_infinity_can_be_read_back(path: Path) -> None:
    CSVLogger(path).log_rows(["value"], [[0, math.nan], [1, math.inf]])
    assert [row["value"] for row in read(path)] == ["nan", "inf"]


def test_a_row_leaves_other_columns_empty(path: Path) -> None:
    logger = CSVLogger(path)
    logger.log_rows(["loss", "lr"], [[0, 1.5, 0.1]])
    logger.log_metrics({"val/loss": 1.0, "epoch": 0}, 0)
    logger.log_rows(["lr", "loss"], [[1, 0.2, 1.25]])
    assert read(path) == [
        {"step": "0", "loss": "1.5", "lr": "0.1", "val/loss": "", "epoch": ""},
        {"step": "0", "loss": "", "lr": "", "val/loss": "1.0", "epoch": "0"},
        {"step": "1", "loss": "1.25", "lr": "0.2", "val/loss": "", "epoch": ""},
    ]


def test_every_row_is_on_disk_at_once(path: Path) -> None:
    logger = CSVLogger(path)
    for step in range(3):
        logger.log_metrics({"loss": step}, step)
        assert len(read(path)) == step + 1


def test_another_logger_appends_to_the_same_file(path: Path) -> None:
    CSVLogger(path).log_rows(["loss", "lr"], [[0, 1.5, 0.1]])
    CSVLogger(path).log_rows(["lr", "new"], [[1, 0.2, 7]])
    assert read(path) == [
        {"step": "0", "loss": "1.5", "lr": "0.1", "new": ""},
        {"step": "1", "loss": "", "lr": "0.2", "new": "7"},
    ]


@pytest.mark.parametrize("torn", ["2", "2,1.", "2,1.0,0", "2,1.0,0.3"])
def test_a_resumed_run_drops_later_rows_and_an_incomplete_one(torn: str, path: Path) -> None:
    CSVLogger(path).log_rows(["loss", "lr"], [[0, 1.5, 0.1], [1, 1.25, 0.2], [10, 1.0, 0.3]])
    with path.open("a") as file:
        file.write(torn)
    logger = CSVLogger(path)
    before = path.read_bytes()
    logger.drop_from(1)
    assert path.read_bytes() == before, "it stays as it was until the run goes on"
    logger.log_rows(["loss", "lr"], [[1, 1.125, 0.2]])
    assert [row["loss"] for row in read(path)] == ["1.5", "1.125"]


def test_an_incomplete_row_does_not_prevent_a_new_column(path: Path) -> None:
    CSVLogger(path).log_rows(["loss"], [[0, 1.5]])
    with path.open("a") as file:
        file.write("1,1.")
    CSVLogger(path).log_rows(["new"], [[1, 2.0]])
    assert read(path) == [{"step": "0", "loss": "1.5", "new": ""}, {"step": "1", "loss": "", "new": "2.0"}]


def test_rows_without_a_step_are_kept(path: Path) -> None:
    logger = CSVLogger(path)
    logger.log_metrics({"loss": 1.0}, None)
    logger.log_metrics({"loss": 2.0}, 5)
    logger.drop_from(3)
    logger.log_metrics({"loss": 3.0}, 3)
    assert [row["loss"] for row in read(path)] == ["1.0", "3.0"]


def test_no_rows_to_drop(path: Path) -> None:
    CSVLogger(path).drop_from(3)
    assert not path.exists()
    path.touch()
    CSVLogger(path).drop_from(3)
    CSVLogger(path).log_metrics({"loss": 1.0}, 3)
    assert read(path) == [{"step": "3", "loss": "1.0"}]


def test_names_of_any_kind(path: Path) -> None:
    names = ["lr/stage1.0 + head", 'lr/"quoted", with comma', "lr/größe"]
    CSVLogger(path).log_rows(names, [[0, 1, 2, 3]])
    CSVLogger(path).log_metrics({"more": 4}, 1)
    assert read(path)[0] == {"step": "0", **dict(zip(names, "123", strict=True)), "more": ""}


def test_a_full_disk_delays_rows(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = CSVLogger(path)
    logger.log_rows(["loss"], [[0, 1.5]])
    path.rename(path.with_name("kept.csv"))
    path.symlink_to("/dev/full")  # writes there fail as on a full disk
    logger.log_rows(["loss"], [[1, 1.25]])
    logger.log_rows(["loss"], [[2, 1.0]])
    assert [record.message for record in caplog.records] == [
        f"{path}: could not be written: No space left on device; the rows are written later"
    ]
    logger.finalize("success")
    assert caplog.records[-1].message == f"{path}: the last 2 rows could not be written"
    path.unlink()
    path.with_name("kept.csv").rename(path)
    logger.log_rows(["loss"], [[3, 0.5]])
    assert [row["step"] for row in read(path)] == ["0", "1", "2", "3"]
    caplog.clear()
    logger.finalize("success")
    assert not caplog.records


def test_a_full_disk_at_a_new_column(path: Path) -> None:
    logger = CSVLogger(path)
    logger.log_rows(["loss"], [[0, 1.5]])
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.symlink_to("/dev/full")
    logger.log_rows(["new"], [[1, 2.0]])
    assert not part.is_symlink(), "nothing is left of the attempt"
    logger.log_rows(["loss"], [[2, 1.0]])
    assert [row["step"] for row in read(path)] == ["0", "1", "2"]
    assert [row["new"] for row in read(path)] == ["", "2.0", ""]


def test_any_lightning_logger_gets_the_rows() -> None:
    class Listing(pl.loggers.Logger):
        name, version = "list", ""

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.seen.append((step, dict(metrics)))

    logger = Listing()
    log_rows(logger, ["loss", "lr"], [[3, 1.5, 0.1], [4, 1.25, 0.2]])
    assert logger.seen == [(3, {"loss": 1.5, "lr": 0.1}), (4, {"loss": 1.25, "lr": 0.2})]


def test_the_configured_loggers_are_built(tmp_path: Path) -> None:
    assert build_loggers({"csv": False}, tmp_path, lambda: About("x")) == []
    (found,) = build_loggers({"csv": True, "wandb": None}, tmp_path, lambda: About("x"))
    assert isinstance(found, CSVLogger)
    assert found.path == tmp_path / "metrics.csv"
    pytest.importorskip("tensorboard")
    _, board = build_loggers({"csv": True, "tensorboard": {}}, tmp_path, lambda: About("x"))
    assert Path(board.log_dir) == tmp_path / "tensorboard"


def test_only_the_csv_logger_drops_rows(path: Path) -> None:
    logger = CSVLogger(path)
    logger.log_rows(["loss"], [[0, 1.5], [1, 1.0]])

    class Trainer:
        loggers = (object(), logger)

    drop_rows_from(Trainer(), 1)  # type: ignore[arg-type]
    logger.log_rows(["loss"], [[1, 0.5]])
    assert [row["loss"] for row in read(path)] == ["1.5", "0.5"]


class Experiment:
    """Records the calls to a dashboard's own object."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.codes: list[int] = []

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


class Dashboard(pl.loggers.Logger):
    """A logger like W&B's: its run starts at the first use of `experiment`."""

    name, version = "dashboard", ""

    def __init__(self, begun: bool = True) -> None:
        super().__init__()
        self._experiment = Experiment() if begun else None
        self.statuses: list[str] = []

    @property
    def experiment(self) -> Experiment:
        self._experiment = self._experiment or Experiment()
        return self._experiment

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def finalize(self, status: str) -> None:
        self.statuses.append(status)


@pytest.mark.parametrize(
    ("outcome", "code", "status"),
    [
        (Outcome.finished(), 0, "success"),
        (Outcome.from_error(PrunedError("behind")), 0, "success"),
        (Outcome.from_error(DivergedError("the loss is nan")), 1, "failed"),
        (Outcome.from_error(ValueError("oh")), 1, "failed"),
        (Outcome.from_error(StoppedError("as asked", 143)), 143, "failed"),
        (Outcome.from_error(KeyboardInterrupt()), 130, "failed"),
        (Outcome.ended_early("a callback", 3, 9), 3, "failed"),
    ],
    ids=lambda value: getattr(value, "status", str(value)),
)
def test_every_dashboard_gets_the_outcome(outcome: Outcome, code: int, status: str) -> None:
    loggers: list[pl.loggers.Logger] = [first := Dashboard(), second := Dashboard()]
    close_loggers(loggers, outcome)
    close_loggers(loggers)  # a second time, as when the folder is left
    for logger in (first, second):
        assert logger.experiment.codes == [code]
        assert logger.experiment.summary == {"status": outcome.status, "reason": outcome.reason}
        assert logger.statuses == [status]


def test_a_failed_run_is_reported_even_if_nothing_was_logged() -> None:
    failed, refused = Dashboard(begun=False), Dashboard(begun=False)
    close_loggers([failed], Outcome.from_error(PrunedError("at its first rung")))
    assert failed.experiment.summary["status"] == "pruned"
    close_loggers([refused])
    assert refused._experiment is None


def test_an_unreachable_dashboard_hides_no_error(caplog: pytest.LogCaptureFixture) -> None:
    class Away(Dashboard):
        def finalize(self, status: str) -> None:
            raise ConnectionError("no network")

    close_loggers([Away(), other := Dashboard()], Outcome.from_error(ValueError("oh")))
    assert other.experiment.codes == [1]
    assert "Away: the outcome of the run could not be reported: no network" in caplog.text


def test_tensorboard_shows_the_rows_of_a_resumed_run_once_and_loses_none(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((0, 5), (3, 7)):  # killed after step 4, resumed from step 3
        (board,) = build_loggers({"csv": False, "tensorboard": {}}, tmp_path, lambda: About("x"))
        if first:
            drop_rows_from(SimpleNamespace(loggers=[board]), first)  # type: ignore[arg-type]
        log_rows(board, ["loss"], [[step, step / 8] for step in range(first, last)])  # not closed, as after a kill
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(step, step / 8) for step in range(7)]


def test_tensorboard_gets_the_outcome(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = build_loggers({"csv": False, "tensorboard": {}}, tmp_path, lambda: About("x"))
    close_loggers(loggers, Outcome.ended_early("a callback", 3, 9))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["tensors"] == ["outcome/text_summary"]
    (event,) = events.Tensors("outcome/text_summary")
    assert event.step == 3
    assert event.tensor_proto.string_val[0] == b"ended_early ended early after 3 of 9 steps: a callback"


def test_weights_and_biases_has_the_id_of_the_run_folder(tmp_path: Path) -> None:
    def of(folder: Path) -> str:
        (logger,) = build_loggers({"wandb": {"mode": "offline"}}, folder, lambda: About("x"))
        return str(logger._wandb_init["id"])  # type: ignore[attr-defined]

    first, second = (tmp_path / sweep / "0" for sweep in ("monday", "tuesday"))
    for folder in (first, second):
        folder.mkdir(parents=True)
    assert of(first) == of(first) == RunFolder(first).run_id
    assert of(first) != of(second), "jobs of the same number in two sweeps are two runs"
