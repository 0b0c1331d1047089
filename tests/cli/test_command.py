from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

from lrflow import stops
from lrflow.cli import command, main
from lrflow.cli.jobs import run_job
from lrflow.config import Config, compose, save_config
from lrflow.errors import ConfigError, LrflowError, Problem, StoppedError


def test_a_valid_config_is_run(task) -> None:
    ran = task()
    assert main(["optimizer=sgd", "+optimizer.lr=0.5"]) == 0
    (config,) = ran
    assert config.optimizer.lr == 0.5
    assert config.choices["optimizer"] == "sgd"
    assert config.overrides == ["optimizer=sgd", "optimizer.lr=0.5"]
    assert config.run_folder is None
    assert list(Path.cwd().iterdir()) == []  # folders are the task's affair


def test_an_invalid_config_is_not_run(task, capsys: pytest.CaptureFixture[str]) -> None:
    ran = task()
    assert main(["optimizer.lrr=1", "optimizer.lr=abc"]) == 2
    assert ran == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "lrflow: 2 problems\n"
        "\n"
        "  optimizer.lr = abc\n"
        "      expected a number above 0 and at most 1000\n"
        "\n"
        "  optimizer.lrr = 1\n"
        "      torch.optim.AdamW takes no lrr\n"
        "      did you mean optimizer.lr?\n"
        "\n"
        "Nothing was run. See --help for the options and --cfg job for the whole config.\n"
    )


def test_with_lrflow_debug_the_traceback_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRFLOW_DEBUG", "1")
    assert main(["optimizer.lrr=1"]) == 2
    assert "Traceback" in capsys.readouterr().err


