from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from lrflow.working_copy import _state, git_state

COMMIT = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first"]


def test_the_commit_is_known_and_whether_the_code_differs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> dict[str, Any] | None:
        _state.cache_clear()
        return git_state(tmp_path)

    assert state() is None
    subprocess.run(["git", "init", "-q", "-b", "mine"], cwd=tmp_path, check=True)
    (tmp_path / "code.py").write_text("a = 1\n")
    assert state() == {"commit": None, "branch": "mine", "changed": False}
    for words in (["add", "code.py"], COMMIT):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    (tmp_path / "new.txt").touch()  # as run folders are
    assert state() == {"commit": commit, "branch": "mine", "changed": False}
    (tmp_path / "code.py").write_text("a = 2\n")
    assert state() == {"commit": commit, "branch": "mine", "changed": True}
    monkeypatch.setenv("PATH", "")
    assert state() is None
