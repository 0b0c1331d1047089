"""One run on every dashboard at once: each has the values of metrics.csv, the config, the options and the outcome."""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl

from lrflow.cli import main
from lrflow.errors import DivergedError, PrunedError, StoppedError
from lrflow.finding import Finding
from lrflow.loggers.csv_file import CSVLogger
from lrflow.loggers.dashboard import About, Dashboard
from lrflow.loggers.loggers import build_loggers, close_loggers, log_rows
from lrflow.loggers.wandb_file import rows_of
from lrflow.loggers.wandb_history import STEP
from lrflow.outcome import Outcome
from lrflow.runs import RunFolder
from lrflow.tasks import prepare as prepare_task
from lrflow.training.findings import Findings
from lrflow.training.machine import varies
from tests.support.wandb_files import Logged, files_of, metrics_in

Values = Counter[tuple[int, str, str]]
"""How often each step, name and value was logged; single precision in hexadecimal where a dashboard has no more."""

LOCAL = [name for name, package in {
    "wandb": "wandb", "tensorboard": "tensorboard", "mlflow": "mlflow", "trackio": "trackio", "comet": "comet_ml",
}.items() if find_spec(package)]  # fmt: skip
"""The loggers whose packages are installed."""

SHORT = ["trainer.max_steps=25", "trainer.val_every=10", "trainer.log_every=7", "health.sharpness=null"]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "COMET_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    if find_spec("trackio"):
        import trackio.sqlite_storage
        import trackio.utils

        for module in (trackio.utils, trackio.sqlite_storage):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")


def written(value: float) -> str:
    return float(value).hex() if math.isfinite(value) else str(float(value))


def single(value: float) -> str:
    import numpy as np

    return written(float(np.float32(value)))


def of_csv(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (int(row["step"]), name, float(text)) for row in rows for name, text in row.items() if text and name != "step"
    ]


def of_wandb(folder: Path) -> Iterator[tuple[int, str, float]]:
    for path in files_of(folder):
        for own, row in rows_of(path):
            assert own == row[STEP], "the axis is the optimizer step"
            yield from ((own, name, float(value)) for name, value in metrics_in(row).items())


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def of_tensorboard(folder: Path) -> Iterator[tuple[int, str, float]]:
    events = board(folder)
    for name in events.Tags()["scalars"]:
        if not name.startswith("best/"):
            yield from ((event.step, name, event.value) for event in events.Scalars(name))


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "lrflow")
    found = f"tags.`lrflow.run_id` = '{RunFolder(folder).run_id}'"
    (run,) = client.search_runs([experiment.experiment_id], found)
    return client, run


def of_mlflow(folder: Path) -> Iterator[tuple[int, str, float]]:
    client, run = mlflow_run(folder)
    for name in run.data.metrics:
        if name.startswith("best/"):
            continue
        yield from ((one.step, name, one.value) for one in client.get_metric_history(run.info.run_id, name))


