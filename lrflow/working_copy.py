"""The commit of the user's code with which a run starts."""

from __future__ import annotations

import os
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

_SECONDS = 10  # for which the runs of one process share an answer
_PATIENCE = 2.0  # seconds for which git may work


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Return the commit, the branch and whether tracked files differ from the commit; None: unknown, as without git.

    Args:
        folder: of the code; None: the working directory.
    """
    return _state(os.path.abspath(folder or "."), time.monotonic() // _SECONDS)


@lru_cache(maxsize=4)
def _state(folder: str, _window: float) -> dict[str, Any] | None:
    # A repository's own settings may name a program for `status` to run; this one does not run it.
    command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or a very large one
        return None
    lines = done.stdout.decode(errors="replace").splitlines()
    head = dict(line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = head.get("oid"), head.get("head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "changed": any(not line.startswith("#") for line in lines),
    }
