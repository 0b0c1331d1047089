"""Checkpoint files are complete or absent, and only plain data and tensors are loaded."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lrflow.errors import LrflowError
from lrflow.runs import checkpoints_in, newest_checkpoint
from lrflow.training.checkpoint_file import (
    AtomicCheckpointIO,
    BrokenCheckpointError,
    find_damage,
    newest_whole_checkpoint,
    read_checkpoint,
)
from lrflow.training.resume import Resumed

CONTENT = {"state_dict": {"weight": torch.arange(300.0)}, "global_step": 3, "lrflow": {"names": ["a"], "lr": 0.1}}


def save(path: Path, content: Any = CONTENT) -> Path:
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def is_content(found: dict[str, Any]) -> bool:
    tensor = found["state_dict"].pop("weight")
    rest = {**CONTENT, "state_dict": {}}
    return found == rest and torch.equal(tensor, CONTENT["state_dict"]["weight"])


class TestWhole:
    def test_load_returns_what_was_saved(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a" / "b" / "step-0000003.ckpt")
        assert find_damage(path) is None
        assert is_content(AtomicCheckpointIO().load_checkpoint(path))
        assert is_content(read_checkpoint(path, mmap=True))
        assert os.listdir(path.parent) == ["step-0000003.ckpt"]

    def test_torch_loads_the_file(self, tmp_path: Path) -> None:
        path = save(tmp_path / "step-0000003.ckpt")
        assert is_content(torch.load(path, weights_only=True))
        assert zipfile.ZipFile(path).testzip() is None

    def test_a_file_saved_by_torch_loads(self, tmp_path: Path) -> None:
        torch.save(CONTENT, tmp_path / "plain.ckpt")
        assert is_content(read_checkpoint(tmp_path / "plain.ckpt"))

    def test_an_existing_file_is_replaced(self, tmp_path: Path) -> None:
        path = save(tmp_path / "x.ckpt", {"old": 1})
        assert is_content(read_checkpoint(save(path)))


class TestBroken:
    def test_any_flipped_bit_is_detected(self, tmp_path: Path) -> None:
        """Torch's zip checksums alone miss some flips and load another tensor (2.13)."""
        path = save(tmp_path / "step-0000003.ckpt", {"weight": torch.arange(6.0), "step": 3})
        whole = path.read_bytes()
        seal = len(whole) - 80
        for at in (*range(0, seal, 3), *range(seal, len(whole))):  # every byte of the seal counts equally
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            try:
                found = read_checkpoint(path)
            except BrokenCheckpointError:
                continue
            assert at >= seal
            assert found["step"] == 3
            assert torch.equal(found["weight"], torch.arange(6.0))

    @pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.95])
    def test_a_truncated_file_is_rejected(self, share: float, tmp_path: Path) -> None:
        whole = save(tmp_path / "step-0000001.ckpt")
        path = save(tmp_path / "step-0000002.ckpt")
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(BrokenCheckpointError) as caught:
            AtomicCheckpointIO().load_checkpoint(path)
        assert (
            str(caught.value) == f"{path}: is cut short, or no checkpoint at all\n    the newest whole one is {whole}"
        )

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "is an empty file"),
            (b"hello", "is cut short, or no checkpoint at all"),
            (b"PK\x03\x04" + bytes(5000), "is cut short, or no checkpoint at all"),
            (b"lrflow sha256 " + b"0" * 64, "is corrupted: its checksum does not match"),
            (b"lrflow sha256 " + b"\xff" * 64, "is corrupted: its checksum does not match"),
        ],
    )
    def test_other_files_are_rejected(self, data: bytes, reason: str, tmp_path: Path) -> None:
        path = tmp_path / "step-0000002.ckpt"
        path.write_bytes(data)
        for read in (AtomicCheckpointIO().load_checkpoint, Resumed.read):
            with pytest.raises(BrokenCheckpointError) as caught:
                read(path)
            assert str(caught.value) == f"{path}: {reason}\n    there is no whole one in its folder"

    def test_the_best_is_offered_where_no_other_is_whole(self, tmp_path: Path) -> None:
        best, path = save(tmp_path / "best.ckpt"), tmp_path / "step-0000002.ckpt"
        path.touch()
        with pytest.raises(BrokenCheckpointError, match=f"the newest whole one is {best}"):
            read_checkpoint(path)

    def test_another_archive_is_rejected(self, tmp_path: Path) -> None:
        path = tmp_path / "step-0000002.ckpt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "nothing")
        for read in (read_checkpoint, Resumed.read):
            with pytest.raises(BrokenCheckpointError, match="is no checkpoint"):
                read(path)

    def test_a_tensor_is_rejected(self, tmp_path: Path) -> None:
        torch.save(torch.ones(3), tmp_path / "x.ckpt")
        with pytest.raises(BrokenCheckpointError, match="is no checkpoint"):
            Resumed.read(tmp_path / "x.ckpt")

    def test_a_checkpoint_of_another_library_is_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(LrflowError, match="not a checkpoint of lrflow"):
            Resumed.read(save(tmp_path / "x.ckpt", {"state_dict": {}, "global_step": 3}))

    def test_a_missing_or_unreadable_file_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(BrokenCheckpointError, match="cannot be read: No such file"):
            read_checkpoint(tmp_path / "missing.ckpt")
        with pytest.raises(BrokenCheckpointError, match="cannot be read: Is a directory"):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize("weights_only", [True, False, None])
    def test_objects_are_never_unpickled(self, weights_only: bool | None, tmp_path: Path) -> None:
        class Harmful:
            def __reduce__(self) -> Any:
                return (os.mkdir, (str(tmp_path / "harm"),))

        for thing in (os.system, Path("x"), Harmful()):
            path = tmp_path / "step-0000002.ckpt"
            torch.save({"thing": thing}, path)
            for read in (
                read_checkpoint,
                Resumed.read,
                partial(AtomicCheckpointIO().load_checkpoint, weights_only=weights_only),
            ):
                with pytest.raises(BrokenCheckpointError, match="holds more than plain data and tensors"):
                    read(path)
        assert not (tmp_path / "harm").exists()