def of_trackio(folder: Path) -> Iterator[tuple[int, str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    for row in SQLiteStorage.get_logs("lrflow", run_id=RunFolder(folder).run_id):
        names = row.keys() - {"step", "timestamp"}
        yield from ((int(row["step"]), name, float(row[name])) for name in names)


def of_comet(folder: Path) -> Iterator[tuple[int, str, float]]:
    from lrflow.loggers.comet import metrics_in

    for metric in metrics_in(folder / "comet"):
        if not metric["metricName"].startswith("sys."):
            yield int(metric["step"]), metric["metricName"], float(metric["metricValue"])


READERS = {"wandb": of_wandb, "tensorboard": of_tensorboard, "mlflow": of_mlflow, "trackio": of_trackio,
           "comet": of_comet}  # fmt: skip


def check_against_csv(folder: Path) -> None:
    """Hold each dashboard against metrics.csv: the same names, steps and values, each once."""
    expected = dict.fromkeys(of_csv(folder))  # `epoch` is in the row of a validation and in that of a test
    assert len({(step, name) for step, name, _ in expected}) == len(expected)
    assert {"train/loss", "val/loss", "lr/decay", "lr_planned/decay"} <= {name for _, name, _ in expected}
    for logger in LOCAL:
        same = single if logger == "tensorboard" else written
        found = Counter((step, name, same(value)) for step, name, value in READERS[logger](folder))
        if logger in ("tensorboard",):  # which shows every event
            found = Counter(set(found))
        assert found == Counter((step, name, same(value)) for step, name, value in expected), logger


def run(*given: str, loggers: list[str] = LOCAL) -> Path:
    assert main([*SHORT, f"logger=[{','.join(['csv', *loggers])}]", *given]) == 0
    return max(Path("outputs").glob("*_*"))


def texts_of(folder: Path) -> dict[str, str]:
    events = board(folder)
    found = {name: events.Tensors(name)[-1].tensor_proto for name in events.Tags()["tensors"]}
    return {
        name.removesuffix("/text_summary"): proto.string_val[0].decode()
        for name, proto in found.items()
        if proto.string_val
    }


def hyperparameters(folder: Path) -> tuple[dict[str, Any], list[str], list[int]]:
    """Return the hyperparameters of a run, the names of its metrics, and the states with which it ended."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    given: dict[str, Any] = {}
    metrics: list[str] = []
    states: list[int] = []
    for path in sorted((folder / "tensorboard").glob("events*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name != "hparams":
                    continue
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                for name, item in data.session_start_info.hparams.items():
                    given[name] = getattr(item, str(item.WhichOneof("kind")))
                metrics += [info.name.tag for info in data.experiment.metric_infos]
                states += [data.session_end_info.status] if data.HasField("session_end_info") else []
    return given, metrics, states


def test_every_dashboard_has_the_run(monkeypatch: pytest.MonkeyPatch, rendered: None) -> None:
    monkeypatch.setenv("MY_WORD", "nobody-may-read-this-1")
    given = ["schedule=wsd", "optimizer.lr=2e-3", "name=first", "data.loader.num_workers=0", "seed=3"]
    folder = run(
        *given, "logger.other._target_=pytorch_lightning.loggers.CSVLogger", "logger.other.name=${oc.env:MY_WORD}"
    )
    check_against_csv(folder)
    assert (folder / "nobody-may-read-this-1").is_dir(), "the other logger got the run folder and its argument"
    last = {name: value for _, name, value in of_csv(folder) if name == "val/loss"}
    best = min(value for _, name, value in of_csv(folder) if name == "val/loss")
    hidden: dict[str, Any] = {}
    if "wandb" in LOCAL:
        found = Logged(folder)
        assert (found.run.display_name, found.run.job_type, found.run.run_group) == ("first", "train", "")
        assert {"schedule=wsd", "optimizer=adamw"} <= {*found.run.tags}
        assert found.config["options"]["schedule"] == "wsd"
        assert found.config["optimizer"]["lr"] == 0.002
        assert found.summary["best/val/loss"] == best
        assert found.media["plan/table"]["nrows"] == 25
        assert found.media["plan/picture"]["width"] > 100
        assert [one.exit_code for one in found.of["exit"]] == [0]
        hidden["wandb"] = found.of
    if "mlflow" in LOCAL:
        _, found = mlflow_run(folder)
        assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
        assert found.data.tags["schedule"] == "wsd"
        assert found.data.params["optimizer.lr"] == "0.002"
        assert found.data.params["optimizer._target_"] == "torch.optim.AdamW"
        assert found.data.metrics["best/val/loss"] == best
        hidden["mlflow"] = found.data.params
    if "trackio" in LOCAL:
        from trackio.sqlite_storage import SQLiteStorage

        config = SQLiteStorage.get_run_config("lrflow", "first")
        assert (config["schedule"], config["optimizer.lr"], config["status"]) == ("wsd", 0.002, "finished")
        assert config["best/val/loss"] == best
        hidden["trackio"] = config
    if "tensorboard" in LOCAL:
        texts, events = texts_of(folder), board(folder)
        assert "lr: 0.002" in texts["config"]
        assert "| schedule | wsd |" in texts["options"]
        assert texts["plan"].split()[0].startswith("step")
        assert texts["outcome"] == "finished"
        assert events.Images("plan")[0].width > 100
        table, metrics, states = hyperparameters(folder)
        assert (table["schedule"], table["optimizer.lr"], table["seed"]) == ("wsd", 0.002, 3.0)
        assert metrics == ["val/loss", "best/val/loss"]
        assert states == [1]
        assert events.Scalars("best/val/loss")[-1].value == pytest.approx(best)
        assert events.Scalars("val/loss")[-1].value == pytest.approx(last["val/loss"])
        hidden["tensorboard"] = texts, table
    assert [name for name, shown in hidden.items() if "nobody-may" in str(shown)] == []


def test_a_run_that_was_killed_and_is_resumed_has_each_value_once() -> None:
    local = [name for name in LOCAL if name != "wandb"]  # whose own test kills it too
    words = [*SHORT, "trainer.checkpoint.every=5 steps", f"logger=[{','.join(['csv', *local])}]"]

    class Dies(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 18:
                os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        build = prepare_task.build_trainer

        def with_death(*arguments: Any, **options: Any) -> Any:
            trainer = build(*arguments, **options)
            trainer.callbacks.append(Dies())
            return trainer

        prepare_task.build_trainer = with_death
        main(words)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (folder,) = Path("outputs").iterdir()
    before = {step for step, _, _ in of_csv(folder)}
    assert max(before) >= 13, "rows after the checkpoint of step 15, or of the last block before it, are there"
    assert main([*words, f"resume={folder}"]) == 0
    assert {step for step, _, _ in of_csv(folder)} >= set(range(25))
    expected = dict.fromkeys(of_csv(folder))
    for logger in local:
        same = single if logger == "tensorboard" else written
        found = Counter((step, name, same(value)) for step, name, value in READERS[logger](folder))
        timeless = {key: count for key, count in found.items() if not varies(key[1])}
        assert {(step, name, same(value)) for step, name, value in expected if not varies(name)} == {*timeless}
        if logger != "tensorboard":
            assert {*Counter((step, name) for step, name, _ in found.elements()).values()} == {1}, logger
    if "mlflow" in LOCAL:
        client, found = mlflow_run(folder)
        assert found.info.status == "FINISHED"
        assert len(client.search_runs([found.info.experiment_id])) == 1


def test_every_dashboard_has_each_finding_once(tmp_path: Path) -> None:
    folder = RunFolder.at(tmp_path / "run")
    low, high = Finding("too_low", 30, 10, "slow"), Finding("diverging", 50, 40, "fast", {}, 1.0, "optimizer.lr=1")
    settings = {name: {"mode": "offline"} if name == "wandb" else {} for name in LOCAL}
    for session in ([low, high], [low, high]):  # the second run is resumed from a checkpoint before both
        loggers = build_loggers(settings, folder.path, lambda: About("x"))
        findings = Findings(folder.path)
        trainer = cast(Any, SimpleNamespace(is_global_zero=True, loggers=loggers))
        findings.on_train_start(trainer, cast(Any, None))
        for finding in session:
            findings.report(trainer, finding)
        log_rows(loggers[0], ["loss"], [[60, 1.0]])
        close_loggers(loggers, Outcome.finished())
    lines = [low.line, high.line]
    if "wandb" in LOCAL:
        assert [alert.text for alert in Logged(folder.path).of["alert"]] == lines
    if "tensorboard" in LOCAL:
        shown = texts_of(folder.path)
        assert [shown["findings/too_low"], shown["findings/diverging"]] == lines
    if "mlflow" in LOCAL:
        tags = mlflow_run(folder.path)[1].data.tags
        assert (tags["lrflow.findings"], tags["lrflow.findings.diverging"]) == ("too_low, diverging", high.line)
    if "trackio" in LOCAL:
        from trackio.sqlite_storage import SQLiteStorage

        alerts = SQLiteStorage.get_alerts("lrflow", run_id=folder.run_id)
        assert sorted((one["step"], one["text"]) for one in alerts) == [(30, low.line), (50, high.line)]


ENDS = [
    (Outcome.finished(), "FINISHED"),
    (Outcome.ended_early("a callback", 3, 9), "FINISHED"),
    (Outcome.from_error(PrunedError("behind")), "KILLED"),
    (Outcome.from_error(StoppedError("as asked", 143)), "KILLED"),
    (Outcome.from_error(KeyboardInterrupt()), "KILLED"),
    (Outcome.from_error(DivergedError("the loss is nan")), "FAILED"),
    (Outcome.from_error(ValueError("oh")), "FAILED"),
]


@pytest.mark.skipif("mlflow" not in LOCAL, reason="mlflow-skinny is not installed")
def test_mlflow_gets_how_a_run_ended(tmp_path: Path) -> None:
    for number, (outcome, status) in enumerate(ENDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        loggers = build_loggers(
            {"mlflow": {"tags": {"who": "me"}}}, folder, lambda: About("x", options={"schedule": "cosine"})
        )
        log_rows(loggers[0], ["a+b", "a_b"], [[0, 1.0, 2.0], [1, math.nan, math.inf]])
        close_loggers(loggers, outcome)
        client, run = mlflow_run(folder)
        assert run.info.status == status, outcome
        assert run.data.tags["lrflow.status"] == outcome.status
        assert (run.data.tags["who"], run.data.tags["schedule"]) == ("me", "cosine")
        assert client.get_metric_history(run.info.run_id, "a_b")[0].value == 1.0, "+ is spelt _"
        assert client.get_metric_history(run.info.run_id, "a_b_")[0].value == 2.0, "two metrics keep two names"


@pytest.mark.skipif("mlflow" not in LOCAL, reason="mlflow-skinny is not installed")
def test_jobs_of_a_sweep_are_runs_of_one_experiment() -> None:
    assert main(["-m", *SHORT, "logger=[csv,mlflow],csv", "optimizer.lr=1e-3,1e-2"]) == 0
    folders = [path.parent for path in sorted(Path("outputs/sweeps").glob("*/*/config.yaml"))]
    assert len(folders) == 4
    found = [mlflow_run(folder)[1] for folder in folders[:2]]
    assert {run.data.params["optimizer.lr"] for run in found} == {"0.001", "0.01"}
    assert {run.data.tags["sweep"] for run in found} == {folders[0].parent.name}
    names = {run.info.run_name.partition(" ")[2] for run in found}
    assert names == {"logger=[csv,mlflow] lr=0.001", "logger=[csv,mlflow] lr=0.01"}
    assert len(mlflow_run(folders[0])[0].search_runs([found[0].info.experiment_id])) == 2


@pytest.mark.skipif("wandb" not in LOCAL, reason="wandb is not installed")
def test_tasks_that_train_nothing_are_runs_too(rendered: None) -> None:
    shown = ["logger=wandb", "logger.wandb.artifacts=true", "logger.wandb.settings.silent=true"]
    assert main(["-m", "trainer.max_steps=2", "optimizer.lr=1e-2,1e-1", *shown]) == 0
    (sweep,) = Path("outputs/sweeps").iterdir()
    assert {(Logged(sweep / job).run.run_group, Logged(sweep / job).run.display_name[-2:]) for job in "01"} == {
        (sweep.name, "01"), (sweep.name, ".1"),
    }  # fmt: skip
    found = Logged(sweep)
    assert (found.run.display_name, found.run.job_type) == (f"analyze {sweep.name}", "analyze")
    assert found.run.run_group == sweep.name
    assert {"sweep/picture", "sweep/table"} <= found.media.keys()
    assert found.artifacts == {"recipe": ["best.yaml"]}
    assert found.summary["sweep/lr"] > 0
    assert main(["task=plan", "horizon.steps=50", *shown]) == 0
    (folder,) = Path("outputs").glob("*_plan-*")
    found = Logged(folder)
    assert (found.run.display_name.split()[0], found.run.job_type) == ("plan", "plan")
    assert (found.media["plan/table"]["nrows"], found.summary["status"]) == (50, "finished")


@pytest.mark.skipif("wandb" not in LOCAL, reason="wandb is not installed")
def test_an_export_is_an_artifact_of_its_run() -> None:
    shown = ["logger.wandb.artifacts=true", "logger.wandb.settings.silent=true"]
    assert main(["trainer.max_steps=2", "task.test=false", "logger=wandb", *shown]) == 0
    assert main(["task=export", "task.to=state_dict"]) == 0
    (folder,) = Path("outputs").iterdir()
    found = Logged(folder)
    assert [run.run_id for run in found.of["run"]] == [RunFolder(folder).run_id] * 2
    assert found.artifacts["export"] == ["export.json", "model.pt", "preprocessing.pt"]
    assert "best.ckpt" in found.artifacts["model"]
    assert (found.run.job_type, found.summary["status"], len(found.of["history"])) == ("train", "finished", 2)


def test_a_logger_that_fails_is_told_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_logs.py").write_text(
        "from pytorch_lightning.loggers import Logger\n"
        "class Full(Logger):\n"
        "    name, version, seen = 'full', '', []\n"
        "    def log_metrics(self, metrics, step=None):\n"
        "        if step in (3, 9): raise OSError(28, 'No space left on device')\n"
        "        self.seen.append(step)\n"
        "    def log_hyperparams(self, *args, **options): raise ValueError('no')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = run("logger.full._target_=bad_logs.Full", "trust=bad_logs", loggers=[])
    messages = [record.getMessage() for record in caplog.records if "logger.full" in record.getMessage()]
    assert messages == [
        "logger.full: cannot log: [Errno 28] No space left on device; training goes on",
        "logger.full: 3 calls failed, so values are missing there",  # one of them the validation after step 9
    ]
    import bad_logs  # type: ignore[import-not-found]

    assert {*bad_logs.Full.seen} == {step for step, _, _ in of_csv(folder)} - {3, 9}
    assert RunFolder(folder).read_summary()["status"] == "finished"


def test_an_address_that_no_store_has_ends_no_run() -> None:
    folder = run("logger.mlflow.tracking_uri=ftp://host", loggers=["mlflow"])
    assert RunFolder(folder).read_summary()["status"] == "finished"


class Sometimes(Dashboard):
    """A dashboard that is away at times, and of which each call may arrive in part."""

    label = "sometimes"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "x", About("x"))
        self.has: list[tuple[int, str]] = []
        self.is_away = False

    def open(self) -> dict[int, set[str]]:
        if self.is_away:
            raise ConnectionError("no answer")
        known: dict[int, set[str]] = {}
        for step, name in self.has:
            known.setdefault(step, set()).add(name)
        return known

    def send(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        sent = [(step, name) for step, row in rows for name in row]
        self.has += sent[:1] if self.is_away else sent
        if self.is_away:
            raise ConnectionError("no answer")

    def show(self, findings: list[Finding]) -> None:
        if self.is_away:
            raise ConnectionError("no answer")
        self.shown = findings

    def end(self, outcome: Outcome) -> None:
        self.ended = outcome.status

    def discard(self) -> None: ...


def test_a_dashboard_that_was_away_gets_the_missing_values_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board, csv_logger = Sometimes(tmp_path), CSVLogger(tmp_path / "metrics.csv")
    for first in range(0, 30, 5):
        board.is_away = first in (5, 10, 20, 25)
        for logger in (csv_logger, board):
            log_rows(logger, ["loss", "lr"], [[step, 1.0, 2.0] for step in range(first, first + 5)])
    Findings(tmp_path).report(cast(Any, SimpleNamespace(is_global_zero=True, loggers=[board])), Finding("x", 1, 1, "y"))
    board.is_away = False
    close_loggers([board], Outcome.finished())
    assert sorted(board.has) == [(step, name) for step in range(30) for name in ("loss", "lr")]
    assert (board.ended, [one.kind for one in board.shown]) == ("finished", ["x"])
    assert caplog.text.count("logger.sometimes") == 1
    assert "logger.sometimes: cannot log: no answer; the values are logged later" in caplog.text


def test_a_dashboard_that_stays_away_is_told_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = Sometimes(tmp_path)
    board.is_away = True
    log_rows(board, ["loss"], [[0, 1.0], [1, 1.0]])
    close_loggers([board], Outcome.finished())
    assert "the outcome of the run could not be reported: it lacks the values of 2 rows" in caplog.text


class Board(Dashboard):
    """A dashboard that has the rows of steps 0 to 5 of a run that was killed."""

    def open(self) -> dict[int, set[str]]:
        return {step: {"loss"} for step in range(6)}

    def send(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        self.sent = [*getattr(self, "sent", []), *((step, row["loss"]) for step, row in rows)]

    def show(self, findings: list[Finding]) -> None: ...

    def end(self, outcome: Outcome) -> None: ...

    def discard(self) -> None: ...


def test_a_dashboard_gets_the_steps_after_a_rollback(tmp_path: Path) -> None:
    board = Board(tmp_path, "abc", About("run", {}, {}, {}, None, None, "min"))
    board.start()
    board.drop_from(3)  # the run is resumed from step 3, and these rows are repeated
    for step in (3, 4):
        board.log_metrics({"loss": 1.0}, step)
    board.drop_from(2)  # it rolls back
    for step in (2, 3, 4, 5, 6):
        board.log_metrics({"loss": 0.5}, step)
    assert board.sent == [(step, 0.5) for step in (2, 3, 4, 5, 6)]
