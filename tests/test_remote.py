"""Run folders on remote file systems: what is uploaded, also after kills and failures, and runs that go on from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

import lrflow.remote
from lrflow.cli.command import main
from lrflow.errors import LrflowError
from lrflow.remote import Mirror, download, is_url, local_path, upload, url_of
from lrflow.runs import RunFolder
from lrflow.training.checkpoint_file import read_checkpoint

SMALL = ["trainer=cpu", "trainer.progress=false", "model.widths=[8]", "trainer.max_steps=12", "data.batch_size=128"]
SMALL += ["trainer.checkpoint.every=3 steps", "trainer.val_every=3 steps", "trainer.checkpoint.keep=2"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Any:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(lrflow.remote, "_mirrors", {})
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of the run folders."""
    return f"file://{tmp_path}/there/runs" if request.param == "file" else "memory://bucket/runs"


def contents(url: str) -> dict[str, bytes]:
    """Return the content of each remote file, by its path below the address."""
    system, home = fsspec.core.url_to_fs(url)
    return {path.removeprefix(f"{home}/"): system.cat_file(path) for path in system.find(home)}


def local(folder: Path) -> dict[str, bytes]:
    """Return the content of each local file that is no lock."""
    names = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("s3://bucket/runs", "remote_outputs/s3/bucket/runs"),
        ("file:///data/runs/", "remote_outputs/file/data/runs"),
        ("sftp://user@host:22/a", "remote_outputs/sftp/user@host:22/a"),
    ],
)
def test_the_path_tells_the_address(address: str, path: str) -> None:
    assert is_url(address)
    assert local_path(address) == path
    assert url_of(Path(path)) == address.rstrip("/")
    assert url_of(Path(path).resolve() / "RUN") == f"{address.rstrip('/')}/RUN"
    assert [url_of(Path(other)) for other in ("outputs/s3/x", "remote_outputs", "remote_outputs/s3")] == [None] * 3
    assert not any(map(is_url, ("outputs/x", "C:/x", "last")))