def fail(error: BaseException):
    def run(config: Config) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LrflowError("the disk is full"), 1, "lrflow: the disk is full\n"),
        (ConfigError([Problem("data.root", "there is no such folder", "x")]), 2, "data.root = x"),
        (ValueError("shapes differ"), 1, "lrflow: ValueError: shapes differ\n"),
        (KeyboardInterrupt(), 130, "lrflow: interrupted\n"),
    ],
)
def test_exit_codes_and_messages_of_failed_runs(
    error: BaseException, code: int, said: str, task, capsys: pytest.CaptureFixture[str]
) -> None:
    task(fail(error))
    assert main([]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("code", [0, None, 143])
def test_an_exit_within_a_run_is_a_failure(code: int | None, task, capsys: pytest.CaptureFixture[str]) -> None:
    task(fail(SystemExit(code)))
    assert main([]) == 1
    assert "lrflow: SystemExit" in capsys.readouterr().err


@pytest.mark.parametrize("number", stops.SIGNALS)
@pytest.mark.parametrize("swept", [False, True])
def test_a_signal_anywhere_in_a_job_is_a_stop(
    number: signal.Signals, swept: bool, task, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where Lightning makes an exit of it, which would say that all went well."""
    before = signal.getsignal(number)

    def run(config: Config) -> None:
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            sys.exit(0)

    ran = task(run)
    if swept:
        with pytest.raises(SystemExit) as caught:
            main(["-m", "seed=0,1"])
        assert caught.value.code == 128 + number
    else:
        assert main([]) == 128 + number
    assert len(ran) == 1
    out, err = capsys.readouterr()
    assert f"lrflow: {stops.stopped_by(number)}" in err
    assert ("sweep of 2 jobs, of which 1 ran" in out) == swept
    assert signal.getsignal(number) is before


def test_a_signal_that_ends_in_an_error_of_a_value_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As within OmegaConf, which cleans up in a `finally` that can fail."""

    def composed(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            raise ConfigError([Problem("optimizer", "cannot be set")])

    monkeypatch.setattr(command, "_check_and_run", composed)
    assert main([]) == 128 + signal.SIGUSR1


def test_a_failure_in_user_code_shows_the_users_lines(
    task, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_model.py").write_text("import json\n\ndef forward(x):\n    return json.loads(x)  # oh\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import their_model

    task(lambda config: their_model.forward("{"))
    assert main([]) == 1
    err = capsys.readouterr().err
    assert "  their_model.py:4 in forward\n      return json.loads(x)  # oh\n" in err
    assert "json/decoder.py" not in err
    assert "LRFLOW_DEBUG=1" in err


def test_a_secret_in_a_failure_is_not_shown(
    task, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t-0123456789")
    task(fail(ValueError("bad key s3cr3t-0123456789")))
    assert main([]) == 1
    assert "bad key ***" in capsys.readouterr().err
    monkeypatch.setenv("LRFLOW_DEBUG", "1")
    assert main([]) == 1
    assert "s3cr3t" not in capsys.readouterr().err


def test_a_value_under_a_secrets_name_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIN", "hunter-22")  # neither a secret's name nor a secret in the clear
    assert main(["optimizer.api_key=${oc.env:PLAIN}"]) == 2
    err = capsys.readouterr().err
    assert "optimizer.api_key = ***" in err
    assert "hunter-22" not in err
    assert main(["optimizer.api_key=${name}", "name=hunter-23"]) == 2  # known only by the name of the other key
    err = capsys.readouterr().err
    assert "optimizer.api_key = ***" in err
    assert "hunter-23" not in err


def test_trust_reaches_the_task_and_its_children(task, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = task(lambda config: {"trust": os.environ["LRFLOW_TRUST"]})
    assert main(["trust=ours", "seed=1"]) == 0
    assert ran[0].overrides == ["seed=1"]
    assert os.environ["LRFLOW_TRUST"] == "ours"


def test_sys_argv_is_restored(task) -> None:
    task()
    before = list(sys.argv)
    main(["seed=1"])
    assert sys.argv == before


class TestFurtherProcess:
    """A process that Lightning starts beside the first takes its config from the run folder."""

    @pytest.fixture(autouse=True)
    def saved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
        config = compose(["optimizer=sgd", "optimizer.lr=0.25"])
        save_config(config, tmp_path / "config.yaml")
        monkeypatch.setenv("LRFLOW_RUN_FOLDER", str(tmp_path))
        return config

    def test_a_further_process_runs_the_same_job(self, saved: Config, task, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "1")
        ran = task()
        assert main(["nonsense", "optimizer.lr=3", "hydra.run.dir=x"]) == 0
        assert ran == [saved]
        assert ran[0].choices == saved.choices

    @pytest.mark.parametrize("rank", ["0", None])
    def test_the_first_process_reads_the_command_line(
        self, rank: str | None, task, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if rank is not None:
            monkeypatch.setenv("LOCAL_RANK", rank)
        ran = task()
        assert main(["optimizer.lr=3"]) == 0
        assert ran[0].optimizer.lr == 3


class TestShow:
    def test_cfg_job(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--cfg", "job", "optimizer=sgd"]) == 0
        shown = OmegaConf.create(capsys.readouterr().out)
        assert shown.optimizer._target_ == "torch.optim.SGD"
        assert "hydra" not in shown
        assert "${data.facts.shape}" in str(OmegaConf.to_container(shown))

    def test_package_prints_a_resolved_part(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--cfg", "job", "--package", "model.shape", "--resolve"]) == 0
        assert capsys.readouterr().out == "- 1\n- 8\n- 8\n"
        assert main(["--cfg", "job", "-p", "seed"]) == 0
        assert capsys.readouterr().out == "0\n"
        assert main(["--cfg", "job", "-p", "nope"]) == 2

    def test_an_invalid_config_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--cfg", "job", "optimizer.lr=-1"]) == 2
        out, err = capsys.readouterr()
        assert "lr: -1" in out
        assert "optimizer.lr = -1" in err

    def test_secrets_stay_hidden(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "s3cr3t-0123456789")
        assert main(["--cfg", "job", "--resolve", "task=plan", "against=${oc.env:WANDB_API_KEY}"]) == 0
        assert "against: '***'" in capsys.readouterr().out

    def test_hydras_part(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--cfg", "hydra"]) == 0
        assert list(OmegaConf.create(capsys.readouterr().out)) == ["hydra"]

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.startswith("lrflow 0.")

    def test_completion(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        for line, answer in {
            "lrflow optimizer=sg": "optimizer=sgd\n",
            "lrflow recipe=cn": "recipe=cnn\n",
        }.items():
            monkeypatch.setenv("COMP_LINE", line)
            monkeypatch.setenv("COMP_POINT", str(len(line)))
            assert main(["-sc", "query=bash"]) == 0
            assert capsys.readouterr().out == answer

    def test_completion_of_nonsense_is_silent(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COMP_LINE", "lrflow foo=((")
        assert main(["-sc", "query=bash"]) == 0
        assert [text.strip() for text in capsys.readouterr()] == ["", ""]


def test_problems_found_by_a_task_have_file_and_line(task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/mine.yaml").write_text("# @package _global_\nseed: 3\noptimizer:\n  lr: 0.1\n")
    wrong = [Problem("optimizer.lr", "is too high", 0.1), Problem("seed", "is odd", 4)]
    task(fail(ConfigError(wrong)))
    assert main(["--config-dir", "conf", "recipe=mine", "seed=4"]) == 2
    err = capsys.readouterr().err
    assert "  optimizer.lr = 0.1\n      is too high\n      conf/recipe/mine.yaml:4\n" in err
    assert "  seed = 4\n      is odd\n\n" in err  # the command line's, not the recipe's


@pytest.mark.parametrize(("rank", "told"), [(0, 1), (1, 0)])
def test_only_the_first_process_reports_the_stop(
    rank: int, told: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(config: Any) -> Any:
        raise StoppedError("stopped as asked after 5 steps", 130)

    monkeypatch.setattr("lrflow.cli.jobs.run_task", stop)
    monkeypatch.setattr("lrflow.launch.rank", lambda: rank)
    trained_with = sys.modules.get("pytorch_lightning", ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, "pytorch_lightning", trained_with)
    assert run_job(compose([])).exit_code == 130
    assert "".join(capfd.readouterr()).count("stopped as asked") == told
