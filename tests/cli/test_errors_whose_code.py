"""Each wrong input ends in a message that names its key or file; only the user's own code is called the user's code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lrflow import files
from lrflow.cli import main
from lrflow.cli.errors import show_problems
from lrflow.config.failures import MachineError, failure
from lrflow.errors import ConfigError, Problem

LINEAR = ["model=custom", "model._target_=torch.nn.Linear", "model.loss=cross_entropy", "model.out_features=10"]
LONG, DIGITS, DEEP = "a" * 300, "9" * 5000, "[" * 500 + "]" * 500

# words -> exit code and a fragment of what is said
TABLE: dict[str, tuple[list[str], int, str]] = {
    "betas of three": (["optimizer.betas=[0.9,0.99,0.999]"], 2, "optimizer.betas = [0.9, 0.99, 0.999]"),
    "outputs": (["model.outputs=5"], 2, "the data have 10 classes"),
    "shape": (["model.shape=[3,8,8]"], 2, "the inputs of the data have the shape [1, 8, 8]"),
    "shape of a CNN": (["model=cnn", "model.shape=[1,9,9]"], 2, "model.shape = [1, 9, 9]"),
    "type of an argument": ([*LINEAR, "model.in_features=abc"], 2, "model.in_features = abc"),
    "value of an argument": ([*LINEAR, "model.in_features=-64"], 2, "model.in_features = -64"),
    "device of an argument": ([*LINEAR, "model.in_features=64", "model.device=gpux"], 2, "model.device = gpux"),
    "count of arguments": ([*LINEAR[:3], "+model._args_=[64,10,true,1,2,3,4]"], 2, "cannot be built"),
    "memory": (["model.widths=[99999999999999]"], 2, "there is not enough memory"),
    "model and data": ([*LINEAR, "model.in_features=64"], 1, "in the model; the batch is float32 [64, 1, 8, 8], int64"),
    "TensorBoard": (["logger=tensorboard", "logger.tensorboard.foo=1"], 2, "logger.tensorboard.foo = 1"),
    "W&B's key": (["logger=wandb", "logger.wandb.mode=online"], 2, "needs an API key"),
    "digits": ([f"seed={DIGITS}"], 2, "(4300 digits)"),
    "brackets": ([f"model.widths={DEEP}"], 2, "nested more than 40 levels deep"),
    "open brackets": (["model.widths=" + "[" * 500], 2, "cannot be parsed"),
    "package": (["--cfg", "job", "-p", "a[b"], 2, "not a key of the config"),
    "long name": ([f"name={LONG}"], 2, "at most 200 bytes"),
    "long folder": ([f"output={LONG}"], 2, "File name too long"),
    "long run": ([f"resume={LONG}"], 2, "expected `last`, an existing run folder"),
    "long evaluation": (["task=evaluate", f"task.from={LONG}"], 2, "task.from = aaa"),
    "long analysis": (["task=analyze", f"task.from={LONG}"], 2, "there is no such folder"),
    "long options": (["--config-dir", LONG], 2, "there is no such folder"),
    "long plan": (["task=plan", f"against={LONG}"], 2, "against = aaa"),
    "long weights": ([f"model.init_from={LONG}"], 2, "model.init_from = aaa"),
    "slash": (["name=a/b"], 2, "name = a/b"),
    "line": (["name='a\nb'"], 2, "name = a b"),
    "NUL": (["name=a\0b"], 2, "holds NUL"),
    "bytes": (["name=\udcff"], 2, "no text in UTF-8"),
    "bytes in a flag": (["--config-dir", "\udcff"], 2, "there is no such folder"),
    "file as a folder": (["output=/dev/null"], 2, "cannot create a run folder there: Not a directory"),
    "verbosity": (["hydra.verbose=5"], 2, "hydra.verbose = 5"),
    "no jobs": (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0", "seed=1,2"], 2, "n_jobs = 0"),
    "file as a job's folder": (["output=/dev/null", "resume=auto"], 2, "cannot create this folder: File exists"),
    "jobs without end": (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=9999", "seed=1,2"], 2, "at most 256"),
    "nodes": (["trainer.num_nodes=2"], 2, "set MASTER_ADDR, MASTER_PORT, NODE_RANK, which is not set here"),
}  # fmt: skip
DEBUGGING = ("a problem in your code", "No code of yours", "Traceback", "LRFLOW_DEBUG")


@pytest.mark.parametrize(("words", "code", "said"), TABLE.values(), ids=TABLE)
def test_a_wrong_input_is_told_in_words(
    words: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_API_KEY", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    assert main([*words, "fast=true"] if words[0][0] != "-" else words) == code
    err = capsys.readouterr().err
    assert said in " ".join(err.split())
    assert not [text for text in DEBUGGING if text in err]


def test_what_a_job_only_knows_later_stays_in_a_printed_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "all", "--resolve"]) == 0
    out = capsys.readouterr().out
    assert "subdir: ${hydra.job.num}" in out
    assert "shape:\n  - 1\n  - 8\n  - 8\n" in out  # model.shape, which refers to the data


NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.head = torch.nn.Linear(63 if width == 63 else 64, 10)
        if width < 0:
            raise ValueError("no such width")
    def forward(self, inputs):
        if self.head.in_features == 63:
            return self.head(inputs.flatten(1))
        return self.head(inputs.shape.nonsense)
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "theirs.py:12 in forward"),
        ("model.width=-1", "theirs.py:8 in __init__"),
        ("model.width=63", "in its layer head (Linear); the batch is float32 [64, 1, 8, 8], int64 [64]"),
    ],
)
def test_the_users_own_code_is_named_with_its_line(
    more: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("theirs.py").write_text(NET)
    monkeypatch.setenv("LRFLOW_TRUST", "theirs")
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    words = [
        "model=custom",
        "model._target_=theirs.Net",
        "model.loss=cross_entropy",
        "fast=true",
        *filter(None, [more]),
    ]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert said in " ".join(err.split())
    assert "This is a bug or a problem in your code" in err


def test_a_problem_of_a_mapping_shows_no_secret_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_problems(ConfigError([Problem("model.x", "there is no such key", {"a": [{"db_pass": "hunter2"}], "n": 1})]))
    assert "model.x = {a: [{db_pass: ***}], n: 1}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "whole",
    [
        "python -m lrflow resume=outputs/2026-12-01_13-25-52_mlp-digits-adamw-cosine trust=my_pkg,odd",
        "python -m lrflow task=analyze 'task.from=my runs; all, of them/with a long name' task.trial=2",
        "pip install 'lrflow[optimizers,sweep,vision,text,rl]' another-package-with-a-long-name",
    ],
)
def test_a_command_in_a_hint_stays_whole_at_any_width(
    whole: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    hint = f"if you know what you do, this is a way to go on: {whole}; otherwise take schedule.warmup='12 epochs'"
    show_problems(ConfigError([Problem("model.x", "a message that is longer than one line of the terminal", 1, hint)]))
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert whole in lines
    assert any("schedule.warmup='12 epochs'" in line for line in lines)
    assert all(len(line) <= 50 for line in lines[: lines.index(whole)])


FAULT = """
def write(path, *arguments):
    if path.name == last:
        raise OSError(code, os.strerror(code), str(path))
    return whole(path, *arguments)