def test_a_run_is_uploaded_and_goes_on_elsewhere(url: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    assert main([*SMALL, f"output={url}", "trainer.max_steps=6"]) == 0
    (folder,) = (path for path in Path(local_path(url)).iterdir())
    assert f"uploaded to {url}/{folder.name}" in capsys.readouterr().out
    found = contents(f"{url}/{folder.name}")
    assert found == local(folder)
    assert {"summary.json", "config.yaml", "plan.json", "metrics.csv", "checkpoints/best.ckpt"} <= found.keys()

    monkeypatch.chdir(tmp_path)  # as on another machine
    before = set(found)
    assert main([f"resume={url}/{folder.name}", "trainer.max_steps=12", "resume.horizon=rescale"]) == 0
    found = contents(f"{url}/{folder.name}")
    assert found == local(Path(local_path(url)) / folder.name)
    assert json.loads(found["summary.json"])["steps"] == 12
    gone = before - found.keys()
    assert {f"checkpoints/step-{step:07d}.ckpt" for step in (3, 6)} == gone, "pruned there too"

    shutil.rmtree("remote_outputs")
    assert main(["task=evaluate", f"task.from={url}/{folder.name}", "task.weights=best"]) == 0
    assert "evaluations.json" in contents(f"{url}/{folder.name}"), "the record of the evaluation is uploaded"
    checkpoint = download(f"{url}/{folder.name}/checkpoints/step-0000012.ckpt", "resume")
    assert read_checkpoint(checkpoint)["global_step"] == 12
    shutil.rmtree("remote_outputs")
    assert lrflow.load(f"{url}/{folder.name}").metrics == json.loads(found["summary.json"])["metrics"]


def test_a_local_run_goes_on_in_its_own_folder_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert main([*SMALL, "trainer.max_steps=6"]) == 0
    (folder,) = Path("outputs").iterdir()
    more = [f"resume={folder}", "output=memory://bucket/runs", "trainer.max_steps=9", "resume.horizon=rescale"]
    assert main(more) == 0
    assert (
        f"{folder}: the run continues in its own folder, so it is not uploaded to memory://bucket/runs" in caplog.text
    )
    assert contents("memory://bucket/runs") == {}


def test_a_killed_run_goes_on_from_what_was_uploaded(tmp_path: Path, python: Callable[..., Any], same: Any) -> None:
    whole, killed = (f"file://{tmp_path}/{name}" for name in ("whole", "killed"))
    assert main([*SMALL, f"output={whole}"]) == 0
    code = (
        "import os, signal, sys; from lrflow.remote import Mirror; from lrflow.cli.command import main\n"
        "upload = Mirror._upload\n"
        "def dies(self, name):\n"
        "    if name.endswith('step-0000009.ckpt'):\n"
        "        self.system.put_file(str(self.path / name), f'{self.home}/checkpoints/.x.part')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    upload(self, name)\n"
        "Mirror._upload = dies\n"
        "main(sys.argv[1:])"
    )
    script = tmp_path / "dies.py"
    script.write_text(code)
    process = python(script, *SMALL, f"output={killed}", cwd=Path.cwd())
    _, err = process.communicate(timeout=240)
    assert process.returncode == -9, err
    (run,) = (tmp_path / "killed").iterdir()
    steps = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert steps == ["step-0000003.ckpt", "step-0000006.ckpt"]
    shutil.rmtree("remote_outputs")
    assert main([f"resume=file://{run}"]) == 0
    assert not list(run.rglob(".*.part")), "of the killed process"
    (other,) = (tmp_path / "whole").iterdir()
    names = {path.name for path in (other / "checkpoints").iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == names
    for name in names:
        one, two = (read_checkpoint(home / "checkpoints" / name) for home in (run, other))
        assert same(one["state_dict"], two["state_dict"])
        assert same(one["optimizer_states"], two["optimizer_states"])


def test_a_later_checkpoint_here_is_not_replaced(url: str, caplog: Any) -> None:
    folder = RunFolder(Path(local_path(f"{url}/RUN")))
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "step-0000003.ckpt").write_bytes(b"3")
    folder.plan.write_text("{}")
    assert upload(folder, must=True) == f"{url}/RUN"
    (folder.checkpoints / "step-0000006.ckpt").write_bytes(b"6")
    assert download(f"{url}/RUN", "resume") == folder.path
    assert sorted(os.listdir(folder.checkpoints)) == ["step-0000003.ckpt", "step-0000006.ckpt"]
    assert "has a later checkpoint" in caplog.text


def test_a_reader_never_sees_half_a_file(url: str, monkeypatch: Any) -> None:
    """Every file gets its name when it is whole, and what fails is tried again."""
    path = Path(local_path(f"{url}/RUN"))
    path.mkdir(parents=True)
    (path / "metrics.csv").write_bytes(b"old")
    mirror = Mirror(path.resolve(), f"{url}/RUN")
    mirror.update()
    (path / "metrics.csv").write_bytes(b"newer")
    system = type(mirror.system)
    put = system.put_file
    seen: list[bytes] = []

    def fails(self: Any, source: str, target: str, *given: Any, **options: Any) -> None:
        put(self, source, target, *given, **options)
        seen.append(contents(f"{url}/RUN")["metrics.csv"])
        raise OSError("the connection was lost")

    monkeypatch.setattr(system, "put_file", fails)
    with pytest.raises(OSError, match="lost"):
        mirror.update()
    assert seen == [b"old"]
    monkeypatch.undo()
    mirror.update()
    assert contents(f"{url}/RUN") == {"metrics.csv": b"newer"}


class Objects(MemoryFileSystem):
    """An object store: an upload is there as a whole, and nothing can be renamed."""

    protocol = "s3"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{str(path).removeprefix('s3://').strip('/')}".rstrip("/")

    def mv(self, *_: Any, **__: Any) -> None:
        raise AssertionError("to rename is to copy")


def test_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry, "s3", Objects)
    assert main([*SMALL, "output=s3://bucket/runs"]) == 0
    (folder,) = Path("remote_outputs/s3/bucket/runs").iterdir()
    found = contents(f"s3://bucket/runs/{folder.name}")
    assert found == local(folder)
    shutil.rmtree("remote_outputs")
    assert main(["task=evaluate", f"task.from=s3://bucket/runs/{folder.name}"]) == 0
    assert contents(f"s3://bucket/runs/{folder.name}").keys() == found.keys() | {"evaluations.json"}


