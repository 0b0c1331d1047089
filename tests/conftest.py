"""What all tests share: one thread, no network, and the real command line."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import cache
from importlib import metadata
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import copies
import pytest
import yaml
from hypothesis import settings

from lrflow import display

# Two OpenMP threads on a busy machine of two cores can be many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"

# What is written survives a kill without it, no test cuts the power, and each call waits for the disk.
os.fsync = lambda descriptor: None

# Each of Lightning's Trainers reads the metadata of all installed packages: most of the time that it takes to make one.
_entry_points = cache(lambda path, **of: entry_points(**of))
metadata.entry_points = lambda **of: _entry_points(tuple(sys.path), **of)

# How long an example takes says more of the machine than of the code.
settings.register_profile("lrflow", deadline=None)
settings.load_profile("lrflow")


gc.disable()  # until all is imported


def pytest_collection_finish() -> None:
    """Leave the imported modules out of garbage collections, which would look through them again and again."""
    gc.freeze()
    gc.set_threshold(5000, 20, 20)
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """All workers of pytest-xdist start their processes as copies of one, whose imports take as long as many tests."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        config.add_cleanup((until_the_end := ExitStack()).close)
        folder = until_the_end.enter_context(tempfile.TemporaryDirectory())
        until_the_end.enter_context(copies.ready(Path(folder)))


def pytest_unconfigure() -> None:
    """Leave all out of the garbage collections that pytest ends with, which take seconds after thousands of tests."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Each worker knows where."""
    node.workerinput["copies"] = copies.Process.address


@pytest.fixture(scope="session")
def python(request: pytest.FixtureRequest) -> Iterator[Callable[..., copies.Process]]:
    """Starts `python ARGUMENTS` in the folder `cwd`; further keyword arguments become environment."""

    def start(
        *arguments: str | Path, cwd: Path, leads: bool = False, stdout: int | None = None, **environment: str
    ) -> copies.Process:
        return copies.Process(arguments, cwd, {**os.environ, **environment}, True, leads, stdout)

    if workerinput := getattr(request.config, "workerinput", None):
        copies.Process.address = workerinput["copies"]
        yield start
    else:
        with tempfile.TemporaryDirectory() as folder, copies.ready(Path(folder)):
            yield start


@pytest.fixture
def lrflow(python: Callable[..., copies.Process], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m lrflow ARGS` as a user would, by default in an empty folder."""

    def run(*arguments: str, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        process = python("-m", "lrflow", *arguments, cwd=cwd, **environment)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run


@pytest.fixture
def lrflow_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`python -m lrflow ARGS` in an empty folder, without the seconds that a process of its own takes to import."""
    from hydra.core.hydra_config import HydraConfig

    from lrflow.cli import main

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(list(arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which main sets
    yield run
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def _compose_once() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Hydra's two steps of a composition: those of `options_composed_once` where all options are shipped ones."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl, create_defaults_list

    from lrflow.config.composition.compose import options_composed_once

    compose = ConfigLoaderImpl._compose_config_from_defaults_list
    with options_composed_once():
        from hydra._internal import config_loader_impl

        list_once, compose_once = (
            config_loader_impl.create_defaults_list,
            ConfigLoaderImpl._compose_config_from_defaults_list,
        )

    def files(repo: Any) -> bool:
        return any(source.scheme() == "file" for source in repo.get_sources())

    def list_options(repo: Any, *args: Any, **kwargs: Any) -> Any:
        return (create_defaults_list if files(repo) else list_once)(repo, *args, **kwargs)

    def compose_options(self: Any, defaults: Any, repo: Any) -> Any:
        return (compose if files(repo) else compose_once)(self, defaults, repo)

    return list_options, compose_options


@pytest.fixture(autouse=True)
def _no_handlers_of_hydra_left() -> Iterator[None]:
    """The handlers that a command adds would write to the closed output of its test; `hydra.verbose` sets the level."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in list(root.handlers):
        if type(handler) in (logging.StreamHandler, logging.FileHandler):
            root.removeHandler(handler)


@pytest.fixture
def composed_anew() -> None:
    """Hydra reads all options again for each composition of this test, which changes what they are."""


@pytest.fixture(autouse=True)
def _options_composed_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read each combination of shipped options once per process, which saves time."""
    if "composition" not in request.path.stem and "composed_anew" not in request.fixturenames:
        from hydra._internal import config_loader_impl

        list_options, compose = request.getfixturevalue("_compose_once")
        monkeypatch.setattr(config_loader_impl, "create_defaults_list", list_options)
        monkeypatch.setattr(config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)


_render = display.render
display.render = lambda figure, file, kind: file.write(b"not rendered")


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of this test are rendered; those of others in this process are not, which saves time."""
    monkeypatch.setattr(display, "render", _render)


@pytest.fixture
def paged() -> None:
    """Runs of this test write their pages in this process; those of others do not, which saves time."""


@pytest.fixture(autouse=True)
def _without_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "paged" not in request.fixturenames and (module := sys.modules.get("lrflow.tasks.run_record")):
        monkeypatch.setattr(module, "_write_page", lambda folder: False)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are not drawn in this process, which takes as long as a small run."""
    monkeypatch.setattr("lrflow.plan.serialization.plot", lambda plan, path: path.touch() or path)


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Tells whether two nests of plain data, arrays and tensors are equal, bit for bit."""
    import numpy as np
    import torch

    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, torch.Tensor):
            return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        if isinstance(one, np.ndarray):
            return type(one) is type(other) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(equal, one, other))
        return type(one) is type(other) and bool(one == other)

    return equal


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes the run folder of a trial, as a run would have: `sweep/NUMBER/`, and gives `sweep/`."""

    def make(
        number: int | str,
        overrides: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        status: str | None = "finished",
        losses: Sequence[float] = (2.0, 1.0),
        choices: Mapping[str, str] | None = None,
        found: Sequence[str] = (),
        **facts: object,
    ) -> Path:
        folder = tmp_path / "sweep" / str(number)
        folder.mkdir(parents=True)
        config = {
            "optimizer": {"lr": 0.001},
            "trainer": {"checkpoint": {"monitor": "val/loss"}},
            "lrflow": {"choices": {"optimizer": "adamw", **(choices or {})}, "overrides": list(overrides)},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        rows = [f"{step},{loss}" for step, loss in enumerate(losses)]
        (folder / "metrics.csv").write_text("\n".join(["step,train/loss", *rows, ""]))
        if status is not None:
            summary = {"status": status, "steps": 60, "seconds": 1.5, **facts, "metrics": dict(metrics or {})}
            (folder / "summary.json").write_text(json.dumps(summary))
        if found:
            (folder / "findings.jsonl").write_text("".join(f'{{"kind": "{kind}", "step": 9}}\n' for kind in found))
        return folder.parent

    return make
