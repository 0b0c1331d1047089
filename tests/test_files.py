"""Files are whole whatever happens, and a lock is held by one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lrflow.files import LockedError, copy_whole, did_you_mean_path, expanded, holder, lock, write_whole

FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("data", ["größe\r\n", "größe\r\n".encode(), lambda file: file.write("größe\r\n".encode())])
def test_text_bytes_and_a_writer_are_the_same(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("earlier, and longer than what comes")
    assert write_whole(path, data) == path
    assert path.read_bytes() == "größe\r\n".encode()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("copied", [False, True])
def test_the_content_is_on_the_disk_before_it_gets_the_name(
    copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut can leave the new name with an empty file; the name itself is synced after it."""
    path, source, done = tmp_path / "file", tmp_path / "source", []
    path.write_text("earlier")
    source.write_text("new")
    fsync, replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        what = Path(f"/proc/self/fd/{descriptor}").resolve()
        done.append(("sync", "folder" if what.is_dir() else what.read_text(), path.read_text()))
        fsync(descriptor)

    def rename(one: Any, other: Any) -> None:
        done.append(("rename", Path(one).read_text(), path.read_text()))
        replace(one, other)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    if copied:
        copy_whole(source, path)
    else:
        write_whole(path, "new")
    assert done == [("sync", "new", "earlier"), ("rename", "new", "earlier"), ("sync", "folder", "new")]


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "file"
    source.write_bytes(b"content" * 1000)
    assert copy_whole(source, path).read_bytes() == source.read_bytes()
    with source.open("r+b") as file:
        file.truncate(3)
    assert path.read_bytes() == b"content" * 1000
    assert sorted(os.listdir(tmp_path)) == ["file", "source"]


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_earlier_file_and_nothing_else(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("earlier")
    if failing != "write":
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left") as raised:
        write_whole(path, fail if failing == "write" else "new")
    assert raised.value.filename == str(path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "earlier"


def test_one_process_holds_a_lock_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert holder(path) is None
    assert not path.exists(), "asking makes no file"
    with lock(path, wait=False):
        assert holder(path) == str(os.getpid())
        with pytest.raises(LockedError) as refused, lock(path, wait=False):
            pass
        assert refused.value.holder == str(os.getpid())
    assert holder(path) is None
    with lock(path, wait=False):
        pass


def hold(path: Path, workers: Any, ready: Any) -> None:
    with lock(path, wait=False):
        worker = FORK.Process(target=time.sleep, args=(60,))
        worker.start()
        workers.put(worker.pid)
        ready.set()
        time.sleep(60)


def test_a_killed_process_lets_go_of_its_lock_though_its_workers_live(tmp_path: Path) -> None:
    path, workers, ready = tmp_path / ".lock", FORK.Queue(), FORK.Event()
    process = FORK.Process(target=hold, args=(path, workers, ready))
    process.start()
    assert ready.wait(30)
    worker = workers.get(timeout=30)
    try:
        assert holder(path) == str(process.pid)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        os.kill(worker, 0)  # it lives
        assert holder(path) is None
        with lock(path, wait=False):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def count_up(path: Path, times: int) -> None:
    for _ in range(times):
        with lock(path.with_suffix(".lock")):
            value = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(value + 1))


def test_waiting_processes_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    processes = [FORK.Process(target=count_up, args=(path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "60"


def test_a_hint_is_not_the_path_itself_and_tells_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "old").symlink_to("gone")
    hints = {name: did_you_mean_path(tmp_path / name) for name in ("notes", "note", "circle", "old")}
    assert hints == {
        "notes": f"known: {', '.join(str(one) for one in tmp_path.glob('*') if one.name != 'notes')}",
        "note": f"did you mean {tmp_path / 'notes'}?",
        "circle": "it is a link to circle, which leads nowhere",
        "old": "it is a link to gone, which leads nowhere",
    }
    assert expanded("~nobody-there/x") == Path("~nobody-there/x")


@pytest.mark.parametrize("name", ["folder", "missing/file"])
def test_an_error_names_the_file_that_was_to_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=name) as raised:
        write_whole(tmp_path / name, "x")
    assert raised.value.filename == str(tmp_path / name)
    assert ".part" not in str(raised.value)