def test_a_run_does_not_start_where_nothing_can_be_uploaded(monkeypatch: Any, capsys: Any, caplog: Any) -> None:
    def fails(*_: Any) -> None:
        raise PermissionError("no access to this bucket")

    monkeypatch.setattr(Mirror, "_upload", fails)
    assert main([*SMALL, "output=memory://bucket/runs"]) == 1
    told = capsys.readouterr()
    assert told.err.count("no access to this bucket") == 1
    assert "step 3" not in told.out
    folder = RunFolder(Path("remote_outputs/memory/bucket/runs/RUN"))
    folder.path.mkdir(parents=True)
    folder.plan.write_text("{}")
    upload(folder)
    upload(folder)
    assert caplog.text.count("could not be uploaded") == 1, "an outage is reported once"
    with pytest.raises(LrflowError, match="the run is in remote_outputs"):
        upload(folder, must=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["output=s4://bucket/x"], "fsspec knows no file system s4://"),
        (["output=memory://a/../b"], "without empty parts"),
        (["output=memory://"], "without empty parts"),
        (["output=file://runs/x"], "did you mean file:///"),
        (["resume=memory://bucket/none"], "there is no run folder with this address"),
        (["task=evaluate", "task.from=memory://bucket/none"], "there is no run folder with this address"),
        (["output=memory://bucket/runs", "resume=last"], "looks for runs in local folders"),
        (["output=memory://bucket/runs", "resume=auto"], "looks for runs in local folders"),
        (["-m", "output=memory://bucket/runs", "optimizer.lr=1,2"], "a sweep locks its files"),
        (["-m", "hydra.sweep.dir=memory://bucket/runs", "optimizer.lr=1,2"], "a sweep locks its files"),
        (["-m", "model.init_from=memory://bucket/run", "optimizer.lr=1,2"], "a sweep read only local files"),
        (["task=predict", "task.inputs=memory://bucket/x.csv"], "only local files are read here"),
        (["output=memory://me:hunter22@host/x"], "contains a password in plain text"),
    ],
)
def test_refused_before_the_run(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    found = capsys.readouterr()
    assert told in " ".join(found.err.split())
    assert "hunter22" not in found.err + found.out
    assert not list(Path().iterdir())


def test_a_file_may_not_send_a_run_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    Path("options/recipe").mkdir(parents=True)
    recipe = "# @package _global_\noutput: remote_outputs/s3/of-someone-else\n"
    Path("options/recipe/mine.yaml").write_text(recipe)
    assert main(["--config-dir", "options", "recipe=mine", "--cfg", "job"]) == 2
    assert "add output=... to the command line" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_beside_a_running_run_changes_nothing_of_it(url: str) -> None:
    """Only what changed since the download is uploaded, and an older copy does not replace a later run."""
    there, run = f"{url}/RUN", Path(local_path(f"{url}/RUN"))
    (run / "checkpoints").mkdir(parents=True)
    for name in ("plan.json", "metrics.csv", "checkpoints/step-0000003.ckpt", "checkpoints/best.ckpt"):
        (run / name).write_bytes(b"first")
    upload(RunFolder(run), must=True, starts=True)
    (run / "samples.png").write_bytes(b"not uploaded yet")
    lrflow.remote._mirrors.clear()
    assert download(there, "task.from") == run

    system, home = fsspec.core.url_to_fs(there)  # another machine goes on
    for name in ("metrics.csv", "checkpoints/step-0000006.ckpt", "checkpoints/best.ckpt"):
        system.pipe_file(f"{home}/{name}", b"later")
    (run / "evaluations.json").write_bytes(b"mine")
    upload(RunFolder(run), must=True)
    found = contents(there)
    assert (found["evaluations.json"], found["samples.png"]) == (b"mine", b"not uploaded yet")
    assert {found["metrics.csv"], found["checkpoints/best.ckpt"]} == {b"later"}

    lrflow.remote._mirrors.clear()
    with pytest.raises(LrflowError, match="has a later checkpoint, of step 6"):
        upload(RunFolder(run))
    assert contents(there) == found
    download(there, "resume")
    assert local(run) == found, "also where the size is the same"