"""


@pytest.mark.parametrize(
    ("code", "last", "said"),
    [
        (
            errno.ENOSPC,
            "config.yaml",
            "there is no space left on the disk\n    free some space, or write to another disk",
        ),
        (errno.EMFILE, "environment.json", "this process has too many open files\n    raise the limit, such as with"),
        (errno.EROFS, "summary.json", "the disk is read-only"),
    ],
)
def test_a_fault_of_the_disk_is_told_in_words(
    code: int, last: str, said: str, undrawn: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"os": os, "code": code, "last": last, "whole": files.write_whole}
    exec(compile(FAULT, "<a disk>", "exec"), names)  # so that no file of the user's shows in the traceback
    for module in ("lrflow.files", "lrflow.config.saved"):
        monkeypatch.setattr(f"{module}.write_whole", names["write"])
    assert main(["fast=true"]) == 1
    err = capsys.readouterr().err
    assert f"{last}: {said}" in err
    assert not [text for text in DEBUGGING if text in err]


def raised(error: BaseException) -> BaseException:
    """The error after it was raised here, which lies in no user's code of a real run."""
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), "x: your quota of the disk is used up"),
        (RuntimeError("[Errno 24] Too many open files"), "this process has too many open files"),
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "not enough memory: 2.00 GiB were asked for"),
        (
            RuntimeError("[/gloo/unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation to complete"),
            "another process of this run does not answer: Timed out waiting",
        ),
        ("é".encode, "the text \\xe9 cannot be written as ascii"),
    ],
)
def test_failures_of_the_machine(
    error: BaseException | Callable[..., bytes], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrflow.config.failures.users_frames", lambda error: [])
    if not isinstance(error, BaseException):
        with pytest.raises(UnicodeEncodeError) as caught:
            error("ascii")
        error = caught.value
    explained = failure(raised(error))
    assert isinstance(explained, MachineError)
    assert said in str(explained)
    assert explained.__cause__ is error


def test_a_fault_after_a_missing_file_was_handled_is_not_put_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrflow.config.failures.users_frames", lambda error: [])
    fault = KeyError("a fault of lrflow's")
    fault.__context__ = FileNotFoundError(errno.ENOENT, "No such file or directory", "x")
    assert failure(raised(fault)) is fault
    fault.__context__ = OSError(errno.ENOSPC, "No space left on device", "x")
    assert "no space left" in str(failure(raised(fault)))


def test_a_failure_of_unknown_origin_is_not_put_on_the_user(
    task: Callable[..., object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: object) -> None:
        raise KeyError("a fault of lrflow's")

    monkeypatch.setattr("lrflow.cli.errors.users_frames", lambda error: [])
    monkeypatch.setattr("lrflow.config.failures.users_frames", lambda error: [])
    task(run)
    assert main([]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "No code of yours is involved, raised at" in err
    assert "please report it" in err
