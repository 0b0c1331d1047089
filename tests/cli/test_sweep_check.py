from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lrflow.cli import main
from lrflow.config import Config
from lrflow.errors import ConfigError, LrflowError, Problem, StoppedError


def test_every_job_is_run_in_its_folder(task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task(lambda config: {"test/accuracy": 1 / config.optimizer.lr, "folder": str(config.run_folder)})
    assert main(["-m", "optimizer=sgd,adamw", "optimizer.lr=0.1,0.01", "seed=3"]) == 0
    assert [(c.choices["optimizer"], c.optimizer.lr) for c in ran] == [
        ("sgd", 0.1), ("sgd", 0.01), ("adamw", 0.1), ("adamw", 0.01),
    ]  # fmt: skip
    folders = [config.run_folder for config in ran]
    assert [folder.name for folder in folders] == ["0", "1", "2", "3"]
    assert len({folder.parent for folder in folders}) == 1
    assert folders[0].parent.parent == Path("outputs/sweeps")
    assert all(folder.is_dir() for folder in folders)
    assert ran[1].overrides == ["optimizer=sgd", "optimizer.lr=0.01", "seed=3"]

    out = capsys.readouterr().out
    table = out[out.index("sweep of") :].splitlines()
    assert table[0].startswith("sweep of 4 jobs in outputs/sweeps/")
    assert table[1] == "each with seed=3"
    assert table[2].split() == ["job", "optimizer", "optimizer.lr", "test/accuracy", "time", "status", "folder"]
    assert table[4].split()[:4] == ["1", "sgd", "0.01", "100"]


def test_one_failure_does_not_stop_the_others(task, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> dict[str, float]:
        if config.seed == 1:
            raise LrflowError("the loss is nan")
        if config.seed == 2:
            raise ValueError("oh")
        return {"test/accuracy": 0.5}

    ran = task(run)
    assert main(["-m", "seed=0,1,2,3"]) == 1
    assert [config.seed for config in ran] == [0, 1, 2, 3]
    out, err = capsys.readouterr()
    assert "2 of 4 jobs failed: 1, 2" in out
    assert "the loss is nan" in err
    assert "ValueError: oh" in err
    assert "Error executing job" not in err


def test_every_job_is_checked_before_the_first_starts(task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task()
    assert main(["-m", "optimizer=sgd,adamw", "optimizer.lr=0.1,-1", "schedule.warmup=2000,5%", "seed=x"]) == 2
    assert ran == []
    assert not Path("outputs").exists()
    err = capsys.readouterr().err
    assert err.startswith("lrflow: 3 problems in this sweep of 8 jobs\n\nin every job\n\n  seed = x\n")
    assert "job 3  optimizer=sgd optimizer.lr=-1 schedule.warmup=5%\n" in err
    for told_once in ("seed = x", "optimizer.lr = -1", "schedule.warmup = 2000 steps"):
        assert err.count(told_once) == 1


def test_a_problem_found_by_a_job_is_not_reported_for_the_sweep(task, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> dict[str, float]:
        if config.seed == 1:
            raise ConfigError([Problem("layers", "no parameter matches")])
        return {"test/accuracy": 0.5}

    ran = task(run)
    assert main(["-m", "seed=0,1,2"]) == 1
    assert len(ran) == 3
    err = capsys.readouterr().err
    assert "This job was not run." in err
    assert "Nothing was run." not in err


def test_unknown_options_of_a_sweep(task, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "optimizer=sgd,adamww"]) == 2
    assert "did you mean optimizer=adamw?" in capsys.readouterr().err


def test_a_trailing_comma_is_an_error(task, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "optimizer.lr=1e-3,1e-2,"]) == 2
    err = capsys.readouterr().err
    assert "the value ends with a comma" in err
    assert "optimizer.lr=1e-3,1e-2\n" in err


def test_a_guessed_mode_is_reported_once_per_sweep(task, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "trainer.checkpoint.monitor=val/accuracy", "optimizer.lr=1e-3,1e-2"]) == 0
    out = capsys.readouterr().out
    assert out.count("val/accuracy: assuming that higher is better, from its name.") == 1


def test_a_stopped_sweep_ends_and_reports_its_jobs(task, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> dict[str, float]:
        if config.seed == 1:
            raise StoppedError("stopped as asked after 3 steps", 143)
        return {"test/accuracy": 0.5}

    ran = task(run)
    with pytest.raises(SystemExit) as caught:
        main(["-m", "seed=0,1,2"])
    assert caught.value.code == 143
    assert len(ran) == 2
    out = capsys.readouterr().out
    assert "sweep of 3 jobs, of which 2 ran, in" in out
    assert "stopped" in out


def test_an_exit_of_a_job_is_a_failure_and_the_sweep_continues(task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task(lambda config: sys.exit(0) if config.seed == 1 else {"test/accuracy": 0.5})
    assert main(["-m", "seed=0,1,2"]) == 1
    assert len(ran) == 3
    assert "1 of 3 jobs failed: 1" in capsys.readouterr().out


def test_simultaneous_sweeps_have_separate_folders(task) -> None:
    ran = task()
    main(["-m", "seed=0,1"])
    main(["-m", "seed=0,1"])
    assert len({config.run_folder for config in ran}) == 4


def test_hydras_record_of_a_sweep_contains_no_secret(task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t-0123456789")
    task(name="plan")
    assert main(["-m", "task=plan", "against=${oc.env:WANDB_API_KEY}", "seed=0,1"]) == 0
    (kept,) = Path("outputs").rglob("multirun.yaml")
    assert "s3cr3t" not in kept.read_text()


def test_a_sweep_of_a_single_job(task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task()
    assert main(["-m", "seed=5"]) == 0
    assert [config.seed for config in ran] == [5]


def test_a_failure_in_a_launchers_process_is_reported_to_the_sweep(task, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = iter(range(1_000_000))
    monkeypatch.setattr("os.getpid", lambda: next(processes))

    def run(config: Config) -> None:
        raise LrflowError("the loss is nan")

    task(run)
    assert main(["-m", "seed=0,1"]) == 1


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["resume=last,outputs"], "resume"),
        (["resume.from=choice(a,b)"], "resume"),
        (["task=evaluate", "task.from=a,b"], "task.from"),
    ],
)
def test_the_run_to_resume_cannot_be_swept(
    words: list[str], key: str, task, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = task()
    assert main(["-m", *words]) == 2
    assert not ran
    err = capsys.readouterr().err
    assert f"  {key} = " in err
    assert "cannot be swept" in err


@pytest.mark.parametrize("words", [["optimizer.lr=0.1"], ["-m", "optimizer.lr=0.1,0.2"]], ids=" ".join)
def test_a_smoke_run_is_the_same_in_a_sweep(words: list[str], task, caplog: pytest.LogCaptureFixture) -> None:
    ran = task(lambda config: {"val/loss": 1.0, "folder": str(config.run_folder)})
    assert main([*words, "fast=true", "schedule.warmup=120"]) == 0
    assert {str(config.schedule.warmup) for config in ran} == {"30%"}, "120 of the 400 steps of the whole run"
    told = [record.getMessage() for record in caplog.records if record.name == "lrflow"]
    assert told == len(ran) * ["fast=true: the run is shorter, and so are schedule.warmup 120 -> 30%"], "one per job"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_two_modes_of_one_metric_are_an_error_in_a_sampled_sweep(
    mode: str, task, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = task(lambda config: {"val/accuracy": 0.5})
    words = ["trainer.checkpoint.monitor=val/accuracy", "trainer.checkpoint.mode=max", "optimizer.lr=1e-3,1e-2"]
    swept = ["hydra/sweeper=lrflow", "sweep.n_trials=2", "sweep.metric=val/accuracy", f"sweep.mode={mode}"]
    assert main(["-m", *swept, *words]) == (2 if mode == "min" else 0)
    assert len(ran) == (0 if mode == "min" else 2)
    message = "sweep.mode = min trainer.checkpoint.mode is max for the same metric, val/accuracy"
    assert (message in " ".join(capsys.readouterr().err.split())) == (mode == "min")


@pytest.mark.parametrize("words", [["optimizer.lr=1e-3,1e-2"], ["sweep=lr_random"]], ids=lambda words: words[0])
def test_an_unknown_setting_of_the_sweep_is_reported_as_typed(
    words: list[str], task, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "sweep.trials=2", *words]) == 2
    err = capsys.readouterr().err
    assert "did you mean sweep.n_trials?" in err
    assert "hydra" not in err