class TestFinding:
    def test_the_newest_whole_one(self, tmp_path: Path) -> None:
        for step in (1, 2, 3, 4):
            save(tmp_path / f"step-{step:07d}.ckpt")
        (tmp_path / "step-0000004.ckpt").write_bytes(b"")
        (tmp_path / "step-0000003.ckpt").write_bytes(b"PK")
        assert newest_whole_checkpoint(tmp_path) == tmp_path / "step-0000002.ckpt"
        assert newest_whole_checkpoint(tmp_path, except_for=tmp_path / "step-0000002.ckpt").name == "step-0000001.ckpt"
        assert newest_whole_checkpoint(tmp_path / "none") is None

    def test_steps_with_more_digits_than_the_name_sort_numerically(self, tmp_path: Path) -> None:
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        names = ["step-0000002.ckpt", "step-9999999.ckpt", "step-10000000.ckpt", "step-120000000.ckpt"]
        for name in names:
            (folder / name).touch()
        assert [path.name for path in checkpoints_in(folder)] == names
        assert newest_checkpoint(tmp_path) == folder / names[-1]


def in_another_process(work: Callable[[], None]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def size_of(path: Path) -> int:
    """Return the size of a file, which may no longer exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_killed_writer_leaves_only_whole_files(tmp_path: Path) -> None:
    path = save(tmp_path / "step-0000001.ckpt", {"step": 1})

    def write_on() -> None:
        content = {"step": 2, "big": torch.zeros(30_000_000)}
        while True:
            save(path, content)

    writer = in_another_process(write_on)
    deadline = time.monotonic() + 60
    while not any(size_of(part) > 1_000_000 for part in tmp_path.glob(".*.part")):
        assert time.monotonic() < deadline
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert read_checkpoint(path)["step"] in (1, 2)
    assert len(list(tmp_path.glob("*.ckpt"))) == 1


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_full_disk_leaves_no_partial_file(size: int, tmp_path: Path) -> None:
    path = save(tmp_path / "step-0000001.ckpt", {"step": 1})
    (tmp_path / f".step-0000001.ckpt.{os.getpid()}.part").symlink_to("/dev/full")  # writes there fail as on a full disk
    with pytest.raises(OSError, match="No space left on device"):
        save(path, {"step": 2, "big": torch.zeros(size)})
    assert os.listdir(tmp_path) == [path.name]
    assert read_checkpoint(path)["step"] == 1


def test_a_file_above_the_size_limit_leaves_no_partial_file(tmp_path: Path) -> None:
    path = save(tmp_path / "step-0000001.ckpt", {"step": 1})

    def write_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        with pytest.raises(OSError, match="File too large"):
            save(path, {"step": 2, "big": torch.zeros(1_000_000)})

    writer = in_another_process(write_too_much)
    writer.join()
    assert writer.exitcode == 0
    assert os.listdir(tmp_path) == [path.name]
    assert read_checkpoint(path)["step"] == 1
